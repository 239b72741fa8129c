package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
)

// CreateCache implements cache.Index.
func (x *Index) CreateCache(ctx context.Context, c cache.Cache) error {
	keys, settings, err := cache.EncodeCache(c)
	if err != nil {
		return err
	}
	return x.write(ctx, x.durable, func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, `INSERT INTO caches (name, keys, settings, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			c.Name, keys, settings, c.CreatedAt.Unix())
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("cache %s: %w", c.Name, cache.ErrConflict))
		}
		return nil
	})
}

// Caches implements cache.Index.
func (x *Index) Caches(ctx context.Context) ([]cache.Cache, error) {
	return query(ctx, x, "caches", `SELECT `+cache.CacheColumns+` FROM caches ORDER BY name`,
		func(rows *sql.Rows) (cache.Cache, error) { return cache.ScanCache(rows.Scan) })
}

// UpdateCache implements cache.Index.
func (x *Index) UpdateCache(ctx context.Context, name string, change func(*cache.Cache) error) error {
	return x.write(ctx, x.durable, func(tx *sql.Tx) error {
		c, err := cache.ScanCache(tx.QueryRowContext(ctx, `SELECT `+cache.CacheColumns+` FROM caches WHERE name = ?`, name).Scan)
		if errors.Is(err, sql.ErrNoRows) {
			return noCache(name)
		}
		if err != nil {
			return err
		}
		if err := change(&c); err != nil {
			return err
		}
		keys, settings, err := cache.EncodeCache(c)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE caches SET keys = ?, settings = ? WHERE name = ?`, keys, settings, name)
		return err
	})
}

// DeleteCache implements cache.Index.
func (x *Index) DeleteCache(ctx context.Context, name string) error {
	return x.inCache(ctx, x.durable, name, func(tx *sql.Tx, id int64) error {
		for _, q := range []string{`DELETE FROM sent WHERE cache_id = ?`, `DELETE FROM paths WHERE cache_id = ?`, `DELETE FROM pins WHERE cache_id = ?`, `DELETE FROM caches WHERE id = ?`} {
			if _, err := tx.ExecContext(ctx, q, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// inCache runs f in a transaction on db, with the id of the cache.
func (x *Index) inCache(ctx context.Context, db *sql.DB, name string, f func(tx *sql.Tx, id int64) error) error {
	return x.write(ctx, db, func(tx *sql.Tx) error {
		var id int64
		ok, err := found(tx.QueryRowContext(ctx, `SELECT id FROM caches WHERE name = ?`, name).Scan(&id))
		if err != nil {
			return err
		}
		if !ok {
			return noCache(name)
		}
		return f(tx, id)
	})
}

func noCache(name string) error { return fmt.Errorf("cache %s: %w", name, cache.ErrNotFound) }

// PutPin implements cache.Index.
func (x *Index) PutPin(ctx context.Context, name string, p cache.Pin) error {
	return x.inCache(ctx, x.durable, name, func(tx *sql.Tx, id int64) error {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO pins (cache_id, name, store_path, created_at, expires_at) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (cache_id, name) DO UPDATE SET store_path = excluded.store_path,
				created_at = excluded.created_at, expires_at = excluded.expires_at`,
			append([]any{id}, cache.PinRow(p)...)...)
		return err
	})
}

// DeletePin implements cache.Index.
func (x *Index) DeletePin(ctx context.Context, name, pin string) (was bool, err error) {
	err = x.inCache(ctx, x.durable, name, func(tx *sql.Tx, id int64) error {
		done, err := tx.ExecContext(ctx, `DELETE FROM pins WHERE cache_id = ? AND name = ?`, id, pin)
		if err != nil {
			return err
		}
		n, err := done.RowsAffected()
		was = n > 0
		return err
	})
	return was && err == nil, err
}

// Pins implements cache.Index.
func (x *Index) Pins(ctx context.Context, name string) ([]cache.Pin, error) {
	return query(ctx, x, "pins", `
		SELECT `+cache.PinColumns+` FROM pins p JOIN caches c ON c.id = p.cache_id
		WHERE c.name = ? ORDER BY p.name`,
		func(rows *sql.Rows) (cache.Pin, error) { return cache.ScanPin(rows.Scan) }, name)
}

// Revoke implements cache.Index.
func (x *Index) Revoke(ctx context.Context, tokenID string, until time.Time) error {
	return x.write(ctx, x.durable, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO revoked (token_id, until) VALUES (?, ?)
			ON CONFLICT (token_id) DO UPDATE SET until = max(until, excluded.until)`, tokenID, until.Unix())
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM revoked WHERE until < ?`, time.Now().Unix())
		return err
	})
}

// Revoked implements cache.Index.
func (x *Index) Revoked(ctx context.Context) ([]string, error) {
	return query(ctx, x, "revoked tokens", `SELECT token_id FROM revoked ORDER BY token_id`,
		func(rows *sql.Rows) (id string, err error) { return id, rows.Scan(&id) })
}
