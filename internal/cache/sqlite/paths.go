package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/nar"
)

// reads are the queries that requests are answered with, parsed once a connection. Closing the database closes them.
type reads struct {
	nar, hasNar, path, lookup *sql.Stmt
}

func (r *reads) prepare(ctx context.Context, db *sql.DB) error {
	for into, query := range map[**sql.Stmt]string{
		&r.nar: `SELECT nar_size, file_hash, file_size FROM nars WHERE nar_hash = ?`,
		&r.hasNar: `
			SELECT 1 FROM nars n JOIN paths p ON p.nar_id = n.id JOIN caches c ON c.id = p.cache_id
			WHERE n.nar_hash = ? AND c.name = ? LIMIT 1`,
		&r.path: `
			SELECT p.store_path, p.narinfo, n.nar_hash, n.nar_size, n.file_hash, n.file_size
			FROM caches c JOIN paths p ON p.cache_id = c.id JOIN nars n ON n.id = p.nar_id
			WHERE c.name = ? AND p.hash_part = ?`,
		// CROSS JOIN is SQLite's way to say in which order to go: one search per hash part.
		&r.lookup: `
			SELECT p.hash_part, p.narinfo, '', n.nar_hash, n.nar_size, n.file_hash, n.file_size
			FROM caches c CROSS JOIN json_each(?1) j
			CROSS JOIN paths p ON p.cache_id = c.id AND p.hash_part = j.value CROSS JOIN nars n ON n.id = p.nar_id
			WHERE c.name = ?2
			UNION ALL
			SELECT u.hash_part, u.narinfo, u.public_key, x'', 0, x'', 0
			FROM caches c CROSS JOIN json_each(?1) j
			CROSS JOIN upstream_paths u ON u.cache_id = c.id AND u.hash_part = j.value
			WHERE c.name = ?2`,
	} {
		stmt, err := db.PrepareContext(ctx, query)
		if err != nil {
			return err
		}
		*into = stmt
	}
	return nil
}

// PutNar implements cache.Index.
func (x *Index) PutNar(ctx context.Context, n cache.Nar) error {
	db := x.relaxed
	_, known, err := x.Nar(ctx, n.NarHash)
	if err != nil {
		return err
	}
	if known { // paths may rely on it, and none need follow
		db = x.durable
	}
	return x.write(ctx, db, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO nars (nar_hash, nar_size, file_hash, file_size, created_at) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (nar_hash) DO UPDATE SET nar_size = excluded.nar_size,
				file_hash = excluded.file_hash, file_size = excluded.file_size`,
			n.NarHash[:], n.NarSize, n.FileHash[:], n.FileSize, time.Now().Unix())
		return err
	})
}

// Nar implements cache.Index.
func (x *Index) Nar(ctx context.Context, narHash nar.Hash) (cache.Nar, bool, error) {
	n := cache.Nar{NarHash: narHash}
	var file []byte
	err := x.nar.QueryRowContext(ctx, narHash[:]).Scan(&n.NarSize, &file, &n.FileSize)
	if ok, err := found(err); !ok {
		return cache.Nar{}, false, err
	}
	copy(n.FileHash[:], file)
	return n, true, nil
}

// HasNar implements cache.Index.
func (x *Index) HasNar(ctx context.Context, name string, narHash nar.Hash) (bool, error) {
	var one int
	err := x.hasNar.QueryRowContext(ctx, narHash[:], name).Scan(&one)
	return found(err)
}

// Path implements cache.Index.
func (x *Index) Path(ctx context.Context, name, hashPart string) (cache.Path, cache.Nar, bool, error) {
	p, n := cache.Path{Cache: name}, cache.Nar{}
	var narHash, fileHash []byte
	err := x.path.QueryRowContext(ctx, name, hashPart).
		Scan(&p.StorePath, &p.NarInfo, &narHash, &n.NarSize, &fileHash, &n.FileSize)
	if ok, err := found(err); !ok {
		return cache.Path{}, cache.Nar{}, false, err
	}
	copy(n.NarHash[:], narHash)
	copy(n.FileHash[:], fileHash)
	p.NarHash = n.NarHash
	return p, n, true, nil
}

// Lookup implements cache.Index.
func (x *Index) Lookup(ctx context.Context, name string, hashParts []string) (map[string]cache.Record, error) {
	list, err := json.Marshal(hashParts)
	if err != nil {
		return nil, err
	}
	rows, err := x.lookup.QueryContext(ctx, string(list), name)
	if err != nil {
		return nil, fmt.Errorf("look up paths in the index: %w", err)
	}
	defer rows.Close()
	out := make(map[string]cache.Record)
	for rows.Next() {
		var hashPart string
		var r cache.Record
		var narHash, fileHash sql.RawBytes
		if err := rows.Scan(&hashPart, &r.NarInfo, &r.Upstream, &narHash, &r.Nar.NarSize, &fileHash, &r.Nar.FileSize); err != nil {
			return nil, fmt.Errorf("look up paths in the index: %w", err)
		}
		copy(r.Nar.NarHash[:], narHash)
		copy(r.Nar.FileHash[:], fileHash)
		out[hashPart] = r
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look up paths in the index: %w", err)
	}
	return out, nil
}

// Stats implements cache.Index.
func (x *Index) Stats(ctx context.Context, name string) (cache.Stats, error) {
	var s cache.Stats
	err := x.read.QueryRowContext(ctx, `
		SELECT coalesce(sum(paths), 0), coalesce(sum(paths * n.nar_size), 0), coalesce(sum(n.file_size), 0)
		FROM (SELECT nar_id, count(*) AS paths FROM paths
			WHERE cache_id = (SELECT id FROM caches WHERE name = ?) GROUP BY nar_id) p
		JOIN nars n ON n.id = p.nar_id`, name).Scan(&s.Paths, &s.NarBytes, &s.StoredBytes)
	if err != nil {
		return cache.Stats{}, fmt.Errorf("count paths in the index: %w", err)
	}
	return s, nil
}

// PutPath implements cache.Index.
func (x *Index) PutPath(ctx context.Context, p cache.Path, replace bool) (written bool, err error) {
	return x.put(ctx, x.durable, p, func(u *pathPut) (bool, error) { return u.path(replace) })
}

// PutUpstream implements cache.Index.
func (x *Index) PutUpstream(ctx context.Context, p cache.Path, publicKey string) error {
	_, err := x.put(ctx, x.relaxed, p, func(u *pathPut) (bool, error) { return true, u.upstream(publicKey) })
	return err
}

// put runs write in a transaction on db.
func (x *Index) put(ctx context.Context, db *sql.DB, p cache.Path, write func(*pathPut) (bool, error)) (written bool, err error) {
	hashPart, err := nar.HashPart(p.StorePath)
	if err != nil {
		return false, err
	}
	err = x.write(ctx, db, func(tx *sql.Tx) error {
		u := &pathPut{ctx: ctx, tx: tx, p: p, hashPart: hashPart}
		err := tx.QueryRowContext(ctx, `SELECT id FROM caches WHERE name = ?`, p.Cache).Scan(&u.cacheID)
		if ok, err := found(err); !ok {
			return errors.Join(err, fmt.Errorf("cache %s: %w", p.Cache, cache.ErrNotFound))
		}
		written, err = write(u)
		return err
	})
	return written && err == nil, err
}

// pathPut is one PutPath or PutUpstream within its transaction.
type pathPut struct {
	ctx      context.Context
	tx       *sql.Tx
	p        cache.Path
	hashPart string
	cacheID  int64
	narID    int64
}

func (u *pathPut) path(replace bool) (written bool, err error) {
	err = u.tx.QueryRowContext(u.ctx, `SELECT id FROM nars WHERE nar_hash = ?`, u.p.NarHash[:]).Scan(&u.narID)
	if ok, err := found(err); !ok {
		return false, errors.Join(err, fmt.Errorf("archive %s: %w", u.p.NarHash, cache.ErrNotFound))
	}
	same, err := u.existing(replace)
	if err != nil || same {
		return false, err
	}
	if err := u.checkReferences(); err != nil {
		return false, err
	}
	_, err = u.tx.ExecContext(u.ctx, `
		INSERT INTO paths (cache_id, hash_part, store_path, nar_id, narinfo, created_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (cache_id, hash_part) DO UPDATE SET store_path = excluded.store_path,
			nar_id = excluded.nar_id, narinfo = excluded.narinfo, created_at = excluded.created_at`,
		u.cacheID, u.hashPart, u.p.StorePath, u.narID, u.p.NarInfo, time.Now().Unix())
	if err != nil {
		return false, err
	}
	return true, u.remove("upstream_paths")
}

func (u *pathPut) upstream(publicKey string) error {
	if err := u.checkReferences(); err != nil {
		return err
	}
	_, err := u.tx.ExecContext(u.ctx, `
		INSERT INTO upstream_paths (cache_id, hash_part, store_path, public_key, narinfo, created_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (cache_id, hash_part) DO UPDATE SET store_path = excluded.store_path,
			public_key = excluded.public_key, narinfo = excluded.narinfo, created_at = excluded.created_at`,
		u.cacheID, u.hashPart, u.p.StorePath, publicKey, u.p.NarInfo, time.Now().Unix())
	if err != nil {
		return err
	}
	return u.remove("paths")
}

// remove keeps a path from standing in both tables.
func (u *pathPut) remove(table string) error {
	_, err := u.tx.ExecContext(u.ctx, `DELETE FROM `+table+` WHERE cache_id = ? AND hash_part = ?`, u.cacheID, u.hashPart)
	return err
}

// existing says whether the path is there already with the same archive.
func (u *pathPut) existing(replace bool) (same bool, err error) {
	var storePath string
	var narID int64
	err = u.tx.QueryRowContext(u.ctx, `SELECT store_path, nar_id FROM paths WHERE cache_id = ? AND hash_part = ?`,
		u.cacheID, u.hashPart).Scan(&storePath, &narID)
	if ok, err := found(err); !ok {
		return false, err
	}
	if storePath == u.p.StorePath && narID == u.narID {
		return true, nil
	}
	if !replace {
		return false, fmt.Errorf("%s: %w", storePath, cache.ErrConflict)
	}
	return false, nil
}

func (u *pathPut) checkReferences() error {
	var missing []string
	stmt, err := u.tx.PrepareContext(u.ctx, `
		SELECT 1 FROM paths WHERE cache_id = ?1 AND hash_part = ?2 AND store_path = ?3
		UNION ALL SELECT 1 FROM upstream_paths WHERE cache_id = ?1 AND hash_part = ?2 AND store_path = ?3`)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for _, r := range u.p.References {
		hashPart, err := nar.HashPart(r)
		if err != nil {
			return err
		}
		var one int
		ok, err := found(stmt.QueryRowContext(u.ctx, u.cacheID, hashPart, r).Scan(&one))
		if err != nil {
			return err
		}
		if !ok {
			missing = append(missing, r)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return &cache.MissingReferencesError{StorePath: u.p.StorePath, Missing: missing}
	}
	return nil
}

// found turns the result of a query for one row into an answer.
func found(err error) (bool, error) {
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the index: %w", err)
	}
	return true, nil
}
