package postgres

import (
	"context"
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
	return x.write(ctx, adding, func(s *session) error {
		added, err := s.exec(`INSERT INTO caches (name, keys, settings, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			c.Name, keys, settings, c.CreatedAt.Unix())
		if err == nil && added == 0 {
			return fmt.Errorf("cache %s: %w", c.Name, cache.ErrConflict)
		}
		return err
	})
}

// Caches implements cache.Index.
func (x *Index) Caches(ctx context.Context) ([]cache.Cache, error) {
	return all(ctx, x, cache.ScanCache, `SELECT `+cache.CacheColumns+` FROM caches ORDER BY name`)
}

// UpdateCache implements cache.Index.
func (x *Index) UpdateCache(ctx context.Context, name string, change func(*cache.Cache) error) error {
	return x.write(ctx, adding, func(s *session) error {
		var c *cache.Cache
		err := s.each(func(scan func(...any) error) error {
			found, err := cache.ScanCache(scan)
			c = &found
			return err
		}, `SELECT `+cache.CacheColumns+` FROM caches WHERE name = $1 FOR UPDATE`, name)
		if err != nil {
			return err
		}
		if c == nil {
			return noCache(name)
		}
		if err := change(c); err != nil {
			return err
		}
		keys, settings, err := cache.EncodeCache(*c)
		if err != nil {
			return err
		}
		_, err = s.exec(`UPDATE caches SET keys = $1, settings = $2 WHERE name = $3`, keys, settings, name)
		return err
	})
}

// DeleteCache implements cache.Index.
func (x *Index) DeleteCache(ctx context.Context, name string) error {
	return x.inCache(ctx, alone, name, func(s *session, id int64) error {
		for _, q := range []string{`DELETE FROM sent WHERE cache_id = $1`, `DELETE FROM paths WHERE cache_id = $1`, `DELETE FROM pins WHERE cache_id = $1`, `DELETE FROM caches WHERE id = $1`} {
			if _, err := s.exec(q, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// inCache runs f in a transaction with the id of the cache.
func (x *Index) inCache(ctx context.Context, m mode, name string, f func(s *session, id int64) error) error {
	return x.write(ctx, m, func(s *session) error {
		var id int64
		ok, err := s.one([]any{&id}, `SELECT id FROM caches WHERE name = $1`, name)
		if err != nil {
			return err
		}
		if !ok {
			return noCache(name)
		}
		return f(s, id)
	})
}

func noCache(name string) error { return fmt.Errorf("cache %s: %w", name, cache.ErrNotFound) }

// PutPin implements cache.Index.
func (x *Index) PutPin(ctx context.Context, name string, p cache.Pin) error {
	return x.inCache(ctx, adding, name, func(s *session, id int64) error {
		_, err := s.exec(`
			INSERT INTO pins (cache_id, name, store_path, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (cache_id, name) DO UPDATE SET store_path = excluded.store_path,
				created_at = excluded.created_at, expires_at = excluded.expires_at`,
			append([]any{id}, cache.PinRow(p)...)...)
		return err
	})
}

// DeletePin implements cache.Index.
func (x *Index) DeletePin(ctx context.Context, name, pin string) (was bool, err error) {
	err = x.inCache(ctx, adding, name, func(s *session, id int64) error {
		n, err := s.exec(`DELETE FROM pins WHERE cache_id = $1 AND name = $2`, id, pin)
		was = n > 0
		return err
	})
	return was && err == nil, err
}

// Pins implements cache.Index.
func (x *Index) Pins(ctx context.Context, name string) ([]cache.Pin, error) {
	return all(ctx, x, cache.ScanPin, `SELECT `+cache.PinColumns+` FROM pins p JOIN caches c ON c.id = p.cache_id WHERE c.name = $1 ORDER BY p.name`, name)
}

// Revoke implements cache.Index.
func (x *Index) Revoke(ctx context.Context, tokenID string, until time.Time) error {
	return x.write(ctx, adding, func(s *session) error {
		if _, err := s.exec(`
			INSERT INTO revoked (token_id, until) VALUES ($1, $2)
			ON CONFLICT (token_id) DO UPDATE SET until = greatest(revoked.until, excluded.until)`, tokenID, until.Unix()); err != nil {
			return err
		}
		_, err := s.exec(`DELETE FROM revoked WHERE until < $1`, time.Now().Unix())
		return err
	})
}

// Revoked implements cache.Index.
func (x *Index) Revoked(ctx context.Context) ([]string, error) {
	return all(ctx, x, scanString, `SELECT token_id FROM revoked ORDER BY token_id`)
}
