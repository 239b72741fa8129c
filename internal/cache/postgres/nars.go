package postgres

import (
	"context"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/nar"
)

const (
	narColumns = `n.nar_hash, n.nar_size, n.file_hash, n.file_size, n.blob`
	narOfQuery = `
		(SELECT ` + narColumns + ` FROM nars n JOIN paths p ON p.nar_id = n.id JOIN caches c ON c.id = p.cache_id
		WHERE n.nar_hash = $1 AND c.name = $2 LIMIT 1)
		UNION ALL
		(SELECT ` + narColumns + ` FROM caches c JOIN paths p ON p.cache_id = c.id AND p.pushed_as = $1 JOIN nars n ON n.id = p.nar_id
		WHERE c.name = $2 LIMIT 1)
		LIMIT 1`
)

// narRow receives narColumns, which are NULL where there is no archive.
type narRow struct {
	narHash, fileHash []byte
	narSize, fileSize *int64
	blob              *string
}

func (r *narRow) into() []any {
	return []any{&r.narHash, &r.narSize, &r.fileHash, &r.fileSize, &r.blob}
}

func (r *narRow) nar() (n cache.Nar) {
	if r.narSize == nil {
		return n
	}
	n.NarSize, n.FileSize, n.Blob = *r.narSize, *r.fileSize, *r.blob
	copy(n.NarHash[:], r.narHash)
	copy(n.FileHash[:], r.fileHash)
	return n
}

// PutNar implements cache.Index.
func (x *Index) PutNar(ctx context.Context, n cache.Nar, sentTo string) error {
	now := time.Now()
	values := []any{n.NarHash[:], n.NarSize, n.FileHash[:], n.FileSize, n.Blob, now.Unix()}
	write := func(m mode, put func(s *session) error) error {
		if sentTo == "" {
			return x.write(ctx, m, put)
		}
		return x.inCache(ctx, m, sentTo, func(s *session, id int64) error {
			if err := put(s); err != nil {
				return err
			}
			return s.noteSent(id, n.NarHash, now)
		})
	}
	isNew := false
	err := write(relaxed, func(s *session) error {
		added, err := s.exec(`
			INSERT INTO nars (nar_hash, nar_size, file_hash, file_size, blob, stored_at) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`, values...)
		isNew = added > 0
		return err
	})
	if err != nil || isNew {
		return err
	}
	return write(adding, func(s *session) error {
		if _, err := s.exec(`
			WITH old AS (SELECT blob FROM nars WHERE nar_hash = $1 FOR UPDATE)
			INSERT INTO doomed SELECT blob, $3 FROM old WHERE blob <> $2 ON CONFLICT DO NOTHING`, n.NarHash[:], n.Blob, now.Unix()); err != nil {
			return err
		}
		_, err := s.exec(`
			INSERT INTO nars (nar_hash, nar_size, file_hash, file_size, blob, stored_at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (nar_hash) DO UPDATE SET nar_size = excluded.nar_size, file_hash = excluded.file_hash,
				file_size = excluded.file_size, blob = excluded.blob, stored_at = excluded.stored_at`, values...)
		return err
	})
}

// Nar implements cache.Index.
func (x *Index) Nar(ctx context.Context, narHash nar.Hash) (cache.Nar, bool, error) {
	return x.oneNar(ctx, `SELECT `+narColumns+` FROM nars n WHERE n.nar_hash = $1`, narHash[:])
}

// NarOf implements cache.Index.
func (x *Index) NarOf(ctx context.Context, name string, hash nar.Hash) (cache.Nar, bool, error) {
	return x.oneNar(ctx, narOfQuery, hash[:], name)
}

func (x *Index) oneNar(ctx context.Context, q string, args ...any) (n cache.Nar, ok bool, err error) {
	var r narRow
	err = x.read(ctx, shortTime, func(s *session) (err error) {
		ok, err = s.one(r.into(), q, args...)
		return err
	})
	return r.nar(), ok, err
}

// TouchNars implements cache.Index. It locks rows in order, so that no two wait for each other.
func (x *Index) TouchNars(ctx context.Context, narHashes []nar.Hash, at time.Time) error {
	return x.write(ctx, relaxed, func(s *session) error {
		_, err := s.exec(`
			WITH old AS (SELECT id FROM nars WHERE nar_hash = ANY($1) AND stored_at < $2 ORDER BY nar_hash FOR NO KEY UPDATE)
			UPDATE nars n SET stored_at = $2 FROM old WHERE n.id = old.id`, list(narHashes), at.Unix())
		return err
	})
}

// list is a bytea[] for the database.
func list(hashes []nar.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}

// NoteSent implements cache.Index.
func (x *Index) NoteSent(ctx context.Context, name string, narHash nar.Hash, at time.Time) error {
	return x.inCache(ctx, relaxed, name, func(s *session, id int64) error { return s.noteSent(id, narHash, at) })
}

func (s *session) noteSent(cacheID int64, narHash nar.Hash, at time.Time) error {
	_, err := s.exec(`INSERT INTO sent (cache_id, nar_hash, at) VALUES ($1, $2, $3) ON CONFLICT (cache_id, nar_hash) DO UPDATE SET at = greatest(sent.at, excluded.at)`,
		cacheID, narHash[:], at.Unix())
	return err
}

// NarsFor implements cache.Index.
func (x *Index) NarsFor(ctx context.Context, name string, narHashes []nar.Hash) (map[nar.Hash]cache.Nar, error) {
	out := make(map[nar.Hash]cache.Nar)
	err := x.read(ctx, shortTime, func(s *session) error {
		return s.each(func(scan func(...any) error) error {
			var r narRow
			err := scan(r.into()...)
			n := r.nar()
			out[n.NarHash] = n
			return err
		}, `SELECT `+narColumns+` FROM caches c JOIN nars n ON n.nar_hash = ANY($2)
			WHERE c.name = $1 AND (EXISTS (SELECT 1 FROM paths p WHERE p.nar_id = n.id AND p.cache_id = c.id)
				OR EXISTS (SELECT 1 FROM sent s WHERE s.cache_id = c.id AND s.nar_hash = n.nar_hash))`, name, list(narHashes))
	})
	return out, err
}

// Nars implements cache.Index.
func (x *Index) Nars(ctx context.Context, each func(cache.Nar) error) error {
	return x.read(ctx, longTime, func(s *session) error {
		return s.each(func(scan func(...any) error) error {
			var r narRow
			if err := scan(r.into()...); err != nil {
				return err
			}
			return each(r.nar())
		}, `SELECT `+narColumns+` FROM nars n`)
	})
}

const mostDoomed = 10_000

// Expire implements cache.Index.
func (x *Index) Expire(ctx context.Context, before time.Time) ([]string, error) {
	err := x.write(ctx, alone, func(s *session) error {
		if _, err := s.exec(`DELETE FROM paths WHERE deleted_at < $1`, before.Unix()); err != nil {
			return err
		}
		if _, err := s.exec(`DELETE FROM sent WHERE at < $1`, before.Unix()); err != nil {
			return err
		}
		_, err := s.exec(`
			WITH gone AS (DELETE FROM nars n WHERE stored_at < $1 AND NOT EXISTS (SELECT 1 FROM paths p WHERE p.nar_id = n.id) RETURNING blob)
			INSERT INTO doomed SELECT blob, $1 FROM gone ON CONFLICT DO NOTHING`, before.Unix())
		return err
	})
	if err != nil {
		return nil, err
	}
	return all(ctx, x, scanString, `SELECT blob FROM doomed WHERE doomed_at <= $1 ORDER BY blob LIMIT $2`, before.Unix(), mostDoomed)
}

// Forget implements cache.Index.
func (x *Index) Forget(ctx context.Context, blobs []string) error {
	return x.write(ctx, alone, func(s *session) error {
		_, err := s.exec(`DELETE FROM doomed WHERE blob = ANY($1)`, blobs)
		return err
	})
}

func scanString(scan func(...any) error) (s string, err error) { return s, scan(&s) }
