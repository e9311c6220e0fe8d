-- Version 3: who vouches for a sender, and what a sender asks to be told (RFC 3461).

ALTER TABLE mail ADD COLUMN authentication TEXT NOT NULL DEFAULT '';  -- JSON of `Verdicts`; '' where none was asked for
ALTER TABLE mail ADD COLUMN ret TEXT NOT NULL DEFAULT '';             -- FULL, HDRS
ALTER TABLE mail ADD COLUMN envid TEXT NOT NULL DEFAULT '';           -- xtext, as written

ALTER TABLE inbound ADD COLUMN notify TEXT NOT NULL DEFAULT '';       -- NEVER, or of SUCCESS,FAILURE,DELAY
ALTER TABLE inbound ADD COLUMN orcpt TEXT NOT NULL DEFAULT '';        -- as written

ALTER TABLE outbound ADD COLUMN notify TEXT NOT NULL DEFAULT '';
ALTER TABLE outbound ADD COLUMN orcpt TEXT NOT NULL DEFAULT '';
ALTER TABLE outbound ADD COLUMN ret TEXT NOT NULL DEFAULT '';
ALTER TABLE outbound ADD COLUMN envid TEXT NOT NULL DEFAULT '';
