-- Caches, the archives stored, and the store paths in each cache.
-- Hashes are 32 bytes; sizes are bytes; times are seconds since 1970. Texts are compared byte by byte.

-- +goose Up
CREATE TABLE caches (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text COLLATE "C" NOT NULL UNIQUE,
    keys       text NOT NULL, -- JSON: "name:base64" of private keys, or of public ones while no more is known
    settings   text NOT NULL, -- JSON: cache.Settings
    created_at bigint NOT NULL
);

CREATE TABLE nars (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    nar_hash  bytea NOT NULL UNIQUE,
    nar_size  bigint NOT NULL,
    file_hash bytea NOT NULL,
    file_size bigint NOT NULL,
    blob      text NOT NULL,
    stored_at bigint NOT NULL -- or touched, or lost its last path
);

CREATE TABLE paths (
    cache_id   bigint NOT NULL REFERENCES caches (id),
    hash_part  text COLLATE "C" NOT NULL,
    store_path text NOT NULL,
    nar_id     bigint REFERENCES nars (id), -- NULL for an upstream path
    upstream   text NOT NULL,               -- public key that an upstream path is signed with
    narinfo    bytea NOT NULL,
    created_at bigint NOT NULL,
    used_at    bigint NOT NULL,
    deleted_at bigint,                      -- NULL while it is there
    pushed_as  bytea,                       -- hash of the file that Nix pushed, or NULL
    PRIMARY KEY (cache_id, hash_part)
);
CREATE INDEX paths_by_nar ON paths (nar_id, cache_id) WHERE nar_id IS NOT NULL;
CREATE INDEX paths_pushed_as ON paths (cache_id, pushed_as) WHERE pushed_as IS NOT NULL;
CREATE INDEX paths_deleted ON paths (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE sent (
    cache_id bigint NOT NULL REFERENCES caches (id),
    nar_hash bytea NOT NULL, -- of an archive that was sent to the cache, whole
    at       bigint NOT NULL,
    PRIMARY KEY (cache_id, nar_hash)
);

CREATE TABLE doomed (
    blob      text COLLATE "C" PRIMARY KEY, -- that nothing names any more
    doomed_at bigint NOT NULL
);

CREATE TABLE pins (
    cache_id   bigint NOT NULL REFERENCES caches (id),
    name       text COLLATE "C" NOT NULL,
    store_path text NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL, -- 0 = never
    PRIMARY KEY (cache_id, name)
);

CREATE TABLE revoked (
    token_id text COLLATE "C" PRIMARY KEY,
    until    bigint NOT NULL
);
