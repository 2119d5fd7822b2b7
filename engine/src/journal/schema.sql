-- Version 1. Later versions are added to MIGRATIONS in schema.rs; this file
-- does not change any more once a version was released.

-- Where every run stands. Listing, fencing and ownership need nothing else.
CREATE TABLE runs (
    run         INTEGER PRIMARY KEY,  -- small, because every event repeats it
    ulid        BLOB    NOT NULL UNIQUE,
    pipeline    TEXT    NOT NULL,
    definition  BLOB    NOT NULL,
    status      TEXT    NOT NULL,     -- running, or the outcome
    tenant      TEXT,
    session     BLOB    NOT NULL,
    idempotency TEXT,
    owner       BLOB    NOT NULL,
    epoch       INTEGER NOT NULL,
    last_seq    INTEGER NOT NULL,
    chain       BLOB    NOT NULL,     -- of the last event
    restarts    INTEGER NOT NULL,     -- changes of owner since the last progress
    created     INTEGER NOT NULL,     -- milliseconds since the Unix epoch, as all times
    updated     INTEGER NOT NULL,
    finished    INTEGER
);
CREATE UNIQUE INDEX runs_idempotency ON runs (ifnull(tenant, ''), idempotency)
    WHERE idempotency IS NOT NULL;
CREATE INDEX runs_status ON runs (status, ulid);
CREATE INDEX runs_pipeline ON runs (pipeline, ulid);
CREATE INDEX runs_definition ON runs (definition);
CREATE INDEX runs_finished ON runs (finished) WHERE finished IS NOT NULL;
CREATE INDEX runs_session ON runs (session) WHERE finished IS NULL;

-- In the order of commits, not by run: a group of events of many runs then
-- touches two or three pages instead of one a run.
CREATE TABLE events (
    id           INTEGER PRIMARY KEY,
    run          INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    epoch        INTEGER NOT NULL,
    kind         TEXT    NOT NULL,
    step         TEXT,
    attempt      INTEGER,
    at           INTEGER NOT NULL,
    body         TEXT    NOT NULL,    -- JSON
    content_type TEXT,                -- of the payload, where there is one
    payload      BLOB,                -- the payload itself, or
    blob         BLOB,                -- the SHA-256 of the file that holds it
    chain        BLOB    NOT NULL
);
CREATE UNIQUE INDEX events_run ON events (run, seq);

CREATE TABLE blobs (
    sha256 BLOB    PRIMARY KEY,
    bytes  INTEGER NOT NULL,
    refs   INTEGER NOT NULL           -- events that refer to it
) WITHOUT ROWID;

CREATE TABLE definitions (
    sha256 BLOB    NOT NULL UNIQUE,
    body   BLOB    NOT NULL,
    put    INTEGER NOT NULL
);

-- Requests to the owner of a run. Ids are never used twice, because readers
-- remember the last one they saw.
CREATE TABLE inbox (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    run     INTEGER NOT NULL UNIQUE,
    request TEXT    NOT NULL,         -- JSON
    at      INTEGER NOT NULL
);

CREATE TABLE sessions (
    session BLOB    PRIMARY KEY,
    keys    INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    created INTEGER NOT NULL,
    touched INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_touched ON sessions (touched);

CREATE TABLE session_values (
    session BLOB NOT NULL,
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,            -- JSON
    PRIMARY KEY (session, key)
) WITHOUT ROWID;
