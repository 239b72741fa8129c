package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/nar"
)

const (
	recordColumns = `p.hash_part, p.store_path, p.upstream, p.narinfo, p.used_at, ` + narColumns
	recordTables  = ` FROM caches c JOIN paths p ON p.cache_id = c.id AND p.deleted_at IS NULL LEFT JOIN nars n ON n.id = p.nar_id WHERE c.name = $1`
)

func scanRecord(scan func(...any) error, name string) (hashPart string, r cache.Record, err error) {
	var n narRow
	var used int64
	r.Cache = name
	if err := scan(append([]any{&hashPart, &r.StorePath, &r.Upstream, &r.NarInfo, &used}, n.into()...)...); err != nil {
		return "", r, fmt.Errorf("read a path in the index: %w", err)
	}
	r.UsedAt, r.Nar = time.Unix(used, 0), n.nar()
	r.NarHash = r.Nar.NarHash
	return hashPart, r, nil
}

// Lookup implements cache.Index.
func (x *Index) Lookup(ctx context.Context, name string, hashParts []string) (map[string]cache.Record, error) {
	out := make(map[string]cache.Record)
	err := x.read(ctx, shortTime, func(s *session) error {
		return s.each(func(scan func(...any) error) error {
			hashPart, r, err := scanRecord(scan, name)
			out[hashPart] = r
			return err
		}, `SELECT `+recordColumns+recordTables+` AND p.hash_part = ANY($2)`, name, hashParts)
	})
	return out, err
}

// Present implements cache.Index.
func (x *Index) Present(ctx context.Context, name string, hashParts []string) (map[string]cache.Record, error) {
	out := make(map[string]cache.Record, len(hashParts))
	err := x.read(ctx, shortTime, func(s *session) error {
		return s.each(func(scan func(...any) error) error {
			r, hashPart, used := cache.Record{Path: cache.Path{Cache: name}}, "", int64(0)
			err := scan(&hashPart, &r.Upstream, &used, &r.Nar.FileSize, &r.Nar.Blob)
			r.UsedAt = time.Unix(used, 0)
			out[hashPart] = r
			return err
		}, `SELECT p.hash_part, p.upstream, p.used_at, coalesce(n.file_size, 0), coalesce(n.blob, '')`+recordTables+` AND p.hash_part = ANY($2)`, name, hashParts)
	})
	return out, err
}

// Walk implements cache.Index.
func (x *Index) Walk(ctx context.Context, name string, each func(cache.Record) error) error {
	return x.read(ctx, longTime, func(s *session) error {
		return s.each(func(scan func(...any) error) error {
			_, r, err := scanRecord(scan, name)
			if err != nil {
				return err
			}
			return each(r)
		}, `SELECT `+recordColumns+recordTables, name)
	})
}

// Stats implements cache.Index.
func (x *Index) Stats(ctx context.Context, name string) (st cache.Stats, err error) {
	var last int64
	err = x.read(ctx, longTime, func(s *session) error {
		_, err := s.one([]any{&st.Paths, &st.NarBytes, &st.StoredBytes, &last}, `
			SELECT coalesce(sum(paths), 0)::bigint, coalesce(sum(paths * n.nar_size), 0)::bigint, coalesce(sum(n.file_size), 0)::bigint, coalesce(max(last), 0)
			FROM (SELECT nar_id, count(*) AS paths, max(created_at) AS last FROM paths
				WHERE cache_id = (SELECT id FROM caches WHERE name = $1) AND nar_id IS NOT NULL AND deleted_at IS NULL GROUP BY nar_id) p
			JOIN nars n ON n.id = p.nar_id`, name)
		return err
	})
	if last != 0 {
		st.LastPush = time.Unix(last, 0)
	}
	return st, err
}

// Touch implements cache.Index.
func (x *Index) Touch(ctx context.Context, name string, hashParts []string, at time.Time) error {
	return x.inCache(ctx, relaxed, name, func(s *session, id int64) error { return s.touch(id, hashParts, at) })
}

// touch locks rows in order, so that no two touches wait for each other.
func (s *session) touch(cacheID int64, hashParts []string, at time.Time) error {
	_, err := s.exec(`
		WITH old AS (SELECT hash_part FROM paths WHERE cache_id = $1 AND hash_part = ANY($2) AND used_at < $3 ORDER BY hash_part FOR NO KEY UPDATE)
		UPDATE paths p SET used_at = $4 FROM old WHERE p.cache_id = $1 AND p.hash_part = old.hash_part`,
		cacheID, hashParts, at.Add(-cache.TouchGrain).Unix(), at.Unix())
	return err
}

// errUsed undoes a deletion of paths that were used meanwhile.
var errUsed = errors.New("used since")

// DeletePaths implements cache.Index.
func (x *Index) DeletePaths(ctx context.Context, name string, paths map[string]time.Time, at time.Time) (used []string, err error) {
	var hashParts []string
	var times []int64
	for h, t := range paths {
		hashParts, times = append(hashParts, h), append(times, t.Unix())
	}
	err = x.inCache(ctx, alone, name, func(s *session, id int64) error {
		used = nil
		err := s.each(func(scan func(...any) error) error {
			h, err := scanString(scan)
			used = append(used, h)
			return err
		}, `SELECT p.hash_part FROM unnest($2::text[], $3::bigint[]) plan (hash_part, used_at)
			JOIN paths p ON p.cache_id = $1 AND p.hash_part = plan.hash_part AND p.used_at <> plan.used_at AND p.deleted_at IS NULL
			ORDER BY p.hash_part`, id, hashParts, times)
		if err != nil {
			return err
		}
		if len(used) > 0 {
			return errUsed
		}
		_, err = s.exec(`UPDATE paths SET deleted_at = $3 WHERE cache_id = $1 AND hash_part = ANY($2) AND deleted_at IS NULL`, id, hashParts, at.Unix())
		return err
	})
	if errors.Is(err, errUsed) {
		return used, nil
	}
	return nil, err
}

// PutPaths implements cache.Index.
func (x *Index) PutPaths(ctx context.Context, paths []cache.NewPath, at time.Time) (written int, err error) {
	if len(paths) == 0 {
		return 0, nil
	}
	m := relaxed
	if slices.ContainsFunc(paths, func(p cache.NewPath) bool { return p.Upstream == "" }) {
		m = adding
	}
	err = x.inCache(ctx, m, paths[0].Cache, func(s *session, id int64) error {
		written = 0
		u := &pathPut{session: s, cacheID: id, at: at, used: map[string]bool{}}
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
		return s.touch(id, slices.Collect(maps.Keys(u.used)), at)
	})
	if err != nil {
		return 0, err
	}
	return written, nil
}

// pathPut is one PutPaths within its transaction.
type pathPut struct {
	*session
	cacheID int64
	at      time.Time
	used    map[string]bool // hash parts to be touched
}

// aPathPut is one path of it.
type aPathPut struct {
	*pathPut
	p        cache.NewPath
	hashPart string
	narID    *int64 // nil for an upstream path without archive
}

func (u *pathPut) put(p cache.NewPath) (written bool, err error) {
	a := &aPathPut{pathPut: u, p: p}
	if a.hashPart, err = nar.HashPart(p.StorePath); err != nil {
		return false, err
	}
	if p.Upstream == "" || !p.NarHash.IsZero() {
		ok, err := u.one([]any{&a.narID}, `SELECT id FROM nars WHERE nar_hash = $1`, p.NarHash[:])
		if err != nil {
			return false, err
		}
		if !ok {
			return false, fmt.Errorf("archive %s: %w", p.NarHash, cache.ErrNotFound)
		}
	}
	for {
		there, same, err := a.existing()
		if err != nil || same {
			return false, err
		}
		if err := a.reference(); err != nil {
			return false, err
		}
		written, err := a.insert(there)
		if err != nil || written > 0 {
			return err == nil, err
		}
		// Somebody else stored the path since existing looked: look again.
	}
}

// insert stores the path in place of the row that is there; where there is none, only if there still is none.
func (u *aPathPut) insert(there bool) (written int64, err error) {
	conflict := `DO NOTHING`
	if there {
		conflict = `(cache_id, hash_part) DO UPDATE SET store_path = excluded.store_path, nar_id = excluded.nar_id, upstream = excluded.upstream,
			narinfo = excluded.narinfo, created_at = excluded.created_at, used_at = excluded.used_at, deleted_at = NULL, pushed_as = excluded.pushed_as`
	}
	var pushedAs []byte
	if !u.p.PushedAs.IsZero() {
		pushedAs = u.p.PushedAs[:]
	}
	return u.exec(`
		INSERT INTO paths (cache_id, hash_part, store_path, nar_id, upstream, narinfo, created_at, used_at, pushed_as) VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8)
		ON CONFLICT `+conflict, u.cacheID, u.hashPart, u.p.StorePath, u.narID, u.p.Upstream, u.p.NarInfo, u.at.Unix(), pushedAs)
}

// existing locks the path's row, if there is one, and says whether it has the same archive. An archive that loses a path has its age counted anew.
func (u *aPathPut) existing() (there, same bool, err error) {
	var storePath, upstream string
	var narID, deleted *int64
	there, err = u.one([]any{&storePath, &upstream, &narID, &deleted}, `SELECT store_path, upstream, nar_id, deleted_at FROM paths WHERE cache_id = $1 AND hash_part = $2 FOR UPDATE`,
		u.cacheID, u.hashPart)
	if err != nil || narID == nil {
		return there, false, err
	}
	if deleted == nil && upstream == "" && u.p.Upstream == "" {
		if storePath == u.p.StorePath && *narID == *u.narID {
			u.used[u.hashPart] = true
			return true, true, nil
		}
		if !u.p.Replace {
			return true, false, fmt.Errorf("%s: %w", storePath, cache.ErrConflict)
		}
	}
	_, err = u.exec(`UPDATE nars SET stored_at = greatest(stored_at, $1) WHERE id = $2`, u.at.Unix(), *narID)
	return true, false, err
}

// reference makes sure that all that the path refers to is there, and has it touched.
func (u *aPathPut) reference() error {
	references := u.p.References
	if len(references) == 0 {
		return nil
	}
	hashParts := make([]string, len(references))
	for i, r := range references {
		var err error
		if hashParts[i], err = nar.HashPart(r); err != nil {
			return err
		}
		u.used[hashParts[i]] = true
	}
	have := make(map[string]bool)
	err := u.each(func(scan func(...any) error) error {
		storePath, err := scanString(scan)
		have[storePath] = true
		return err
	}, `SELECT store_path FROM paths WHERE cache_id = $1 AND hash_part = ANY($2) AND deleted_at IS NULL AND upstream <> $3`, u.cacheID, hashParts, cache.Incomplete)
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(slices.Clone(references), func(r string) bool { return have[r] })
	if len(missing) > 0 {
		slices.Sort(missing)
		return &cache.MissingReferencesError{StorePath: u.p.StorePath, Missing: missing}
	}
	return nil
}
