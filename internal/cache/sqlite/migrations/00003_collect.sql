-- What collection, tenancy and several keys need. Paths with an archive and upstream paths become one table.

-- +goose Up
ALTER TABLE caches ADD COLUMN keys TEXT NOT NULL DEFAULT '[]';     -- JSON: "name:base64" of private keys, or of public ones while no more is known
ALTER TABLE caches ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'; -- JSON: cache.Settings
UPDATE caches SET keys = json_array(public_key), settings = '{"public":true}';
ALTER TABLE caches DROP COLUMN public_key;

ALTER TABLE nars ADD COLUMN blob TEXT NOT NULL DEFAULT '';            -- '' stands for the key that the first schema made of the NarHash
ALTER TABLE nars RENAME COLUMN created_at TO stored_at;               -- or touched, or lost its last path

CREATE TABLE all_paths (
    cache_id   INTEGER NOT NULL REFERENCES caches (id),
    hash_part  TEXT NOT NULL,
    store_path TEXT NOT NULL,
    nar_id     INTEGER REFERENCES nars (id),        -- NULL for an upstream path
    upstream   TEXT NOT NULL DEFAULT '',            -- public key that an upstream path is signed with
    narinfo    BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    used_at    INTEGER NOT NULL,
    deleted_at INTEGER,                             -- NULL while it is there
    pushed_as  BLOB,                                -- hash of the file that Nix pushed, or NULL
    PRIMARY KEY (cache_id, hash_part)
) STRICT, WITHOUT ROWID;
INSERT INTO all_paths SELECT cache_id, hash_part, store_path, nar_id, '', narinfo, created_at, created_at, NULL, NULL FROM paths;
INSERT INTO all_paths SELECT cache_id, hash_part, store_path, NULL, public_key, narinfo, created_at, created_at, NULL, NULL FROM upstream_paths;
DROP TABLE paths;
DROP TABLE upstream_paths;
ALTER TABLE all_paths RENAME TO paths;
CREATE INDEX paths_by_nar ON paths (nar_id, cache_id) WHERE nar_id IS NOT NULL;
CREATE INDEX paths_pushed_as ON paths (cache_id, pushed_as) WHERE pushed_as IS NOT NULL;
CREATE INDEX paths_deleted ON paths (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE doomed (
    blob      TEXT PRIMARY KEY, -- that nothing names any more
    doomed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sent (
    cache_id INTEGER NOT NULL REFERENCES caches (id),
    nar_hash BLOB NOT NULL, -- of an archive that was sent to the cache, whole
    at       INTEGER NOT NULL,
    PRIMARY KEY (cache_id, nar_hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE pins (
    cache_id   INTEGER NOT NULL REFERENCES caches (id),
    name       TEXT NOT NULL,
    store_path TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL, -- 0 = never
    PRIMARY KEY (cache_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE revoked (
    token_id TEXT PRIMARY KEY,
    until    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
