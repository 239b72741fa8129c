package cache

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// knownFor is how long a change that another replica made of caches or tokens may go unnoticed.
const knownFor = time.Second

var errRevoked = fmt.Errorf("%w: it was revoked", ErrBadToken)

// known is what the index had of caches and revoked tokens at some moment.
type known struct {
	at      time.Time
	caches  map[string]*Cache
	revoked map[string]bool
}

// known returns what the index knew at most knownFor ago.
func (s *Server) known(ctx context.Context) (*known, error) {
	if k := s.cached.Load(); k != nil && time.Since(k.at) <= knownFor {
		return k, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.cached.Load(); k != nil && time.Since(k.at) <= knownFor {
		return k, nil
	}
	k := &known{at: time.Now(), caches: map[string]*Cache{}, revoked: map[string]bool{}}
	all, err := s.Index.Caches(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		all[i].signedBy = signers(all[i].Keys)
		k.caches[all[i].Name] = &all[i]
	}
	ids, err := s.Index.Revoked(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		k.revoked[id] = true
	}
	s.cached.Store(k)
	return k, nil
}

// forget has the next request ask the index again.
func (s *Server) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cached.Store(nil)
}

// daily remembers what was said today. The zero value is ready.
type daily struct {
	mu   sync.Mutex
	day  int64
	said map[string]bool
}

const maxDaily = 10_000

// first says whether what was not said yet on the day of now.
func (d *daily) first(what string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if day := now.Unix() / (24 * 3600); d.said == nil || d.day != day {
		d.day, d.said = day, map[string]bool{}
	}
	if d.said[what] || len(d.said) >= maxDaily {
		return false
	}
	d.said[what] = true
	return true
}
