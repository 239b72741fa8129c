package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// Bounds of what may be collected.
const (
	// MinUnused is for how long nothing may have used a path that is collected: longer than any push takes to refer to what it found.
	MinUnused = 24 * time.Hour
	// DefaultGrace is for how long the archive of a deleted path is still served: hosts that were told of it may be fetching.
	DefaultGrace = 24 * time.Hour
)

// Retention says what of a cache is kept. Pinned paths, those of Options.Roots and what was used in the last day are kept in any case, with all that they refer to.
type Retention struct {
	Unused   time.Duration // what nothing has used for that long is collected; 0 = never
	MaxBytes int64         // of stored archives: beyond it, what was used longest ago is collected; 0 = no limit
}

// Collection is what a collection deletes, or would.
type Collection struct {
	Schema     int             `json:"schema"` // 1
	Cache      string          `json:"cache"`
	At         time.Time       `json:"at"`
	Executed   bool            `json:"executed"`
	Paths      int             `json:"paths"` // in the cache before, upstream paths with them
	StoredSize int64           `json:"storedBytes"`
	Delete     []CollectedPath `json:"delete"`      // in the order of deletion: what refers before what it refers to
	Freed      int64           `json:"freedBytes"`  // of archives that no path of this cache has any more; they are served for the grace period yet
	OverBytes  int64           `json:"overBytes"`   // that kept paths have beyond the size limit
	Used       int             `json:"usedSince"`   // planned paths that stay, because something used them meanwhile
	KeptByRoot int             `json:"keptByRoots"` // paths that pins and hosts keep

	graph *graph
	order []int32         // Delete as nodes
	used  map[int32]int64 // and when they were used, before that was lent on
}

// CollectedPath is one path of a Collection.
type CollectedPath struct {
	StorePath string    `json:"storePath"`
	FileSize  int64     `json:"fileSize"` // bytes, compressed; 0 for an upstream path
	UsedAt    time.Time `json:"usedAt"`   // by itself or by what refers to it
	Why       string    `json:"why"`      // "unused" or "size"
}

// retention is what counts for a cache.
func (s *Server) retention(c *Cache) Retention {
	r := s.Retention
	if c.Retention != nil {
		r.Unused = time.Duration(*c.Retention) * time.Second
	}
	if c.MaxBytes > 0 {
		r.MaxBytes = c.MaxBytes
	}
	return r
}

// PlanCollection says what a collection would delete now. It changes nothing.
func (s *Server) PlanCollection(ctx context.Context, name string, r Retention) (*Collection, error) {
	now := time.Now()
	roots, err := s.roots(ctx, name, now)
	if err != nil {
		return nil, err
	}
	g, err := s.readGraph(ctx, name)
	if err != nil {
		return nil, err
	}
	p := &Collection{Schema: 1, Cache: name, At: now.UTC().Truncate(time.Second), Delete: []CollectedPath{}, graph: g, used: map[int32]int64{}}
	p.plan(r, roots, s.StoreDir)
	return p, nil
}

// roots are the hash parts that pins and hosts keep.
func (s *Server) roots(ctx context.Context, name string, now time.Time) (map[hashPart]bool, error) {
	pins, err := s.Index.Pins(ctx, name)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, p := range pins {
		if p.ExpiresAt.IsZero() || p.ExpiresAt.After(now) {
			paths = append(paths, p.StorePath)
		}
	}
	if s.Roots != nil {
		more, err := s.Roots(ctx)
		if err != nil {
			return nil, fmt.Errorf("what hosts have is not known, so nothing may be collected: %w", err)
		}
		paths = append(paths, more...)
	}
	roots := make(map[hashPart]bool, len(paths))
	for _, p := range paths {
		if h, err := nar.HashPart(p); err == nil { // a host may report what is no store path
			roots[hashPart([]byte(h))] = true
		}
	}
	return roots, nil
}

// plan fills in Delete. Since what is referred to was used at least as lately as what refers to it, any number of
// paths may be taken from the front of the order by use.
func (p *Collection) plan(r Retention, roots map[hashPart]bool, storeDir string) {
	g := p.graph
	order := g.order()
	rooted := make([]bool, len(g.nodes))
	own := make([]int64, len(g.nodes))
	for i := range g.nodes {
		own[i], rooted[i] = g.nodes[i].used, roots[g.nodes[i].hash]
	}
	g.lend(order, rooted)
	size := g.sizes()
	candidates := slices.DeleteFunc(order, func(i int32) bool { return !g.nodes[i].known || rooted[i] })
	slices.SortStableFunc(candidates, func(a, b int32) int { return cmp.Compare(g.nodes[a].used, g.nodes[b].used) })
	p.Paths, p.StoredSize = size.paths, size.bytes
	p.KeptByRoot = size.paths - len(candidates)
	newest, unused := p.At.Add(-MinUnused).Unix(), p.At.Add(-r.Unused).Unix()
	for _, i := range candidates {
		n, why := &g.nodes[i], "unused"
		if r.Unused == 0 || n.used >= unused {
			why = "size"
		}
		if n.used >= newest || why == "size" && (r.MaxBytes == 0 || size.bytes <= r.MaxBytes) {
			break
		}
		p.Freed += size.remove(n)
		p.order, p.used[i] = append(p.order, i), own[i]
		p.Delete = append(p.Delete, CollectedPath{n.storePath(storeDir), n.fileSize, time.Unix(n.used, 0).UTC(), why})
	}
	if r.MaxBytes > 0 {
		p.OverBytes = max(0, size.bytes-r.MaxBytes)
	}
}

// sizes counts archives that several paths share once.
type sizes struct {
	paths int
	bytes int64
	users map[int32]int // by archive
}

func (g *graph) sizes() *sizes {
	s := &sizes{users: map[int32]int{}}
	for i := range g.nodes {
		n := &g.nodes[i]
		if !n.known {
			continue
		}
		s.paths++
		if n.archive >= 0 {
			if s.users[n.archive]++; s.users[n.archive] == 1 {
				s.bytes += n.fileSize
			}
		}
	}
	return s
}

// remove counts n no more, and returns the bytes that this frees.
func (s *sizes) remove(n *node) int64 {
	if n.archive < 0 {
		return 0
	}
	if s.users[n.archive]--; s.users[n.archive] > 0 {
		return 0
	}
	s.bytes -= n.fileSize
	return n.fileSize
}

// Execute deletes what was planned, but for what was used since.
func (s *Server) Execute(ctx context.Context, p *Collection) error {
	removed, err := s.remove(ctx, p.Cache, p.graph, p.used, p.order)
	p.Executed, p.Used = true, len(p.order)-len(removed)
	return err
}

// Swept is what Sweep removed for good.
type Swept struct {
	Archives int `json:"archives"` // that no path had any more
	Orphans  int `json:"orphans"`  // that no upload has finished
}

// orphanAge is how old content must be that nothing names before it counts as left by an upload that broke off.
const orphanAge = 24 * time.Hour

// unfinishedAge is for how long an upload may run.
const unfinishedAge = 72 * time.Hour

// Sweep removes archives whose paths were deleted, or which had none, a grace period ago, and what uploads that broke off left.
// Whatever it does not get to, the next one does.
func (s *Server) Sweep(ctx context.Context) (Swept, error) {
	var done Swept
	for {
		blobs, err := s.Index.Expire(ctx, time.Now().Add(-s.Grace))
		if err != nil || len(blobs) == 0 {
			orphans, err2 := s.sweepOrphans(ctx, err == nil)
			done.Orphans = orphans
			return done, errors.Join(err, err2)
		}
		for _, b := range blobs {
			if err := s.Blobs.Delete(ctx, b); err != nil {
				return done, fmt.Errorf("delete an archive: %w", err)
			}
		}
		if err := s.Index.Forget(ctx, blobs); err != nil {
			return done, err
		}
		done.Archives += len(blobs)
	}
}

// sweepOrphans deletes content that the index does not name, once it is too old to be of an upload that still runs.
func (s *Server) sweepOrphans(ctx context.Context, ok bool) (n int, err error) {
	if !ok {
		return 0, nil
	}
	orphans, err := s.orphans(ctx)
	if err != nil {
		return 0, err
	}
	for _, key := range orphans {
		if err := s.Blobs.Delete(ctx, key); err != nil {
			return n, err
		}
		n++
	}
	if b, ok := s.Blobs.(Sweeper); ok {
		swept, err := b.Sweep(ctx, time.Now().Add(-unfinishedAge))
		return n + swept, err
	}
	return n, nil
}

// orphans lists first and asks the index afterwards, so that what is stored meanwhile is not among them.
func (s *Server) orphans(ctx context.Context) ([]string, error) {
	before, old := time.Now().Add(-orphanAge), map[string]Blob{}
	err := s.Blobs.List(ctx, "", func(b Blob) error {
		if b.StoredAt.Before(before) {
			old[b.Key] = b
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = s.Index.Nars(ctx, func(n Nar) error {
		delete(old, n.Blob)
		delete(old, listingKey(n.Blob))
		return nil
	})
	if err != nil || len(old) == 0 {
		return nil, err
	}
	all, err := s.Index.Caches(ctx)
	if err != nil {
		return nil, err
	}
	caches := map[string]*Cache{}
	for i := range all {
		caches[all[i].id()] = &all[i]
	}
	var keys []string
	for k, b := range old {
		keep, err := s.keepsText(ctx, caches, b)
		if err != nil {
			return nil, err
		}
		if !keep {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// Collect deletes from every cache what its retention does not keep, and sweeps. A cache that fails does not stop the others.
func (s *Server) Collect(ctx context.Context) error {
	caches, err := s.Index.Caches(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for i := range caches {
		p, err := s.PlanCollection(ctx, caches[i].Name, s.retention(&caches[i]))
		if err == nil {
			err = s.Execute(ctx, p)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cache %s: %w", caches[i].Name, err))
			continue
		}
		level := slog.LevelInfo
		if p.OverBytes > 0 {
			level = slog.LevelWarn
		}
		s.Log.Log(ctx, level, "cache collected", "cache", p.Cache, "paths", p.Paths, "deleted", len(p.Delete)-p.Used, "freedBytes", p.Freed, "overBytes", p.OverBytes)
	}
	swept, err := s.Sweep(ctx)
	if swept != (Swept{}) {
		s.Log.Info("cache swept", "archives", swept.Archives, "orphans", swept.Orphans)
	}
	return errors.Join(append(errs, err)...)
}

// fullEvery is the least time between two collections because a cache is full, and from the start until the first one, by when hosts have
// reported to a hub that is new.
const fullEvery = 10 * time.Minute

// Run collects every so often until ctx ends; the first time after a quarter of it.
// It does so, too, when an upload was refused because a cache is full: at once, or as soon as that may be.
func (s *Server) Run(ctx context.Context) {
	wait := s.CollectEvery / 4
	next := time.Now().Add(wait + rand.N(wait/4+1))
	mayBegin := time.Now()
	if s.Roots != nil {
		mayBegin = mayBegin.Add(fullEvery)
	}
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.full:
			if time.Until(mayBegin) > 0 {
				if mayBegin.Before(next) {
					next = mayBegin
					timer.Reset(time.Until(next))
				}
				continue
			}
		case <-timer.C:
		}
		mayBegin = time.Now().Add(fullEvery)
		next = time.Now().Add(s.CollectEvery + rand.N(s.CollectEvery/4+1))
		timer.Reset(time.Until(next))
		if err := s.Collect(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("collecting the cache failed; it is tried again", "err", err, "in", s.CollectEvery)
		}
	}
}

// checkRetention refuses what would delete under a running push.
func checkRetention(r Retention) error {
	if r.Unused < 0 || r.MaxBytes < 0 {
		return badRequest("a retention cannot be negative")
	}
	if r.Unused > 0 && r.Unused < MinUnused {
		return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "a path cannot be collected %v after its last use", r.Unused).
			WithHint("a push may be about to refer to it: %v is the least", MinUnused)
	}
	return nil
}
