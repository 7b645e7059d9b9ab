-- What a pending delivery waits for, beside its time: a destination that lets nobody through, or
-- those of its key that came before it.
ALTER TABLE deliveries ADD COLUMN destination TEXT;
ALTER TABLE deliveries ADD COLUMN waits_for TEXT
    CHECK (waits_for IS NULL OR (waits_for IN ('destination', 'order') AND state = 'pending'));
ALTER TABLE deliveries ADD COLUMN order_key TEXT;
ALTER TABLE deliveries ADD COLUMN order_seq INTEGER;
CREATE INDEX deliveries_waiting ON deliveries (sink, waits_for, destination)
    WHERE waits_for IS NOT NULL;
CREATE INDEX deliveries_order ON deliveries (sink, recipient, order_key, order_seq)
    WHERE state = 'pending' AND order_key IS NOT NULL;
