-- What happened, what is wrong, and what is to be told of it. Documents (doc) are the fleet's types as JSON, packed by zstd with the dictionary
-- of package tables; what begins with { is not packed. Logs are packed so, too. Times are milliseconds since 1970, those of acts nanoseconds.
-- n counts what a host told of, seq all. What was kept before is as it was, in tables that can hold either.

-- +goose Up
ALTER TABLE hosts RENAME TO old_hosts;
CREATE TABLE hosts (
    name    TEXT PRIMARY KEY,
    at      INTEGER NOT NULL,
    release INTEGER NOT NULL, -- that it has now, 0 for none
    doc     BLOB NOT NULL
) STRICT;
INSERT INTO hosts SELECT name, at, coalesce(status ->> '$.active.release.number', 0), CAST(status AS BLOB) FROM old_hosts;
DROP TABLE old_hosts;

ALTER TABLE deployments RENAME TO old_deployments;
DROP INDEX deployments_by_host;
CREATE TABLE deployments (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    host     TEXT NOT NULL,
    n        INTEGER NOT NULL,
    release  INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    result   TEXT NOT NULL,
    class    TEXT NOT NULL, -- of its failure, like its code; '' for none
    code     TEXT NOT NULL,
    doc      BLOB NOT NULL,
    UNIQUE (host, n),
    UNIQUE (release, host, ended_at)
) STRICT;
CREATE INDEX deployments_by_end ON deployments (ended_at);
CREATE TABLE logs (
    seq  INTEGER PRIMARY KEY, -- of the deployment
    host TEXT NOT NULL,
    n    INTEGER NOT NULL,
    log  BLOB NOT NULL,
    UNIQUE (host, n)
) STRICT;
INSERT INTO deployments SELECT seq, host, row_number() OVER (PARTITION BY host ORDER BY seq), release, ended_at,
    coalesce(deployment ->> '$.result', ''), coalesce(deployment ->> '$.failure.class', ''), coalesce(deployment ->> '$.failure.code', ''), CAST(deployment AS BLOB) FROM old_deployments;
INSERT INTO logs SELECT o.seq, o.host, d.n, CAST(o.log AS BLOB) FROM old_deployments o JOIN deployments d ON d.seq = o.seq WHERE o.log <> '';
DROP TABLE old_deployments;

ALTER TABLE acts RENAME TO old_acts;
DROP INDEX acts_by_host;
CREATE TABLE acts (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL,
    n    INTEGER NOT NULL,
    at   INTEGER NOT NULL,
    name TEXT NOT NULL,
    doc  BLOB NOT NULL,
    UNIQUE (host, n),
    UNIQUE (host, at, name)
) STRICT;
CREATE INDEX acts_by_time ON acts (at);
INSERT INTO acts SELECT seq, host, row_number() OVER (PARTITION BY host ORDER BY seq), at, name, CAST(act AS BLOB) FROM old_acts;
DROP TABLE old_acts;

ALTER TABLE diffs RENAME TO old_diffs;
CREATE TABLE diffs (
    host TEXT PRIMARY KEY,
    doc  BLOB NOT NULL
) STRICT;
INSERT INTO diffs SELECT host, CAST(diff AS BLOB) FROM old_diffs;
DROP TABLE old_diffs;

ALTER TABLE runs RENAME TO old_runs;
CREATE TABLE runs (
    id  INTEGER PRIMARY KEY AUTOINCREMENT,
    at  INTEGER NOT NULL,
    doc BLOB NOT NULL
) STRICT;
INSERT INTO runs SELECT id, coalesce(CAST(unixepoch(run ->> '$.startedAt', 'subsec') * 1000 AS INTEGER), 0), CAST(run AS BLOB) FROM old_runs;
DROP TABLE old_runs;

CREATE TABLE events (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    at   INTEGER NOT NULL,
    type TEXT NOT NULL,
    key  BLOB NOT NULL UNIQUE, -- of its source and ID
    doc  BLOB NOT NULL
) STRICT;
CREATE INDEX events_by_type ON events (type, seq);
CREATE INDEX events_by_time ON events (at);

CREATE TABLE releases (
    number INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    doc    BLOB NOT NULL
) STRICT;

CREATE TABLE drills (
    id  TEXT PRIMARY KEY,
    at  INTEGER NOT NULL,
    doc BLOB NOT NULL
) STRICT;
CREATE INDEX drills_by_time ON drills (at);

CREATE TABLE alerts (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    key         TEXT NOT NULL,
    resolved_at INTEGER, -- NULL while it is open
    doc         BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX alerts_open ON alerts (key) WHERE resolved_at IS NULL;
CREATE INDEX alerts_resolved ON alerts (resolved_at) WHERE resolved_at IS NOT NULL;

CREATE TABLE deliveries (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    sender  TEXT NOT NULL,
    next_at INTEGER NOT NULL,
    done_at INTEGER, -- NULL while it is to be made
    doc     BLOB NOT NULL
) STRICT;
CREATE INDEX deliveries_due ON deliveries (sender, next_at, id) WHERE done_at IS NULL;
CREATE INDEX deliveries_done ON deliveries (sender, done_at, id) WHERE done_at IS NOT NULL;

CREATE TABLE passed (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    seq INTEGER NOT NULL -- of the last event that has passed the rules
) STRICT;
