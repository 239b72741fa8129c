package cache

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// memory keeps answers about paths and archives at hand. What this server changes it knows at once; what another
// replica changes, after memoryValid: a path that it deleted is served for that much longer, which the grace period covers. That a
// path is not there is only remembered where no other replica can put it there, since nix believes it for an hour.
//
// It is two generations of a map: what was not asked for while the younger one filled up is forgotten. The zero value is
// ready and holds memoryBytes.
type memory struct {
	mu         sync.Mutex
	young, old map[memoryKey]*answer
	bytes      int    // in young, about
	changes    uint64 // an answer that was looked up before the last change is not kept
}

const (
	memoryValid = 10 * time.Second
	aloneValid  = time.Hour // where there is no other replica
	memoryBytes = 48 << 20  // in each generation
	// entryBytes is what an answer takes besides its text.
	entryBytes = 300
	// blobSeen is for how long content in another system's storage is taken to be there, fileSeen a file of ours: what deletes them
	// in order does that long after the path is gone, so this is about damage alone.
	blobSeen = time.Minute
	fileSeen = time.Second
)

// memoryKey is of a path when hash is 32 characters long, of an archive when it has 52.
type memoryKey struct{ cache, hash string }

// answer is what is known of a path or an archive.
type answer struct {
	ok      bool
	text    []byte   // of the narinfo
	length  []string // of text, as a header
	signers string   // whose signatures are in it
	nar     Nar
	// elsewhere says that the archive was not fetched yet from the cache that it is pulled from.
	elsewhere bool
	until     time.Time
	mayChange bool // otherwise than by what this server is told: in a cache that is pulled from, or as time goes by

	seen atomic.Pointer[time.Time] // the blob
}

// get returns what is known, and a number to give to put otherwise.
func (m *memory) get(k memoryKey, now time.Time) (a *answer, changes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a = m.young[k]
	if a == nil {
		if a = m.old[k]; a != nil {
			m.keep(k, a)
		}
	}
	if a != nil && now.After(a.until) {
		a = nil
	}
	return a, m.changes
}

// put keeps a, unless something changed since get returned that number.
func (m *memory) put(k memoryKey, a *answer, changes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if changes == m.changes {
		m.keep(k, a)
	}
}

func (m *memory) keep(k memoryKey, a *answer) {
	if m.young == nil || m.bytes > memoryBytes {
		m.young, m.old, m.bytes = map[memoryKey]*answer{}, m.young, 0
	}
	m.young[k] = a
	m.bytes += entryBytes + len(a.text)
}

// forget drops what is known of some keys, after the index was changed and before anybody is told.
func (m *memory) forget(keys ...memoryKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes++
	for _, k := range keys {
		delete(m.young, k)
		delete(m.old, k)
	}
}

// forgetAll drops everything.
func (m *memory) forgetAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes++
	m.young, m.old, m.bytes = nil, nil, 0
}

// recall returns what is known under k, if it still holds; else what look finds, which is kept. The answer is nil when nothing is there.
func (s *Server) recall(ctx context.Context, now time.Time, k memoryKey, holds func(*answer) bool, look func() (*answer, error)) (*answer, error) {
	a, changes := s.memory.get(k, now)
	if a != nil && holds(a) {
		if there, err := s.stillThere(ctx, now, a); err != nil || there || !a.ok {
			return whole(a, there), err
		}
		// Its content is not where it was: it may have been stored anew elsewhere.
	}
	a, err := look()
	if err != nil {
		return nil, err
	}
	switch {
	case s.Alone && !a.mayChange:
		a.until = now.Add(aloneValid)
	case a.ok || s.Alone:
		a.until = now.Add(memoryValid)
	}
	s.memory.put(k, a, changes)
	there, err := s.stillThere(ctx, now, a)
	return whole(a, there), err
}

func whole(a *answer, there bool) *answer {
	if there {
		return a
	}
	return nil
}

// path returns what is known of a path that is here whole, or that the cache pulls through, which it may ask others for; nil if there is none.
func (s *Server) path(ctx context.Context, now time.Time, c *Cache, hashPart string, mayPull bool) (*answer, error) {
	return s.recall(ctx, now, memoryKey{c.Name, hashPart}, func(a *answer) bool { return a.signers == c.signedBy }, func() (*answer, error) {
		found, err := s.lookup(ctx, c, []string{hashPart})
		record, ok := found[hashPart]
		if err == nil && !ok && mayPull && len(c.PullThrough) > 0 {
			if ok, err = s.pull(ctx, c, hashPart); ok && err == nil {
				record, ok, err = s.record(ctx, c, hashPart)
			}
		}
		if err != nil {
			return nil, err
		}
		from := c.from(record.Upstream)
		a := &answer{ok: ok && (record.Upstream == "" || from != nil), nar: record.Nar, signers: c.signedBy, mayChange: len(c.PullThrough) > 0, elsewhere: record.Nar.Blob == ""}
		if a.ok {
			a.text, err = s.signed(c, record, from)
			a.length = []string{strconv.Itoa(len(a.text))}
		}
		return a, err
	})
}

// narOf returns what is known of an archive that a path of c has, and that is here: content that only another cache has is not served.
func (s *Server) narOf(ctx context.Context, c *Cache, hash nar.Hash) (Nar, error) {
	a, err := s.recall(ctx, time.Now(), memoryKey{c.Name, hash.Nix32()}, func(*answer) bool { return true }, func() (*answer, error) {
		n, ok, err := s.Index.NarOf(ctx, c.Name, hash)
		return &answer{ok: ok, nar: n, mayChange: true}, err
	})
	if err != nil {
		return Nar{}, err
	}
	if a == nil {
		return Nar{}, noSuchObject(narURL(hash))
	}
	return a.nar, nil
}

// stillThere says whether the content of an answer is stored.
func (s *Server) stillThere(ctx context.Context, now time.Time, a *answer) (bool, error) {
	if !a.ok || a.elsewhere {
		return a.ok, nil
	}
	valid := fileSeen
	if _, elsewhere := s.Blobs.(Redirector); elsewhere {
		valid = blobSeen
	}
	if seen := a.seen.Load(); seen != nil && now.Sub(*seen) < valid {
		return true, nil
	}
	ok, err := s.hasBlob(ctx, a.nar)
	if ok {
		a.seen.Store(&now)
	}
	return ok, err
}
