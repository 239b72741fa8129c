package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// What indexes that speak SQL have in common: how they keep caches and pins in rows.

// EncodeCache returns what the columns keys and settings have of a cache.
func EncodeCache(c Cache) (keys, settings string, err error) {
	k, err := json.Marshal(c.Keys)
	if err != nil {
		return "", "", err
	}
	s, err := json.Marshal(c.Settings)
	return string(k), string(s), err
}

// CacheColumns are what ScanCache reads.
const CacheColumns = `name, keys, settings, created_at`

// ScanCache reads a row.
func ScanCache(scan func(...any) error) (Cache, error) {
	var c Cache
	var keys, settings string
	var created int64
	if err := scan(&c.Name, &keys, &settings, &created); err != nil {
		return c, err
	}
	c.CreatedAt = time.Unix(created, 0)
	if err := errors.Join(json.Unmarshal([]byte(keys), &c.Keys), json.Unmarshal([]byte(settings), &c.Settings)); err != nil {
		return c, fmt.Errorf("what the index has of cache %s: %w", c.Name, err)
	}
	return c, nil
}

// PinRow returns what the columns of PinColumns have of a pin.
func PinRow(p Pin) []any {
	expires := int64(0)
	if !p.ExpiresAt.IsZero() {
		expires = p.ExpiresAt.Unix()
	}
	return []any{p.Name, p.StorePath, p.CreatedAt.Unix(), expires}
}

// PinColumns are what ScanPin reads, of a table p.
const PinColumns = `p.name, p.store_path, p.created_at, p.expires_at`

// ScanPin reads a row.
func ScanPin(scan func(...any) error) (p Pin, err error) {
	var created, expires int64
	err = scan(&p.Name, &p.StorePath, &created, &expires)
	p.CreatedAt = time.Unix(created, 0)
	if expires != 0 {
		p.ExpiresAt = time.Unix(expires, 0)
	}
	return p, err
}
