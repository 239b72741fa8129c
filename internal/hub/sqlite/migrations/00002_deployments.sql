-- What hosts told of their deployments, and of what would change there (fleet.Deployment,
-- fleet.HostDiff as JSON). seq says in which order it was told. Times are milliseconds since 1970.

-- +goose Up
CREATE TABLE deployments (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    host       TEXT NOT NULL,
    release    INTEGER NOT NULL,
    ended_at   INTEGER NOT NULL,
    deployment TEXT NOT NULL,
    log        TEXT NOT NULL,
    UNIQUE (host, release, ended_at)
) STRICT;
CREATE INDEX deployments_by_host ON deployments (host, seq);

CREATE TABLE diffs (
    host TEXT PRIMARY KEY,
    diff TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE deployments;
DROP TABLE diffs;
