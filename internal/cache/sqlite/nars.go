package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/nar"
)

const (
	narColumns = `n.nar_hash, n.nar_size, n.file_hash, n.file_size, n.blob`
	narQuery   = `SELECT ` + narColumns + ` FROM nars n WHERE n.nar_hash = ?`
	insertNar  = `INSERT INTO nars (nar_hash, nar_size, file_hash, file_size, stored_at, blob) VALUES (?, ?, ?, ?, ?, ?)`
	narOfQuery = `
		SELECT ` + narColumns + ` FROM nars n JOIN paths p ON p.nar_id = n.id JOIN caches c ON c.id = p.cache_id
		WHERE n.nar_hash = ?1 AND c.name = ?2
		UNION ALL
		SELECT ` + narColumns + ` FROM caches c JOIN paths p ON p.cache_id = c.id AND p.pushed_as = ?1 JOIN nars n ON n.id = p.nar_id
		WHERE c.name = ?2
		LIMIT 1`
	narsForQuery = `
		SELECT ` + narColumns + ` FROM caches c CROSS JOIN json_each(?1) j CROSS JOIN nars n ON n.nar_hash = unhex(j.value)
		WHERE c.name = ?2 AND (EXISTS (SELECT 1 FROM paths p WHERE p.nar_id = n.id AND p.cache_id = c.id)
			OR EXISTS (SELECT 1 FROM sent s WHERE s.cache_id = c.id AND s.nar_hash = n.nar_hash))`
)

// narRow receives narColumns, which are NULL where there is no archive.
type narRow struct {
	narHash, fileHash sql.RawBytes
	narSize, fileSize sql.NullInt64
	blob              sql.NullString
}

func (r *narRow) into() []any {
	return []any{&r.narHash, &r.narSize, &r.fileHash, &r.fileSize, &r.blob}
}

func (r *narRow) nar() cache.Nar {
	n := cache.Nar{NarSize: r.narSize.Int64, FileSize: r.fileSize.Int64, Blob: r.blob.String}
	copy(n.NarHash[:], r.narHash)
	copy(n.FileHash[:], r.fileHash)
	if n.Blob == "" && r.narSize.Valid {
		n.Blob = cache.FirstBlobKey(n.NarHash)
	}
	return n
}

// errKnown undoes what is not durable, because something is there already.
var errKnown = errors.New("known already")

// PutNar implements cache.Index. What replaces an archive is durable, since paths may rely on that, and none need follow.
func (x *Index) PutNar(ctx context.Context, n cache.Nar, sentTo string) error {
	now := time.Now()
	err := x.putNar(ctx, x.relaxed, sentTo, n, now, func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, insertNar+` ON CONFLICT DO NOTHING`, n.NarHash[:], n.NarSize, n.FileHash[:], n.FileSize, now.Unix(), n.Blob)
		if err != nil {
			return err
		}
		if added, err := done.RowsAffected(); err != nil || added == 0 {
			return cmp.Or(err, errKnown)
		}
		return nil
	})
	if !errors.Is(err, errKnown) {
		return err
	}
	return x.putNar(ctx, x.durable, sentTo, n, now, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `
			INSERT INTO doomed SELECT coalesce(nullif(blob, ''), ?2), ?3 FROM nars WHERE nar_hash = ?1 AND coalesce(nullif(blob, ''), ?2) <> ?4 ON CONFLICT DO NOTHING`,
			n.NarHash[:], cache.FirstBlobKey(n.NarHash), now.Unix(), n.Blob); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, insertNar+`
			ON CONFLICT (nar_hash) DO UPDATE SET nar_size = excluded.nar_size, file_hash = excluded.file_hash,
				file_size = excluded.file_size, stored_at = excluded.stored_at, blob = excluded.blob`,
			n.NarHash[:], n.NarSize, n.FileHash[:], n.FileSize, now.Unix(), n.Blob)
		return err
	})
}

// putNar runs put in a transaction on db, which notes besides that n was sent to a cache, if to one.
func (x *Index) putNar(ctx context.Context, db *sql.DB, sentTo string, n cache.Nar, at time.Time, put func(*sql.Tx) error) error {
	if sentTo == "" {
		return x.write(ctx, db, put)
	}
	return x.inCache(ctx, db, sentTo, func(tx *sql.Tx, id int64) error {
		if err := put(tx); err != nil {
			return err
		}
		return noteSent(ctx, tx, id, n.NarHash, at)
	})
}

// Nar implements cache.Index.
func (x *Index) Nar(ctx context.Context, narHash nar.Hash) (cache.Nar, bool, error) {
	return x.oneNar(ctx, narQuery, narHash[:])
}

// NarOf implements cache.Index.
func (x *Index) NarOf(ctx context.Context, name string, hash nar.Hash) (cache.Nar, bool, error) {
	return x.oneNar(ctx, narOfQuery, hash[:], name)
}

func (x *Index) oneNar(ctx context.Context, q string, args ...any) (n cache.Nar, ok bool, err error) {
	err = x.each(ctx, "an archive", q, func(rows *sql.Rows) error {
		n, err = scanNar(rows)
		ok = true
		return err
	}, args...)
	return n, ok && err == nil, err
}

func scanNar(rows *sql.Rows) (cache.Nar, error) {
	var r narRow
	err := rows.Scan(r.into()...)
	return r.nar(), err
}

// hexList is JSON with hashes for json_each, in the order of the table.
func hexList(hashes []nar.Hash) (string, error) {
	list := make([]string, len(hashes))
	for i, h := range hashes {
		list[i] = hex.EncodeToString(h[:])
	}
	slices.Sort(list)
	text, err := json.Marshal(list)
	return string(text), err
}

// TouchNars implements cache.Index.
func (x *Index) TouchNars(ctx context.Context, narHashes []nar.Hash, at time.Time) error {
	list, err := hexList(narHashes)
	if err != nil {
		return err
	}
	return x.write(ctx, x.relaxed, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE nars SET stored_at = max(stored_at, ?) WHERE nar_hash IN (SELECT unhex(value) FROM json_each(?))`, at.Unix(), list)
		return err
	})
}

// NoteSent implements cache.Index.
func (x *Index) NoteSent(ctx context.Context, name string, narHash nar.Hash, at time.Time) error {
	return x.inCache(ctx, x.relaxed, name, func(tx *sql.Tx, id int64) error { return noteSent(ctx, tx, id, narHash, at) })
}

func noteSent(ctx context.Context, tx *sql.Tx, cacheID int64, narHash nar.Hash, at time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO sent (cache_id, nar_hash, at) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)`,
		cacheID, narHash[:], at.Unix())
	return err
}

// NarsFor implements cache.Index.
func (x *Index) NarsFor(ctx context.Context, name string, narHashes []nar.Hash) (map[nar.Hash]cache.Nar, error) {
	list, err := hexList(narHashes)
	if err != nil {
		return nil, err
	}
	out := make(map[nar.Hash]cache.Nar)
	err = x.each(ctx, "archives", narsForQuery, func(rows *sql.Rows) error {
		n, err := scanNar(rows)
		out[n.NarHash] = n
		return err
	}, list, name)
	return out, err
}

// Nars implements cache.Index.
func (x *Index) Nars(ctx context.Context, each func(cache.Nar) error) error {
	return x.each(ctx, "archives", `SELECT `+narColumns+` FROM nars n`, func(rows *sql.Rows) error {
		n, err := scanNar(rows)
		if err != nil {
			return err
		}
		return each(n)
	})
}

const mostDoomed = 10_000

// Expire implements cache.Index.
func (x *Index) Expire(ctx context.Context, before time.Time) ([]string, error) {
	err := x.write(ctx, x.durable, func(tx *sql.Tx) error {
		for _, q := range []string{
			`DELETE FROM paths WHERE deleted_at < ?1`,
			`DELETE FROM sent WHERE at < ?1`,
			`INSERT INTO doomed SELECT blob, ?1 FROM nars n WHERE blob <> '' AND stored_at < ?1 AND NOT EXISTS (SELECT 1 FROM paths p WHERE p.nar_id = n.id)
				ON CONFLICT DO NOTHING`,
		} {
			if _, err := tx.ExecContext(ctx, q, before.Unix()); err != nil {
				return err
			}
		}
		if err := doomFirst(ctx, tx, before); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM nars WHERE stored_at < ? AND NOT EXISTS (SELECT 1 FROM paths p WHERE p.nar_id = nars.id)`, before.Unix())
		return err
	})
	if err != nil {
		return nil, err
	}
	return query(ctx, x, "what to delete", `SELECT blob FROM doomed WHERE doomed_at <= ? ORDER BY blob LIMIT ?`,
		func(rows *sql.Rows) (b string, err error) { return b, rows.Scan(&b) }, before.Unix(), mostDoomed)
}

// doomFirst dooms archives of the first schema, whose blobs' keys SQL cannot make.
func doomFirst(ctx context.Context, tx *sql.Tx, before time.Time) error {
	rows, err := tx.QueryContext(ctx, `SELECT nar_hash FROM nars n WHERE blob = '' AND stored_at < ?
		AND NOT EXISTS (SELECT 1 FROM paths p WHERE p.nar_id = n.id)`, before.Unix())
	if err != nil {
		return err
	}
	defer rows.Close()
	var keys []string
	for rows.Next() {
		var hash sql.RawBytes
		if err := rows.Scan(&hash); err != nil {
			return err
		}
		keys = append(keys, cache.FirstBlobKey(nar.Hash(hash)))
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, k := range keys {
		if _, err := tx.ExecContext(ctx, `INSERT INTO doomed VALUES (?, ?) ON CONFLICT DO NOTHING`, k, before.Unix()); err != nil {
			return err
		}
	}
	return nil
}

// Forget implements cache.Index.
func (x *Index) Forget(ctx context.Context, blobs []string) error {
	return x.write(ctx, x.durable, func(tx *sql.Tx) error {
		for _, b := range blobs {
			if _, err := tx.ExecContext(ctx, `DELETE FROM doomed WHERE blob = ?`, b); err != nil {
				return err
			}
		}
		return nil
	})
}
