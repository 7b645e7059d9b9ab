-- herald's schema for one file and one process. The way of an event: events + outbox (the
-- producer's transaction) → feed (the relay's order) → deliveries (the ledger, one row a sink,
-- event and recipient). Another client of the file emits with plain INSERTs into events and outbox.
--
-- Times are text, RFC 3339 in UTC with six digits of a second, so that they sort as they are. An
-- INSERT without a time gets SQLite's own clock, which counts milliseconds.

-- The record. Never updated. What herald could not read back is refused here: it would stop the
-- feed for everyone.
CREATE TABLE events (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id        TEXT NOT NULL UNIQUE
                    CHECK (length(CAST(event_id AS BLOB)) = 26
                           AND event_id GLOB '[0-7]*'
                           AND event_id NOT GLOB '*[^0-9A-HJKMNP-TV-Z]*'),
    tenant_id       TEXT NOT NULL
                    CHECK (length(CAST(tenant_id AS BLOB)) BETWEEN 1 AND 128
                           AND tenant_id NOT GLOB '*[' || char(1) || '-' || char(31, 127) || ']*'
                           AND instr(CAST(tenant_id AS BLOB), x'00') = 0
                           AND tenant_id = trim(tenant_id)),
    type            TEXT NOT NULL
                    CHECK (length(CAST(type AS BLOB)) BETWEEN 1 AND 128
                           AND type NOT GLOB '*[' || char(1) || '-' || char(32, 127) || ',*]*'
                           AND instr(CAST(type AS BLOB), x'00') = 0),
    payload         TEXT NOT NULL
                    CHECK (json_valid(payload) AND instr(CAST(payload AS BLOB), x'00') = 0),
    metadata        TEXT
                    CHECK (json_valid(metadata) AND instr(CAST(metadata AS BLOB), x'00') = 0),
    idempotency_key TEXT CHECK (length(CAST(idempotency_key AS BLOB)) BETWEEN 1 AND 300),
    created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000Z')
                    CHECK (substr(created_at, 1, 19)
                               = strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19))
                           AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z')
) STRICT;
CREATE UNIQUE INDEX events_idempotency ON events (tenant_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- What waits for the relay. A row lives until it is in the feed, so count(*) is the backlog.
CREATE TABLE outbox (
    aggregate_id INTEGER PRIMARY KEY REFERENCES events (id) ON DELETE CASCADE,
    event_id     TEXT NOT NULL
) STRICT;

-- The one order: dense, 1, 2, 3 … in the order of the commits.
CREATE TABLE feed (
    seq          INTEGER PRIMARY KEY,
    aggregate_id INTEGER NOT NULL UNIQUE,
    tenant_id    TEXT NOT NULL
) STRICT;
CREATE INDEX feed_tenant ON feed (tenant_id, seq);

-- The feed's end: one row.
CREATE TABLE feed_state (
    one   INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    epoch TEXT NOT NULL DEFAULT (lower(hex(randomblob(16)))),
    seq   INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO feed_state DEFAULT VALUES;

-- The ledger.
CREATE TABLE deliveries (
    event_id        TEXT NOT NULL,
    sink            TEXT NOT NULL,
    recipient       TEXT NOT NULL,
    tenant_id       TEXT NOT NULL,
    state           TEXT NOT NULL
                    CHECK (state IN ('pending', 'delivered', 'skipped', 'gone', 'dead')),
    attempts        INTEGER NOT NULL,
    next_attempt_at TEXT CHECK ((next_attempt_at IS NULL) = (state <> 'pending')),
    cause           TEXT,
    response        TEXT,
    history         TEXT NOT NULL DEFAULT '[]', -- JSON
    created_at      TEXT NOT NULL,
    updated_at      TEXT NOT NULL,
    PRIMARY KEY (event_id, sink, recipient)
) STRICT;
CREATE INDEX deliveries_pending ON deliveries (sink, next_attempt_at) WHERE state = 'pending';
CREATE INDEX deliveries_dead ON deliveries (sink, updated_at) WHERE state = 'dead';

-- Up to where each sink has settled everything.
CREATE TABLE checkpoints (
    sink       TEXT PRIMARY KEY,
    seq        INTEGER NOT NULL,
    paused     INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000Z')
) STRICT;

CREATE TABLE push_subscriptions (
    id         TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL,
    user_id    TEXT,
    endpoint   TEXT NOT NULL,
    p256dh     TEXT NOT NULL,
    auth       TEXT NOT NULL,
    created_at TEXT NOT NULL,
    UNIQUE (tenant_id, endpoint)
) STRICT;
