package client

import (
	"context"
	"errors"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// PushOptions say how Push works. The zero value serves.
type PushOptions struct {
	RealStoreDir string         // where the files of /nix/store/… are; default "/nix/store"
	Parallel     int            // requests at the same time; default 8
	Progress     func(Progress) // called after each path, and each archive or part of a large one that comes before its path, never twice at the same time; may be nil

	from source // of archives; nil means the folder RealStoreDir
}

// Progress says how far a push is.
type Progress struct {
	StorePath string // what was just pushed; "" for an archive or a part
	Done      int    // paths pushed
	Total     int    // paths to push: those that were missing
	NarBytes  int64  // of archives pushed so far, uncompressed
	NarTotal  int64  // of all archives to push
}

// Stats says what a push did.
type Stats struct {
	Paths    int           // paths asked for
	Pushed   int           // of those, whose archives were uploaded
	Upstream int           // of those, are left to an upstream cache, which the cache was only told
	NarBytes int64         // uploaded, uncompressed
	Differ   []string      // paths that somebody else uploaded meanwhile, built otherwise; the cache keeps the first
	Elapsed  time.Duration // the whole call
}

// Push uploads those of the paths that the cache does not have. What they refer
// to is either among them or in the cache already. Paths may come in any order, but not twice.
func (c *Client) Push(ctx context.Context, paths []nar.PathInfo, o PushOptions) (stats Stats, err error) {
	if o.RealStoreDir == "" {
		o.RealStoreDir = "/nix/store"
	}
	if o.Parallel <= 0 {
		o.Parallel = 8
	}
	start := time.Now()
	stats.Paths = len(paths)
	if o.from == nil {
		o.from = localStore(o.RealStoreDir)
	}
	p := &push{c: c, o: o, stats: &stats, noArchive: map[*nar.PathInfo]bool{}, archiver: archiver{from: o.from}}
	todo, err := p.choose(ctx, paths)
	if err != nil || len(todo) == 0 {
		stats.Elapsed = time.Since(start)
		return stats, err
	}
	if err := p.open(ctx, todo); err != nil {
		return stats, err
	}
	together := 1
	if _, ok := p.to.(manyInfos); ok {
		together = infosTogether
	}
	plan, err := newPlan(todo, p.noArchive, together)
	if err != nil {
		return stats, err
	}
	p.total = len(todo)
	for _, info := range todo {
		if !p.noArchive[info] {
			p.narTotal += info.NarSize
		}
	}
	err = p.run(ctx, plan)
	stats.Elapsed = time.Since(start)
	return stats, err
}

// choose returns the paths that are missing, and notes those whose archives are not.
func (p *push) choose(ctx context.Context, paths []nar.PathInfo) ([]*nar.PathInfo, error) {
	byHash := make(map[string]*nar.PathInfo, len(paths))
	hashes, nars := make([]string, len(paths)), make([]string, len(paths))
	for i := range paths {
		info := &paths[i]
		if err := info.Validate(); err != nil {
			return nil, unusable(err)
		}
		hash, err := nar.HashPart(info.StorePath)
		if err != nil {
			return nil, unusable(err)
		}
		if byHash[hash] != nil {
			return nil, unusable(errors.New(info.StorePath + " is listed twice"))
		}
		byHash[hash] = info
		hashes[i], nars[i] = hash, info.NarHash.String()
	}
	missing, stored, err := p.c.missing(ctx, hashes, nars)
	if err != nil {
		return nil, err
	}
	isStored := map[string]bool{}
	for _, s := range stored {
		isStored[s] = true
	}
	var todo []*nar.PathInfo
	for _, hash := range missing {
		info := byHash[hash]
		if info == nil {
			return nil, p.c.nonsense("ask what is missing", errors.New("it misses a path that was not asked for: "+hash))
		}
		delete(byHash, hash)
		todo = append(todo, info)
		if isStored[info.NarHash.String()] {
			p.noArchive[info] = true
		}
	}
	return todo, nil
}

// uploads is how a kind of cache takes paths. An archive comes before the paths that have it, a path after those that it refers to.
type uploads interface {
	// prepare comes before all else, once something is to be uploaded. storeDir is the paths'.
	prepare(ctx context.Context, storeDir string) error
	// upstreams are the keys of caches that hosts ask besides this one: it takes what they signed without its archive.
	upstreams(ctx context.Context) ([]nar.PublicKey, error)
	putArchive(ctx context.Context, info *nar.PathInfo) error
	// putInfo makes a path visible. differs says that the cache has it already, built otherwise, and keeps that.
	putInfo(ctx context.Context, info *nar.PathInfo) (differs bool, err error)
}

// manyInfos is what uploads can do besides.
type manyInfos interface {
	// putInfos is putInfo of several paths, each after those that it refers to. differ are their store paths.
	putInfos(ctx context.Context, infos []*nar.PathInfo) (differ []string, err error)
}

// infosTogether is how many paths are made visible together, if that can be done: for each time a cache has to write to its disk. What is
// interrupted before, has its archives sent.
const infosTogether = 100

// open finds out how the cache is to be pushed to, and notes those of the paths that another cache signed whose key this one trusts: it takes
// them without their archives. It asks for the keys, since a name says nothing.
func (p *push) open(ctx context.Context, paths []*nar.PathInfo) error {
	switch p.c.speaks() {
	case plain:
		p.to = &toFiles{push: p, files: map[nar.Hash]narFile{}}
	case attic:
		p.to = toAttic{p}
	default:
		p.to = toGarrison{p}
	}
	if err := p.to.prepare(ctx, path.Dir(paths[0].StorePath)); err != nil {
		return err
	}
	if !slices.ContainsFunc(paths, func(info *nar.PathInfo) bool { return len(info.Sigs) > 0 }) {
		return nil
	}
	keys, err := p.to.upstreams(ctx)
	if err != nil {
		return err
	}
	for _, info := range paths {
		if info.SignedBy(keys...) && !p.noArchive[info] {
			p.noArchive[info] = true
			p.stats.Upstream++
		}
	}
	return nil
}

func unusable(err error) error {
	return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "the paths to push cannot be used").WithCause(err)
}

// push is one call of Push.
type push struct {
	archiver
	c         *Client
	o         PushOptions
	to        uploads
	noArchive map[*nar.PathInfo]bool // only their descriptions are to be uploaded
	total     int
	narTotal  int64
	done      int

	mu      sync.Mutex // guards what follows, and calls of o.Progress
	stats   *Stats
	inParts map[*nar.PathInfo]int64 // of large archives under way: how much of NarSize has arrived
}

// run works through the plan with o.Parallel workers until all is done or one fails.
func (p *push) run(ctx context.Context, plan *plan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var workers sync.WaitGroup
	for range min(p.o.Parallel, p.total) {
		workers.Go(func() {
			for {
				job, ok := plan.next()
				if !ok {
					return
				}
				if err := p.do(ctx, job); err != nil {
					plan.fail(err)
					cancel()
					return
				}
				plan.done(job)
			}
		})
	}
	workers.Wait()
	return plan.err
}

func (p *push) do(ctx context.Context, j job) error {
	if j.archive != nil {
		return p.to.putArchive(ctx, j.archive.path)
	}
	if many, ok := p.to.(manyInfos); ok && len(j.infos) > 1 {
		differ, err := many.putInfos(ctx, j.paths())
		for _, info := range j.paths() {
			if err == nil {
				p.count(info, slices.Contains(differ, info.StorePath))
			}
		}
		return err
	}
	info := j.infos[0].path
	differs, err := p.to.putInfo(ctx, info)
	if err == nil {
		p.count(info, differs)
	}
	return err
}

func (p *push) count(info *nar.PathInfo, differs bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	delete(p.inParts, info)
	if !p.noArchive[info] {
		p.stats.Pushed++
		p.stats.NarBytes += info.NarSize
	}
	if differs {
		p.stats.Differ = append(p.stats.Differ, info.StorePath)
	}
	p.tell(info.StorePath)
}

// arrived notes that so many more of a large archive's compressed bytes are with the cache; 0 begins anew.
func (p *push) arrived(info *nar.PathInfo, bytes, of int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inParts == nil {
		p.inParts = map[*nar.PathInfo]int64{}
	}
	p.inParts[info] += int64(float64(info.NarSize) * float64(bytes) / float64(of))
	if bytes == 0 {
		p.inParts[info] = 0
	}
	p.tell("")
}

func (p *push) tell(storePath string) {
	if p.o.Progress == nil {
		return
	}
	bytes := p.stats.NarBytes
	for _, n := range p.inParts {
		bytes += n
	}
	p.o.Progress(Progress{storePath, p.done, p.total, bytes, p.narTotal})
}
