-- What a pending delivery waits for, beside its time: a destination that lets nobody through, or
-- those of its key that came before it.
ALTER TABLE herald.deliveries
    ADD COLUMN destination text COLLATE "C",
    ADD COLUMN waits_for   text CHECK (waits_for IN ('destination', 'order')),
    ADD COLUMN order_key   text COLLATE "C",
    ADD COLUMN order_seq   bigint,
    ADD CHECK (waits_for IS NULL OR state = 'pending');
CREATE INDEX deliveries_waiting ON herald.deliveries (sink, waits_for, destination)
    WHERE waits_for IS NOT NULL;
CREATE INDEX deliveries_order ON herald.deliveries (sink, recipient, order_key, order_seq)
    WHERE state = 'pending' AND order_key IS NOT NULL;
