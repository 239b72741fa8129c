-- What hosts reported, what CI did, what happened, what is wrong, and what is to be told of it. Documents (doc) are the fleet's types as JSON, packed
-- by zstd with the dictionary of package tables, as logs are. Times are milliseconds since 1970, those of acts nanoseconds. n counts
-- what a host told of, seq all. Texts are compared byte by byte.

-- +goose Up
CREATE TABLE hosts (
    name    text COLLATE "C" PRIMARY KEY,
    at      bigint NOT NULL,
    release bigint NOT NULL, -- that it has now, 0 for none
    doc     bytea NOT NULL
);

CREATE TABLE deployments (
    seq      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    host     text COLLATE "C" NOT NULL,
    n        bigint NOT NULL,
    release  bigint NOT NULL,
    ended_at bigint NOT NULL,
    result   text NOT NULL,
    class    text NOT NULL, -- of its failure, like its code; '' for none
    code     text NOT NULL,
    doc      bytea NOT NULL,
    UNIQUE (host, n),
    UNIQUE (release, host, ended_at)
);
CREATE INDEX deployments_by_end ON deployments (ended_at);

CREATE TABLE logs (
    seq  bigint PRIMARY KEY, -- of the deployment
    host text COLLATE "C" NOT NULL,
    n    bigint NOT NULL,
    log  bytea NOT NULL,
    UNIQUE (host, n)
);

CREATE TABLE acts (
    seq  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    host text COLLATE "C" NOT NULL,
    n    bigint NOT NULL,
    at   bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    doc  bytea NOT NULL,
    UNIQUE (host, n),
    UNIQUE (host, at, name)
);
CREATE INDEX acts_by_time ON acts (at);

CREATE TABLE diffs (
    host text COLLATE "C" PRIMARY KEY,
    doc  bytea NOT NULL
);

CREATE TABLE runs (
    id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at  bigint NOT NULL,
    doc bytea NOT NULL
);

CREATE TABLE events (
    seq  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at   bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    key  bytea NOT NULL UNIQUE, -- of its source and ID
    doc  bytea NOT NULL
);
CREATE INDEX events_by_type ON events (type, seq);
CREATE INDEX events_by_time ON events (at);

CREATE TABLE releases (
    number bigint PRIMARY KEY,
    at     bigint NOT NULL,
    doc    bytea NOT NULL
);

CREATE TABLE drills (
    id  text COLLATE "C" PRIMARY KEY,
    at  bigint NOT NULL,
    doc bytea NOT NULL
);
CREATE INDEX drills_by_time ON drills (at);

CREATE TABLE alerts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key         text COLLATE "C" NOT NULL,
    resolved_at bigint, -- NULL while it is open
    doc         bytea NOT NULL
);
CREATE UNIQUE INDEX alerts_open ON alerts (key) WHERE resolved_at IS NULL;
CREATE INDEX alerts_resolved ON alerts (resolved_at) WHERE resolved_at IS NOT NULL;

CREATE TABLE deliveries (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sender  text COLLATE "C" NOT NULL,
    next_at bigint NOT NULL,
    done_at bigint, -- NULL while it is to be made
    doc     bytea NOT NULL
);
CREATE INDEX deliveries_due ON deliveries (sender, next_at, id) WHERE done_at IS NULL;
CREATE INDEX deliveries_done ON deliveries (sender, done_at, id) WHERE done_at IS NOT NULL;

CREATE TABLE passed (
    one integer PRIMARY KEY CHECK (one = 1),
    seq bigint NOT NULL -- of the last event that has passed the rules
);
