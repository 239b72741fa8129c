-- Nix names an archive by the hash of the compressed file that it pushes, and remembers that name.

-- +goose Up
ALTER TABLE paths ADD COLUMN pushed_as BLOB;
CREATE INDEX paths_pushed_as ON paths (cache_id, pushed_as) WHERE pushed_as IS NOT NULL;
