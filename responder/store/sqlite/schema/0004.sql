-- Version 4: what leaves keeps a pace, may be refused in advance, and keeps to TLS where its sender asks for that.

ALTER TABLE mail ADD COLUMN requiretls INTEGER NOT NULL DEFAULT 0;      -- RFC 8689: it came with REQUIRETLS
ALTER TABLE outbound ADD COLUMN requiretls INTEGER NOT NULL DEFAULT 0;  -- and so it leaves

-- Pace. What waits has a rank of 0 until a claim has looked at it and left it; then it stands in its place's backlog by rank.
ALTER TABLE outbound ADD COLUMN rank REAL NOT NULL DEFAULT 0;        -- 0 while a worker has it, too
ALTER TABLE outbound ADD COLUMN place TEXT NOT NULL DEFAULT '';      -- of the backlog: a route, a domain, or '' for the one way out
ALTER TABLE outbound ADD COLUMN parcel TEXT NOT NULL DEFAULT '';     -- while SENDING: the item that it goes along with
ALTER TABLE outbound ADD COLUMN warned INTEGER NOT NULL DEFAULT 0;   -- its sender was told that it is late
DROP INDEX outbound_due;
CREATE INDEX outbound_due ON outbound (due_at) WHERE state IN ('QUEUED', 'DEFERRED') AND rank = 0;
CREATE INDEX outbound_backlog ON outbound (place, rank, expires_at, created_at, warned)
    WHERE state IN ('QUEUED', 'DEFERRED') AND rank > 0;
DROP INDEX outbound_claimed;
CREATE INDEX outbound_claimed ON outbound (claim, domain, route, parcel) WHERE state = 'SENDING';

-- A place is whatever has its own line of mails: a route, a domain.
CREATE TABLE destination (
    place      TEXT PRIMARY KEY,
    provider   TEXT NOT NULL,           -- who takes its mail: by this the pace is kept. The place itself until that is known
    known      INTEGER NOT NULL DEFAULT 0,
    head       REAL NOT NULL DEFAULT 0, -- rank of the first of its backlog, or less; 0: nothing waits
    rests      REAL NOT NULL DEFAULT 0, -- until then nothing is claimed for it
    failures   INTEGER NOT NULL DEFAULT 0,  -- pauses in a row; above 0 one mail at a time finds out whether it is back
    reason     TEXT NOT NULL DEFAULT '',
    changed_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX destination_head ON destination (head, rests, provider) WHERE head > 0;
CREATE INDEX destination_changed ON destination (changed_at);

CREATE TABLE pace (
    provider   TEXT PRIMARY KEY,
    room       REAL NOT NULL,           -- connections that it gets
    threshold  REAL NOT NULL,           -- up to here the room grows by one a success, above by one a round
    proven     INTEGER NOT NULL,        -- it has taken something
    rests      REAL NOT NULL,
    failures   INTEGER NOT NULL,        -- throttled in a row, with no room left to narrow
    next_at    REAL NOT NULL,           -- by its rate, when the next message may leave
    reason     TEXT NOT NULL,
    changed_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX pace_rests ON pace (rests) WHERE rests > 0;
CREATE INDEX pace_changed ON pace (changed_at);

-- Whose turn it is: the rank of the last item of each flow (inbox and kind) in the backlog; of '', of the last one claimed from it.
CREATE TABLE turn (
    flow TEXT PRIMARY KEY,
    rank REAL NOT NULL
) WITHOUT ROWID;

-- Who is not written to.
CREATE TABLE suppression (
    address    TEXT NOT NULL,           -- Address.key
    inbox      TEXT NOT NULL,           -- whose mail that is about; '' for all
    reason     TEXT NOT NULL,           -- hard-bounce, complaint, operator
    detail     TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,           -- 0: never
    PRIMARY KEY (address, inbox)
) WITHOUT ROWID;
CREATE INDEX suppression_expires ON suppression (expires_at) WHERE expires_at > 0;
