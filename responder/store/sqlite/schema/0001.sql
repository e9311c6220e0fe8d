-- Version 1. Times are Unix seconds. The hot tables stay narrow: message bytes live in `content`.

CREATE TABLE worker (
    token      TEXT PRIMARY KEY,
    expires_at REAL NOT NULL            -- behind this, all that the worker claimed is free again
) WITHOUT ROWID;

CREATE TABLE mail (
    id           TEXT PRIMARY KEY,
    received_at  REAL NOT NULL,
    reverse_path TEXT NOT NULL,         -- '' is the null reverse-path
    peer         TEXT NOT NULL,
    helo         TEXT NOT NULL,
    message_id   TEXT NOT NULL,
    size         INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX mail_message_id ON mail (message_id) WHERE message_id <> '';

CREATE TABLE content (
    id   TEXT PRIMARY KEY,              -- a mail's id, or that of the first outbound item that carries it
    data BLOB NOT NULL
);

-- One row per (mail, recipient). States: see responder/mail/lifecycle.py
CREATE TABLE inbound (
    id         TEXT PRIMARY KEY,        -- MAILID.N
    mail       TEXT NOT NULL,
    recipient  TEXT NOT NULL,
    inbox      TEXT NOT NULL,
    state      TEXT NOT NULL,
    attempts   INTEGER NOT NULL,
    due_at     REAL NOT NULL,
    claim      TEXT NOT NULL,           -- a worker's token while ANSWERING
    changed_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX inbound_due ON inbound (due_at) WHERE state = 'RECEIVED';
CREATE INDEX inbound_claimed ON inbound (claim) WHERE state = 'ANSWERING';
CREATE INDEX inbound_ended ON inbound (changed_at) WHERE state IN ('ANSWERED', 'SILENT', 'FAILED', 'DROPPED');

-- One row per message that leaves and recipient.
CREATE TABLE outbound (
    id           TEXT PRIMARY KEY,
    kind         TEXT NOT NULL,         -- answer, forward, dsn
    cause        TEXT NOT NULL,         -- the inbound item it answers, or the outbound item a DSN speaks of
    inbox        TEXT NOT NULL,         -- whose answer or forward it is, or whose failure a DSN tells of
    content      TEXT NOT NULL,
    reverse_path TEXT NOT NULL,
    recipient    TEXT NOT NULL,
    domain       TEXT NOT NULL,
    return_to    TEXT NOT NULL,         -- who learns of a final failure; '' for nobody
    state        TEXT NOT NULL,
    attempts     INTEGER NOT NULL,
    created_at   REAL NOT NULL,
    due_at       REAL NOT NULL,
    expires_at   REAL NOT NULL,
    claim        TEXT NOT NULL,
    changed_at   REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX outbound_due ON outbound (due_at, domain) WHERE state IN ('QUEUED', 'DEFERRED');
CREATE INDEX outbound_claimed ON outbound (claim) WHERE state = 'SENDING';
CREATE INDEX outbound_ended ON outbound (changed_at) WHERE state IN ('DELIVERED', 'BOUNCED', 'FAILED', 'DROPPED');
CREATE INDEX outbound_cause ON outbound (cause);
CREATE INDEX outbound_content ON outbound (content);

-- Every step, with its reason. Written in the transaction of the step it tells of.
CREATE TABLE history (
    id     INTEGER PRIMARY KEY,
    item   TEXT NOT NULL,
    at     REAL NOT NULL,
    event  TEXT NOT NULL,
    state  TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX history_item ON history (item);

-- What windows count: one row per answer and key.
CREATE TABLE answered (
    key        TEXT NOT NULL,
    at         REAL NOT NULL,
    expires_at REAL NOT NULL
);
CREATE INDEX answered_key ON answered (key, at);
CREATE INDEX answered_expires ON answered (expires_at);
