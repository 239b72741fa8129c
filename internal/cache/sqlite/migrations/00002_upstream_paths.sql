-- Paths that a cache need not serve, because an upstream cache does. A path stands in this table or in paths.

-- +goose Up
CREATE TABLE upstream_paths (
    cache_id   INTEGER NOT NULL REFERENCES caches (id),
    hash_part  TEXT NOT NULL,
    store_path TEXT NOT NULL,
    public_key TEXT NOT NULL, -- the upstream's; its signature was verified
    narinfo    BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (cache_id, hash_part)
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE upstream_paths;
