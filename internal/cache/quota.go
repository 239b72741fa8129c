package cache

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// What the index counted in a cache holds for its quota for statsFor, and where counting takes long, for that many times as long as it took: a million paths are counted
// in seconds. It is less where something is to be refused, which another server's collection may have made room for; what this server deletes it counts anew at once.
const (
	statsFor     = 5 * time.Second
	allowTimes   = 50
	refusalTimes = 5
)

// quotas is what caches with a quota hold. The zero value is ready.
type quotas struct {
	mu sync.Mutex
	of map[string]*usage
}

// usage is what a cache holds: what the index counted at some time, and what came since then.
type usage struct {
	counted Stats
	at      time.Time            // zero: to be counted
	took    time.Duration        // counting
	claimed int64                // bytes of archives that got their first path since
	pending map[nar.Hash]pending // archives that wait for their path; those that this server received
}

type pending struct {
	bytes int64
	at    time.Time
}

const (
	// maxPending bounds what is remembered of archives without a path.
	maxPending = 10_000
	// pendingFor is how long: then they are collected.
	pendingFor = 24 * time.Hour
)

func (u *usage) bytes() int64 {
	sum := u.counted.StoredBytes + u.claimed
	for _, p := range u.pending {
		sum += p.bytes
	}
	return sum
}

// holds says whether what was counted still counts, where so many times as long as it took is not too old.
func (u *usage) holds(times time.Duration) bool {
	return u != nil && time.Since(u.at) <= max(statsFor, times*u.took)
}

// used calls f with what a cache holds. When f refuses something by a count that is not fresh, it is called again with a fresh one.
func (s *Server) used(ctx context.Context, cache string, f func(*usage) error) error {
	q := &s.quotas
	q.mu.Lock()
	defer q.mu.Unlock()
	if u := q.of[cache]; u.holds(allowTimes) {
		if err := f(u); err == nil || u.holds(refusalTimes) {
			return err
		}
	}
	u, err := s.countUsage(ctx, cache)
	if err != nil {
		return err
	}
	return f(u)
}

// countUsage has the index count. The lock of quotas is held.
func (s *Server) countUsage(ctx context.Context, cache string) (*usage, error) {
	q, at := &s.quotas, time.Now()
	counted, err := s.Index.Stats(ctx, cache)
	if err != nil {
		return nil, err
	}
	u := q.of[cache]
	if u == nil {
		u = &usage{pending: map[nar.Hash]pending{}}
		if q.of == nil {
			q.of = map[string]*usage{}
		}
		q.of[cache] = u
	}
	u.counted, u.at, u.took, u.claimed = counted, at, time.Since(at), 0
	maps.DeleteFunc(u.pending, func(_ nar.Hash, p pending) bool { return at.Sub(p.at) > pendingFor })
	return u, nil
}

// recount has the next question count anew what a cache holds: paths of it were deleted.
func (q *quotas) recount(cache string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if u := q.of[cache]; u != nil {
		u.at = time.Time{}
	}
}

// checkQuota fails when so many more bytes would be too much for the cache.
func (s *Server) checkQuota(ctx context.Context, c *Cache, more int64) error {
	if c.MaxBytes == 0 {
		return nil
	}
	return s.used(ctx, c.Name, func(u *usage) error { return s.allow(u, c.MaxBytes, more) })
}

// allow fails when so many more bytes would be too much, and has a collection begin: some of what is there may not be needed any more.
func (s *Server) allow(u *usage, most, more int64) error {
	have := u.bytes()
	if have+more <= most && len(u.pending) < maxPending {
		return nil
	}
	select {
	case s.full <- struct{}{}:
	default: // it will begin anyway
	}
	return &httpError{status: http.StatusInsufficientStorage, kind: "QuotaExceeded", message: fmt.Sprintf(
		"the cache may hold %d bytes, and holds %d: remove what is not needed, or ask for a larger quota", most, have)}
}

// notePending counts an archive that was received for a path that is to follow.
func (s *Server) notePending(ctx context.Context, c *Cache, n Nar) error {
	if c.MaxBytes == 0 {
		return nil
	}
	return s.used(ctx, c.Name, func(u *usage) error {
		u.pending[n.NarHash] = pending{n.FileSize, time.Now()}
		return nil
	})
}

// claim counts an archive that gets a path in c. One that c did not have so far must fit into its quota. disclaim is for when it gets none after all.
func (s *Server) claim(ctx context.Context, c *Cache, narHash nar.Hash) (disclaim func(), err error) {
	disclaim = func() {}
	if c.MaxBytes == 0 {
		return disclaim, nil
	}
	_, has, err := s.Index.NarOf(ctx, c.Name, narHash)
	if err != nil {
		return nil, err
	}
	n, _, err := s.Index.Nar(ctx, narHash)
	if err != nil {
		return nil, err
	}
	err = s.used(ctx, c.Name, func(u *usage) error {
		was, waits := u.pending[narHash]
		delete(u.pending, narHash)
		bytes, at := int64(0), u.at
		if !has {
			bytes = n.FileSize
		}
		disclaim = func() {
			s.quotas.mu.Lock()
			defer s.quotas.mu.Unlock()
			if waits {
				u.pending[narHash] = was
			}
			if u.at.Equal(at) { // else it was counted anew
				u.claimed -= bytes
			}
		}
		if has {
			return nil
		}
		if err := s.allow(u, c.MaxBytes, n.FileSize); err != nil {
			if waits {
				u.pending[narHash] = was
			}
			return err
		}
		u.claimed += n.FileSize
		return nil
	})
	return disclaim, err
}
