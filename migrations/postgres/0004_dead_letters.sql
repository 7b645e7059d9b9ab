-- Dead letters that whoever listens has not been told of yet.
ALTER TABLE herald.deliveries ADD COLUMN untold boolean;
CREATE INDEX deliveries_untold ON herald.deliveries (sink) WHERE untold;
