-- Dead letters that whoever listens has not been told of yet.
ALTER TABLE deliveries ADD COLUMN untold INTEGER CHECK (untold IN (0, 1));
CREATE INDEX deliveries_untold ON deliveries (sink) WHERE untold = 1;
