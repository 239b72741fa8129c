-- Caches, the archives stored, and the store paths in each cache.
-- Hashes are 32 bytes; sizes are bytes; times are seconds since 1970.

-- +goose Up
CREATE TABLE caches (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    public_key TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE nars (
    id         INTEGER PRIMARY KEY,
    nar_hash   BLOB NOT NULL UNIQUE,
    nar_size   INTEGER NOT NULL,
    file_hash  BLOB NOT NULL,
    file_size  INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE paths (
    cache_id   INTEGER NOT NULL REFERENCES caches (id),
    hash_part  TEXT NOT NULL,
    store_path TEXT NOT NULL,
    nar_id     INTEGER NOT NULL REFERENCES nars (id),
    narinfo    BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (cache_id, hash_part)
) STRICT, WITHOUT ROWID;

CREATE INDEX paths_by_nar ON paths (nar_id, cache_id);

-- +goose Down
DROP TABLE paths;
DROP TABLE nars;
DROP TABLE caches;
