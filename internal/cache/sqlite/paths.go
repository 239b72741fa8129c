package sqlite

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/nar"
)

const (
	recordColumns = `p.hash_part, p.store_path, p.upstream, p.narinfo, p.used_at, ` + narColumns

	// CROSS JOIN is SQLite's way to say in which order to go: one search per hash part.
	lookupQuery = `
		SELECT ` + recordColumns + ` FROM caches c CROSS JOIN json_each(?1) j
		CROSS JOIN paths p ON p.cache_id = c.id AND p.hash_part = j.value AND p.deleted_at IS NULL LEFT JOIN nars n ON n.id = p.nar_id
		WHERE c.name = ?2`
	// Going from row to row, and from column to column, is what takes the time of a query for many.
	presentQuery = `
		SELECT group_concat(p.hash_part || ' ' || p.upstream || ' ' || p.used_at || ' ' || coalesce(n.file_size || ' ' || n.blob || ' ' || iif(n.blob = '', hex(n.nar_hash), ''), '  '), char(10))
		FROM caches c CROSS JOIN json_each(?1) j
		CROSS JOIN paths p ON p.cache_id = c.id AND p.hash_part = j.value AND p.deleted_at IS NULL LEFT JOIN nars n ON n.id = p.nar_id
		WHERE c.name = ?2`
	walkQuery = `
		SELECT ` + recordColumns + ` FROM caches c
		CROSS JOIN paths p ON p.cache_id = c.id AND p.deleted_at IS NULL LEFT JOIN nars n ON n.id = p.nar_id
		WHERE c.name = ?`
)

// scanRecord reads recordColumns; r.NarInfo is only valid until the next row.
func scanRecord(rows *sql.Rows, r *cache.Record) (hashPart string, err error) {
	var n narRow
	var text sql.RawBytes
	var used int64
	if err := rows.Scan(append([]any{&hashPart, &r.StorePath, &r.Upstream, &text, &used}, n.into()...)...); err != nil {
		return "", fmt.Errorf("read a path in the index: %w", err)
	}
	r.NarInfo, r.UsedAt, r.Nar = text, time.Unix(used, 0), n.nar()
	r.NarHash = r.Nar.NarHash
	return hashPart, nil
}

// Lookup implements cache.Index.
func (x *Index) Lookup(ctx context.Context, name string, hashParts []string) (map[string]cache.Record, error) {
	list, err := json.Marshal(slices.Sorted(slices.Values(hashParts))) // in the order of the table, each of its pages is needed once
	if err != nil {
		return nil, err
	}
	out := make(map[string]cache.Record)
	err = x.each(ctx, "paths", lookupQuery, func(rows *sql.Rows) error {
		r := cache.Record{Path: cache.Path{Cache: name}}
		hashPart, err := scanRecord(rows, &r)
		r.NarInfo = slices.Clone(r.NarInfo)
		out[hashPart] = r
		return err
	}, string(list), name)
	return out, err
}

// Present implements cache.Index.
func (x *Index) Present(ctx context.Context, name string, hashParts []string) (map[string]cache.Record, error) {
	list, err := json.Marshal(slices.Sorted(slices.Values(hashParts)))
	if err != nil {
		return nil, err
	}
	out := make(map[string]cache.Record, len(hashParts))
	err = x.each(ctx, "paths", presentQuery, func(rows *sql.Rows) error {
		var text sql.NullString
		if err := rows.Scan(&text); err != nil {
			return err
		}
		for line := range strings.Lines(text.String) {
			hashPart, r, err := parsePresent(strings.TrimSuffix(line, "\n"))
			if err != nil {
				return err
			}
			r.Cache = name
			out[hashPart] = r
		}
		return nil
	}, string(list), name)
	return out, err
}

// parsePresent reads a line of presentQuery's answer.
func parsePresent(line string) (hashPart string, r cache.Record, err error) {
	var used, size, first string
	hashPart, line, _ = strings.Cut(line, " ")
	r.Upstream, line, _ = strings.Cut(line, " ")
	used, line, _ = strings.Cut(line, " ")
	size, line, _ = strings.Cut(line, " ")
	r.Nar.Blob, first, _ = strings.Cut(line, " ")
	at, err := strconv.ParseInt(used, 10, 64)
	if err == nil && size != "" {
		r.Nar.FileSize, err = strconv.ParseInt(size, 10, 64)
	}
	if err == nil && first != "" {
		var b []byte
		if b, err = hex.DecodeString(first); err == nil && len(b) == nar.HashSize {
			r.Nar.Blob = cache.FirstBlobKey(nar.Hash(b))
		}
	}
	if err != nil {
		return "", r, fmt.Errorf("read a path in the index: %w", err)
	}
	r.UsedAt = time.Unix(at, 0)
	return hashPart, r, nil
}

// Walk implements cache.Index.
func (x *Index) Walk(ctx context.Context, name string, each func(cache.Record) error) error {
	return x.each(ctx, "paths", walkQuery, func(rows *sql.Rows) error {
		r := cache.Record{Path: cache.Path{Cache: name}}
		if _, err := scanRecord(rows, &r); err != nil {
			return err
		}
		return each(r)
	}, name)
}

// Stats implements cache.Index.
func (x *Index) Stats(ctx context.Context, name string) (cache.Stats, error) {
	var s cache.Stats
	var last int64
	err := x.read.QueryRowContext(ctx, `
		SELECT coalesce(sum(paths), 0), coalesce(sum(paths * n.nar_size), 0), coalesce(sum(n.file_size), 0), coalesce(max(last), 0)
		FROM (SELECT nar_id, count(*) AS paths, max(created_at) AS last FROM paths
			WHERE cache_id = (SELECT id FROM caches WHERE name = ?) AND nar_id IS NOT NULL AND deleted_at IS NULL GROUP BY nar_id) p
		JOIN nars n ON n.id = p.nar_id`, name).Scan(&s.Paths, &s.NarBytes, &s.StoredBytes, &last)
	if err != nil {
		return cache.Stats{}, fmt.Errorf("count paths in the index: %w", err)
	}
	if last != 0 {
		s.LastPush = time.Unix(last, 0)
	}
	return s, nil
}

// Touch implements cache.Index.
func (x *Index) Touch(ctx context.Context, name string, hashParts []string, at time.Time) error {
	return x.inCache(ctx, x.relaxed, name, func(tx *sql.Tx, id int64) error { return touch(ctx, tx, id, hashParts, at) })
}

func touch(ctx context.Context, tx *sql.Tx, cacheID int64, hashParts []string, at time.Time) error {
	list, err := json.Marshal(hashParts)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		UPDATE paths SET used_at = ?1 WHERE cache_id = ?2 AND hash_part IN (SELECT value FROM json_each(?3)) AND used_at < ?4`,
		at.Unix(), cacheID, string(list), at.Add(-cache.TouchGrain).Unix())
	return err
}

// errUsed undoes a deletion of paths that were used meanwhile.
var errUsed = errors.New("used since")

// DeletePaths implements cache.Index.
func (x *Index) DeletePaths(ctx context.Context, name string, paths map[string]time.Time, at time.Time) (used []string, err error) {
	err = x.inCache(ctx, x.durable, name, func(tx *sql.Tx, id int64) error {
		mark, err := tx.PrepareContext(ctx, `
			UPDATE paths SET deleted_at = CASE WHEN used_at = ?1 THEN ?2 END WHERE cache_id = ?3 AND hash_part = ?4 AND deleted_at IS NULL RETURNING deleted_at`)
		if err != nil {
			return err
		}
		defer mark.Close()
		for hashPart, planned := range paths {
			var deleted sql.NullInt64
			there, err := found(mark.QueryRowContext(ctx, planned.Unix(), at.Unix(), id, hashPart).Scan(&deleted))
			if err != nil {
				return err
			}
			if there && !deleted.Valid {
				used = append(used, hashPart)
			}
		}
		if len(used) > 0 {
			return errUsed
		}
		return nil
	})
	if errors.Is(err, errUsed) {
		slices.Sort(used)
		return used, nil
	}
	return nil, err
}

// PutPaths implements cache.Index.
func (x *Index) PutPaths(ctx context.Context, paths []cache.NewPath, at time.Time) (written int, err error) {
	if len(paths) == 0 {
		return 0, nil
	}
	db := x.relaxed
	if slices.ContainsFunc(paths, func(p cache.NewPath) bool { return p.Upstream == "" }) {
		db = x.durable
	}
	err = x.inCache(ctx, db, paths[0].Cache, func(tx *sql.Tx, id int64) error {
		u := &pathPut{ctx: ctx, tx: tx, cacheID: id, at: at, there: map[string]bool{}, used: map[string]bool{}, prepared: map[string]*sql.Stmt{}}
		for _, p := range paths {
			put, err := u.put(p)
			if err != nil {
				return err
			}
			if put {
				written++
			}
		}
		if len(u.used) == 0 {
			return nil
		}
		return touch(ctx, tx, id, slices.Collect(maps.Keys(u.used)), at)
	})
	if err != nil {
		return 0, err
	}
	return written, nil
}

// pathPut is one PutPaths within its transaction.
type pathPut struct {
	ctx      context.Context
	tx       *sql.Tx
	cacheID  int64
	at       time.Time
	there    map[string]bool      // store paths that others may refer to, as far as that is known
	used     map[string]bool      // hash parts to be touched
	prepared map[string]*sql.Stmt // for all of the paths; the transaction closes them
}

func (u *pathPut) stmt(q string) (*sql.Stmt, error) {
	stmt := u.prepared[q]
	if stmt == nil {
		var err error
		if stmt, err = u.tx.PrepareContext(u.ctx, q); err != nil {
			return nil, err
		}
		u.prepared[q] = stmt
	}
	return stmt, nil
}

// one reads one row into dest; false if there is none.
func (u *pathPut) one(dest []any, q string, args ...any) (bool, error) {
	stmt, err := u.stmt(q)
	if err != nil {
		return false, err
	}
	return found(stmt.QueryRowContext(u.ctx, args...).Scan(dest...))
}

func (u *pathPut) exec(q string, args ...any) error {
	stmt, err := u.stmt(q)
	if err == nil {
		_, err = stmt.ExecContext(u.ctx, args...)
	}
	return err
}

func (u *pathPut) put(p cache.NewPath) (written bool, err error) {
	hashPart, err := nar.HashPart(p.StorePath)
	if err != nil {
		return false, err
	}
	var narID sql.NullInt64 // NULL for an upstream path without archive
	if p.Upstream == "" || !p.NarHash.IsZero() {
		ok, err := u.one([]any{&narID}, `SELECT id FROM nars WHERE nar_hash = ?`, p.NarHash[:])
		if err != nil {
			return false, err
		}
		if !ok {
			return false, fmt.Errorf("archive %s: %w", p.NarHash, cache.ErrNotFound)
		}
	}
	same, err := u.existing(p, hashPart, narID)
	if err != nil || same {
		return false, err
	}
	if err := u.reference(p); err != nil {
		return false, err
	}
	u.there[p.StorePath] = p.Upstream != cache.Incomplete
	err = u.exec(`
		INSERT INTO paths (cache_id, hash_part, store_path, nar_id, upstream, narinfo, created_at, used_at, pushed_as) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8)
		ON CONFLICT (cache_id, hash_part) DO UPDATE SET store_path = excluded.store_path, nar_id = excluded.nar_id, upstream = excluded.upstream,
			narinfo = excluded.narinfo, created_at = excluded.created_at, used_at = excluded.used_at, deleted_at = NULL, pushed_as = excluded.pushed_as`,
		u.cacheID, hashPart, p.StorePath, narID, p.Upstream, p.NarInfo, u.at.Unix(), hashOrNull(p.PushedAs))
	return err == nil, err
}

func hashOrNull(h nar.Hash) []byte {
	if h.IsZero() {
		return nil
	}
	return h[:]
}

// existing says whether the path is there already with the same archive. An archive that loses a path has its age counted anew.
func (u *pathPut) existing(p cache.NewPath, hashPart string, narID sql.NullInt64) (same bool, err error) {
	var storePath, upstream string
	var oldID, deleted sql.NullInt64
	ok, err := u.one([]any{&storePath, &upstream, &oldID, &deleted}, `SELECT store_path, upstream, nar_id, deleted_at FROM paths WHERE cache_id = ? AND hash_part = ?`,
		u.cacheID, hashPart)
	if err != nil || !ok {
		return false, err
	}
	if oldID.Valid && !deleted.Valid && upstream == "" && p.Upstream == "" {
		if storePath == p.StorePath && oldID == narID {
			u.used[hashPart] = true
			return true, nil
		}
		if !p.Replace {
			return false, fmt.Errorf("%s: %w", storePath, cache.ErrConflict)
		}
	}
	u.there[storePath] = false // it is replaced
	if !oldID.Valid {
		return false, nil
	}
	return false, u.exec(`UPDATE nars SET stored_at = max(stored_at, ?) WHERE id = ?`, u.at.Unix(), oldID)
}

// reference makes sure that all that a path refers to is there, and has it touched.
func (u *pathPut) reference(p cache.NewPath) error {
	var missing []string
	for _, r := range p.References {
		hashPart, err := nar.HashPart(r)
		if err != nil {
			return err
		}
		there, known := u.there[r]
		if !known {
			var one int
			there, err = u.one([]any{&one}, `SELECT 1 FROM paths WHERE cache_id = ? AND hash_part = ? AND store_path = ? AND deleted_at IS NULL AND upstream <> ?`,
				u.cacheID, hashPart, r, cache.Incomplete)
			if err != nil {
				return err
			}
			u.there[r] = there
		}
		if !there {
			missing = append(missing, r)
		}
		u.used[hashPart] = true
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return &cache.MissingReferencesError{StorePath: p.StorePath, Missing: missing}
	}
	return nil
}
