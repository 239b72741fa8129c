-- What hosts told of acts there (fleet.Act as JSON). seq says in which order it was told. at is nanoseconds since 1970.

-- +goose Up
CREATE TABLE acts (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL,
    at   INTEGER NOT NULL,
    name TEXT NOT NULL,
    act  TEXT NOT NULL,
    UNIQUE (host, at, name)
) STRICT;
CREATE INDEX acts_by_host ON acts (host, seq);

-- +goose Down
DROP TABLE acts;
