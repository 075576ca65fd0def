-- By which version of the rule a dead letter was grouped: groups of different versions never mix.
ALTER TABLE dead_letters ADD COLUMN fingerprint_version smallint NOT NULL DEFAULT 1;
