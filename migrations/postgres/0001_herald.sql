-- herald's schema. The way of an event: events + outbox (the producer's transaction) → feed (the
-- relay's order) → deliveries (the ledger, one row a sink, event and recipient).
--
-- Two roles, made here unless they exist:
--   herald_app      for applications; sees one tenant, the one in the setting herald.tenant
--   herald_service  for herald's relay and runner; sees every tenant
-- An application's login gets GRANT herald_app. Row-level security is forced on every table with
-- a tenant in it, so it holds for the tables' owner too. Superusers pass it by.

DO $roles$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['herald_app', 'herald_service'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database of this cluster was migrated in the same moment
        END;
        -- Since PostgreSQL 16 whoever makes a role is a member that may not yet act as it.
        IF NOT pg_has_role(current_user, name,
                CASE WHEN current_setting('server_version_num')::int >= 160000
                     THEN 'SET' ELSE 'MEMBER' END) THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', name);
        END IF;
    END LOOP;
END
$roles$;

GRANT USAGE ON SCHEMA herald TO herald_app, herald_service;

-- Crockford's base 32, as ULIDs use it.
CREATE FUNCTION herald.base32(value bigint, digits int) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    text32 text := '';
BEGIN
    FOR place IN REVERSE digits - 1 .. 0 LOOP
        text32 := text32 || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ',
                                   ((value >> (place * 5)) & 31)::int + 1, 1);
    END LOOP;
    RETURN text32;
END
$$;

-- A ULID: 48 bits of milliseconds, 80 random bits (those of a version 4 UUID that are random).
CREATE FUNCTION herald.ulid() RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL SAFE AS $$
DECLARE
    random80 text := encode(uuid_send(gen_random_uuid()), 'hex');
BEGIN
    RETURN herald.base32((extract(epoch FROM clock_timestamp()) * 1000)::bigint, 10)
        || herald.base32(('x' || lpad(substr(random80, 1, 10), 16, '0'))::bit(64)::bigint, 8)
        || herald.base32(('x' || lpad(substr(random80, 21, 10), 16, '0'))::bit(64)::bigint, 8);
END
$$;

-- The record. Never updated. The payload is json, not jsonb, so that it is delivered to the
-- letter: key order, number notation and all.
CREATE TABLE herald.events (
    id              bigserial PRIMARY KEY,
    event_id        text COLLATE "C" NOT NULL DEFAULT herald.ulid() UNIQUE
                    CHECK (event_id ~ '^[0-7][0-9A-HJKMNP-TV-Z]{25}$'),
    tenant_id       text COLLATE "C" NOT NULL
                    CHECK (octet_length(tenant_id) BETWEEN 1 AND 128
                           AND tenant_id !~ '[[:cntrl:]]' AND tenant_id = btrim(tenant_id)),
    type            text COLLATE "C" NOT NULL
                    CHECK (octet_length(type) BETWEEN 1 AND 128
                           AND type !~ '[[:cntrl:][:space:],*]'),
    payload         json NOT NULL,
    metadata        json,
    idempotency_key text COLLATE "C" CHECK (octet_length(idempotency_key) BETWEEN 1 AND 300),
    -- Within what RFC 3339 can write: no infinity, four digits of a year.
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
                    CHECK (created_at >= '0001-01-01 00:00+00'
                           AND created_at < '10000-01-01 00:00+00')
);
CREATE UNIQUE INDEX events_idempotency ON herald.events (tenant_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- What waits for the relay. A row lives until it is in the feed, so count(*) is the backlog.
CREATE TABLE herald.outbox (
    aggregate_id bigint PRIMARY KEY REFERENCES herald.events (id) ON DELETE CASCADE,
    event_id     text COLLATE "C" NOT NULL
) WITH (
    -- Rows come and go by the thousand: vacuum early and without pause.
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.0,
    autovacuum_analyze_threshold = 100000
);

-- The one order: dense, 1, 2, 3 … in the order in which the relay saw the commits.
CREATE TABLE herald.feed (
    seq          bigint PRIMARY KEY,
    aggregate_id bigint NOT NULL UNIQUE,
    tenant_id    text COLLATE "C" NOT NULL
);
CREATE INDEX feed_tenant ON herald.feed (tenant_id, seq);

-- The feed's end: one row, whose lock makes two relays take turns.
CREATE TABLE herald.feed_state (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch text NOT NULL DEFAULT herald.ulid(),
    seq   bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
INSERT INTO herald.feed_state DEFAULT VALUES;

-- The ledger.
CREATE TABLE herald.deliveries (
    event_id        text COLLATE "C" NOT NULL,
    sink            text COLLATE "C" NOT NULL,
    recipient       text COLLATE "C" NOT NULL,
    tenant_id       text COLLATE "C" NOT NULL,
    state           text NOT NULL
                    CHECK (state IN ('pending', 'delivered', 'skipped', 'gone', 'dead')),
    attempts        bigint NOT NULL,
    next_attempt_at timestamptz CHECK ((next_attempt_at IS NULL) = (state <> 'pending')),
    cause           text,
    response        text,
    history         text NOT NULL DEFAULT '[]', -- JSON
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, sink, recipient)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX deliveries_pending ON herald.deliveries (sink, next_attempt_at)
    WHERE state = 'pending';
CREATE INDEX deliveries_dead ON herald.deliveries (sink, updated_at) WHERE state = 'dead';

-- Up to where each sink has settled everything.
CREATE TABLE herald.checkpoints (
    sink       text COLLATE "C" PRIMARY KEY,
    seq        bigint NOT NULL,
    paused     boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE herald.push_subscriptions (
    id         text COLLATE "C" PRIMARY KEY,
    tenant_id  text COLLATE "C" NOT NULL,
    user_id    text,
    endpoint   text COLLATE "C" NOT NULL,
    p256dh     text NOT NULL,
    auth       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, endpoint)
);

-- Stores an event and its outbox row in the caller's transaction and returns the event_id.
-- Three forms, so that a literal, a json and a jsonb payload all work without a cast.
CREATE FUNCTION herald.emit(tenant text, type text, payload json, metadata json DEFAULT NULL,
                            event_id text DEFAULT NULL)
RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    new_id   bigint := nextval('herald.events_id_seq');
    new_ulid text := coalesce(upper(emit.event_id), herald.ulid());
BEGIN
    INSERT INTO herald.events (id, event_id, tenant_id, type, payload, metadata)
    VALUES (new_id, new_ulid, emit.tenant, emit.type, emit.payload, emit.metadata);
    INSERT INTO herald.outbox (aggregate_id, event_id) VALUES (new_id, new_ulid);
    RETURN new_ulid;
END
$$;
CREATE FUNCTION herald.emit(tenant text, type text, payload jsonb, metadata json DEFAULT NULL,
                            event_id text DEFAULT NULL)
RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT herald.emit(tenant, type, payload::json, metadata, event_id)
$$;
CREATE FUNCTION herald.emit(tenant text, type text, payload text, metadata json DEFAULT NULL,
                            event_id text DEFAULT NULL)
RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT herald.emit(tenant, type, payload::json, metadata, event_id)
$$;

GRANT SELECT, INSERT ON herald.events TO herald_app;
GRANT INSERT ON herald.outbox TO herald_app;
GRANT USAGE ON SEQUENCE herald.events_id_seq TO herald_app, herald_service;
GRANT SELECT ON herald.feed, herald.feed_state, herald.deliveries TO herald_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON herald.push_subscriptions TO herald_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA herald TO herald_service;

-- Row-level security. Without herald.tenant an application reads nothing; it may emit for any
-- tenant, since a backend that is not bound to one writes for all. With herald.tenant set it
-- reads and writes that tenant alone.
DO $policies$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['events', 'outbox', 'feed', 'deliveries', 'push_subscriptions']
    LOOP
        EXECUTE format('ALTER TABLE herald.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE herald.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY service ON herald.%I TO herald_service '
                       'USING (true) WITH CHECK (true)', name);
    END LOOP;
END
$policies$;
CREATE POLICY app_read ON herald.events FOR SELECT TO herald_app
    USING (tenant_id = current_setting('herald.tenant', true));
CREATE POLICY app_emit ON herald.events FOR INSERT TO herald_app
    WITH CHECK (coalesce(current_setting('herald.tenant', true), '') IN ('', tenant_id));
CREATE POLICY app_emit ON herald.outbox FOR INSERT TO herald_app WITH CHECK (true);
CREATE POLICY app_read ON herald.feed FOR SELECT TO herald_app
    USING (tenant_id = current_setting('herald.tenant', true));
CREATE POLICY app_read ON herald.deliveries FOR SELECT TO herald_app
    USING (tenant_id = current_setting('herald.tenant', true));
CREATE POLICY app_own ON herald.push_subscriptions TO herald_app
    USING (tenant_id = current_setting('herald.tenant', true))
    WITH CHECK (tenant_id = current_setting('herald.tenant', true));
