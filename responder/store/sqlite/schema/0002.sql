-- Version 2: agents remember, mail takes a given route, and each recipient of one content may have header fields of its own.

ALTER TABLE outbound ADD COLUMN route TEXT NOT NULL DEFAULT '';  -- "host:port" in place of the recipient's MX hosts
ALTER TABLE outbound ADD COLUMN head TEXT NOT NULL DEFAULT '';   -- header fields that stand before the content

ALTER TABLE inbound ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0;  -- workers that died while they had it

-- No inbox takes all places: a claim looks at the names, too.
DROP INDEX inbound_due;
CREATE INDEX inbound_due ON inbound (due_at, id, inbox) WHERE state = 'RECEIVED';

-- What agents remember. `version` changes with each write: a run whose reading is out of date is done again.
CREATE TABLE memory (
    inbox      TEXT NOT NULL,
    key        TEXT NOT NULL,
    json       TEXT NOT NULL,
    version    TEXT NOT NULL,
    expires_at REAL NOT NULL,           -- 0: never
    PRIMARY KEY (inbox, key)
);
CREATE INDEX memory_expires ON memory (expires_at) WHERE expires_at > 0;
