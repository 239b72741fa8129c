package release

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix"
)

// build builds what the cache does not have. Hosts of systems that this machine cannot build for are left to themselves.
func (s *state) build(ctx context.Context) error {
	cached, err := s.cached(ctx)
	if err != nil {
		return err
	}
	var todo []nix.Host
	var systems []string // asked for when a host is of another system than this machine
	for _, h := range s.hosts {
		if _, isCached := cached[h.OutPath]; isCached {
			s.note(h.Name, func(e *fleet.Entry) { e.Built = true })
			continue
		}
		if h.System != nix.Native() && systems == nil {
			if systems, err = s.Nix.Systems(ctx); err != nil {
				return err
			}
		}
		if h.System == nix.Native() || slices.Contains(systems, h.System) {
			todo = append(todo, h)
			continue
		}
		s.Log.Warn("left to the host to build", "host", h.Name, "system", h.System)
	}
	if err := s.buildHosts(ctx, todo); err != nil {
		return err
	}
	for name, e := range s.entries {
		if size, known := cached[e.OutPath]; known {
			e.ClosurePaths, e.ClosureBytes = size.paths, size.bytes
			s.entries[name] = e
		}
	}
	return nil
}

// note changes a host's entry.
func (s *state) note(host string, change func(*fleet.Entry)) {
	e := s.entries[host]
	change(&e)
	s.entries[host] = e
}

// size is how large a closure is.
type closureSize struct {
	paths int
	bytes int64
}

// cached finds which toplevels the cache has, and how large their closures are. Of one that the previous release had not, the closure is walked:
// a cache that lost a part of it is to get it again.
func (s *state) cached(ctx context.Context) (map[string]closureSize, error) {
	byHash := map[string]string{}
	for _, h := range s.hosts {
		hash, err := nar.HashPart(h.OutPath)
		if err != nil {
			return nil, fleet.Errorf(fleet.Bad, fleet.CodeEvaluate, "host %s", h.Name).WithCause(err)
		}
		byHash[hash] = h.OutPath
	}
	hashes := make([]string, 0, len(byHash))
	for hash := range byHash {
		hashes = append(hashes, hash)
	}
	slices.Sort(hashes)
	missing, err := s.cache.Missing(ctx, hashes)
	if err != nil {
		return nil, err
	}
	for _, hash := range missing {
		delete(byHash, hash)
	}
	sizes := map[string]closureSize{}
	for _, top := range byHash {
		if size, known := s.released(top); known {
			sizes[top] = size
			continue
		}
		have, lost, err := s.cache.Closure(ctx, []string{top})
		if err != nil {
			return nil, err
		}
		if len(lost) == 0 {
			sizes[top] = sizeOf(index(have), top)
		}
	}
	return sizes, nil
}

// released is the size of a closure that the previous release had built.
func (s *state) released(top string) (closureSize, bool) {
	if s.prev == nil {
		return closureSize{}, false
	}
	for _, e := range s.prev.manifest.Hosts {
		if e.OutPath == top && e.Built && e.ClosurePaths > 0 {
			return closureSize{e.ClosurePaths, e.ClosureBytes}, true
		}
	}
	return closureSize{}, false
}

// buildHosts builds hosts' systems and roots them. What fails is an error, unless it was allowed to.
func (s *state) buildHosts(ctx context.Context, hosts []nix.Host) error {
	roots := filepath.Join(s.Repo.Dir, "garrison-roots")
	// Those of the previous run go: a fleet that shrinks would leave some behind for ever, and what was released is in the cache.
	if err := errors.Join(os.RemoveAll(roots), os.MkdirAll(roots, 0o755)); err != nil {
		return stateError(s.Repo, err)
	}
	if len(hosts) == 0 {
		return nil
	}
	var drvs []string
	for _, h := range hosts {
		drvs = append(drvs, h.DrvPath)
	}
	failure := s.Nix.Build(ctx, drvs, roots)
	if failure != nil {
		if err := s.failedBuild(ctx, hosts, failure); err != nil {
			return err
		}
	}
	for _, h := range hosts {
		if !slices.Contains(s.outcome.Failed, h.Name) {
			s.note(h.Name, func(e *fleet.Entry) { e.Built = true })
			s.built = append(s.built, h.OutPath)
		}
	}
	return nil
}

// failedBuild says which hosts a failure concerns. If the release may go on without them, they keep their previous entries and it returns nil.
func (s *state) failedBuild(ctx context.Context, hosts []nix.Host, failure error) error {
	if ctx.Err() != nil {
		return failure
	}
	var failed []string
	class := fleet.ClassOf(failure)
	for _, h := range hosts {
		built, err := s.Nix.Valid(ctx, h.OutPath)
		if err != nil {
			return failure
		}
		if built {
			continue
		}
		failed = append(failed, h.Name)
		if there, err := s.Nix.Valid(ctx, h.DrvPath); err == nil && !there {
			class = fleet.Transient // collected as garbage before it was built
		}
	}
	what := "the build fails"
	if len(failed) > 0 {
		what = strings.Join(failed, ", ") + " cannot be built"
		if class == fleet.Bad {
			what = strings.Join(failed, ", ") + " does not build"
		}
	}
	err := fleet.Errorf(class, fleet.CodeBuild, "%s:\n%s", what, failure)
	if class != fleet.Bad || !s.KeepGoing || len(failed) == 0 {
		return err
	}
	return s.keepPrevious(failed, err)
}

// keepPrevious gives hosts their entries of the previous release, or says for which that may not be.
func (s *state) keepPrevious(failed []string, failure *fleet.Error) error {
	var not []string
	for _, name := range failed {
		if !slices.Contains(s.config.Hosts.Partial, name) || s.prev == nil || s.prev.manifest.Hosts[name].OutPath == "" {
			not = append(not, name)
		}
	}
	if not != nil {
		return failure.WithHint("--keep-going does not help: %s is not among hosts.partial in %s, or was never released", strings.Join(not, ", "), ConfigPath)
	}
	for _, name := range failed {
		e := s.prev.manifest.Hosts[name]
		e.Changed, e.Previous, e.Error = false, e.OutPath, failure.Error()
		s.entries[name] = e
		s.Log.Error("a host keeps its previous system", "host", name, "err", failure.What)
	}
	s.outcome.Failed = failed
	return nil
}

// push sends what was built to the cache and notes how large each closure is.
func (s *state) push(ctx context.Context) error {
	closure, err := s.Nix.Closure(ctx, s.built)
	if err != nil {
		return err
	}
	byPath := index(closure)
	for name, e := range s.entries {
		if slices.Contains(s.built, e.OutPath) {
			size := sizeOf(byPath, e.OutPath)
			e.ClosurePaths, e.ClosureBytes = size.paths, size.bytes
			s.entries[name] = e
		}
	}
	stats := client.Stats{}
	if len(closure) > 0 {
		stats, err = s.cache.Push(ctx, closure, client.PushOptions{RealStoreDir: s.Nix.RealStoreDir(), Progress: s.Pushed})
	}
	s.outcome.Pushed = &stats
	if err != nil {
		return err
	}
	return s.pin(ctx)
}

// pinned is how many systems of each host are kept in the cache whatever its retention: the one that it runs, the one before, and one to come.
const pinned = 3

// pin keeps the systems that change in the cache, before any host is told of them.
func (s *state) pin(ctx context.Context) error {
	var pins []client.Pin
	for _, name := range slices.Sorted(maps.Keys(s.entries)) {
		if e := s.entries[name]; e.Built && e.Changed {
			pins = append(pins, client.Pin{Name: fmt.Sprintf("release/%s/%d", name, s.number), StorePath: e.OutPath, KeepLast: pinned})
		}
	}
	if len(pins) == 0 {
		return nil
	}
	err := s.cache.Pin(ctx, pins...)
	if errors.Is(err, client.ErrNoPins) { // what another kind of cache keeps is a matter of its own
		return nil
	}
	return err
}

func index(closure []nar.PathInfo) map[string]nar.PathInfo {
	byPath := make(map[string]nar.PathInfo, len(closure))
	for _, p := range closure {
		byPath[p.StorePath] = p
	}
	return byPath
}

// sizeOf counts the paths of a closure and adds up their NAR sizes.
func sizeOf(byPath map[string]nar.PathInfo, top string) closureSize {
	var size closureSize
	paths, _ := closureIn(byPath, top)
	for _, p := range paths {
		size.paths++
		size.bytes += p.NarSize
	}
	return size
}

// closureIn lists top and all that it refers to, from what is known of them; missing is a path that nothing is known of.
func closureIn(byPath map[string]nar.PathInfo, top string) (paths []nar.PathInfo, missing string) {
	seen := map[string]bool{top: true}
	for queue := []string{top}; len(queue) > 0; queue = queue[1:] {
		p, known := byPath[queue[0]]
		if !known {
			missing = queue[0]
			continue
		}
		paths = append(paths, p)
		for _, ref := range p.References {
			if !seen[ref] {
				seen[ref] = true
				queue = append(queue, ref)
			}
		}
	}
	return paths, missing
}
