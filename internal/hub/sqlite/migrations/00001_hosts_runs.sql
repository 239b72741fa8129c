-- What hosts reported and what CI did. The documents are fleet.Status and fleet.Run
-- as JSON; the columns beside them are what is searched for. Times are milliseconds since 1970.

-- +goose Up
CREATE TABLE hosts (
    name   TEXT PRIMARY KEY,
    at     INTEGER NOT NULL,
    status TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    id  INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL
) STRICT;

-- +goose Down
DROP TABLE hosts;
DROP TABLE runs;
