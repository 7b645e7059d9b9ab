-- Housekeeping: what has had its time is deleted from the feed's beginning on.

-- The feed's beginning: everything up to and with this seq has expired and was deleted. It stands
-- apart from feed_state, whose row the sequencer locks: neither waits for the other. The row's
-- lock makes two that delete take turns.
CREATE TABLE herald.feed_expired (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    seq bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
INSERT INTO herald.feed_expired DEFAULT VALUES;
GRANT SELECT ON herald.feed_expired TO herald_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON herald.feed_expired TO herald_service;

-- For the age of a sink's oldest pending delivery: one probe, however many are pending.
CREATE INDEX deliveries_oldest ON herald.deliveries (sink, created_at) WHERE state = 'pending';

-- A fifth of a huge table, PostgreSQL's own measure, is a vacuum that comes late and takes hours.
-- Events and feed only grow and lose their oldest rows, so small shares keep each vacuum short:
-- by inserts too, which freezes rows while they are in memory, and keeps the visibility map fresh.
ALTER TABLE herald.events SET (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);
ALTER TABLE herald.feed SET (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);
ALTER TABLE herald.deliveries SET (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);
