-- Housekeeping: what has had its time is deleted from the feed's beginning on.

-- The feed's beginning: everything up to and with this seq has expired and was deleted.
CREATE TABLE feed_expired (
    one INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    seq INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO feed_expired DEFAULT VALUES;

-- For the age of a sink's oldest pending delivery: one probe, however many are pending.
CREATE INDEX deliveries_oldest ON deliveries (sink, created_at) WHERE state = 'pending';
