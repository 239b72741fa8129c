package release

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
)

// evaluation is what one commit's flakes say.
type evaluation struct {
	contents []nix.Contents // of each flake
	flakes   []nix.Flake
	hosts    []nix.Host // sorted by name
}

// followed are the hosts that agents deploy, byHand the others: the manual ones and those that do not run NixOS.
func (e *evaluation) split(manual []string) (followed, byHand []nix.Host) {
	for _, h := range e.hosts {
		if h.Kind != nix.NixOS || slices.Contains(manual, h.Name) {
			byHand = append(byHand, h)
		} else {
			followed = append(followed, h)
		}
	}
	return followed, byHand
}

// secretPath is the path in the repository of a file that a host's evaluation names.
func (e *evaluation) secretPath(file string) (string, bool) {
	for _, c := range e.contents { // all are of the same tree
		if p, ok := c.SecretPath(file); ok {
			return p, true
		}
	}
	return "", false
}

// flakesIn finds the flakes to look at among a commit's files: those in folders that one of the patterns matches, and
// the one at the root. A pattern that matches no flake is an error: a host must not be left out by a slip.
func flakesIn(files map[string]string, patterns []string, at nix.Flake) ([]nix.Flake, error) {
	var flakes []nix.Flake
	if _, root := files["flake.nix"]; root {
		flakes = append(flakes, at)
	} else if len(patterns) == 0 {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeNoHosts, "there is no flake.nix at the root of %.12s", at.Commit).
			WithHint("add one, or name the folders of flakes in %s: flakes = [\"hosts/*\"]", ConfigPath)
	}
	for _, pattern := range patterns {
		matched := false
		for _, file := range slices.Sorted(maps.Keys(files)) {
			dir, isFlake := strings.CutSuffix(file, "/flake.nix")
			if ok, err := path.Match(pattern, dir); err != nil {
				return nil, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: flakes has %q, which is not a pattern", ConfigPath, pattern).WithCause(err)
			} else if !ok || !isFlake {
				continue
			}
			matched = true
			f := at
			f.Dir = dir
			if !slices.Contains(flakes, f) {
				flakes = append(flakes, f)
			}
		}
		if !matched {
			return nil, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: flakes has %q, which matches no folder with a flake.nix", ConfigPath, pattern)
		}
	}
	return flakes, nil
}

// evaluator evaluates flakes, some hosts at a time.
type evaluator struct {
	nix    *nix.Nix
	jobs   int    // at a time
	system string // whose checks are listed
	// only is the one host to evaluate; "" for all.
	only string
	// accept is asked about the hosts' names before any of them is evaluated; may be nil.
	accept func(names []string) error
	// each is called for every host when it was evaluated, never twice at the same time.
	each func(h nix.Host, err error)
	// told is how many hosts have been evaluated, of how many; called as each is. May be nil.
	told func(done, total int)
	hint string // for what does not evaluate
}

// evalMemoryLeast is what an evaluation needs at the least to be worth starting, in bytes.
const evalMemoryLeast = 512 << 20

// newEvaluator is for evaluations of a source. They are bounded by cores and, if memory (bytes) is not 0, by what they may take all together.
func newEvaluator(n *nix.Nix, of *source, jobs int, memory int64) *evaluator {
	if jobs <= 0 {
		jobs = runtime.NumCPU()
	}
	limited := *n
	limited.Env = of.Env
	if memory > 0 {
		jobs = int(max(1, min(int64(jobs), memory/evalMemoryLeast)))
		limited.EvalHeap = memory / int64(jobs)
	}
	return &evaluator{nix: &limited, jobs: jobs, hint: of.hint}
}

// all evaluates every host of every flake once, and reports all that fail, not only the first.
func (v *evaluator) all(ctx context.Context, flakes []nix.Flake) (*evaluation, error) {
	e := &evaluation{flakes: flakes, contents: make([]nix.Contents, len(flakes))}
	errs := make([]error, len(flakes))
	v.parallel(len(flakes), func(i int) {
		e.contents[i], errs[i] = v.nix.Contents(ctx, flakes[i], v.system)
		errs[i] = v.hinted(errs[i])
	})
	if ctx.Err() != nil {
		return nil, fmt.Errorf("evaluate: %w", context.Cause(ctx))
	}
	names := make([]string, len(flakes))
	for i, f := range flakes {
		names[i] = f.Name()
	}
	if err := joinErrors("flakes do not evaluate", names, errs); err != nil {
		return nil, err
	}
	if err := e.list(); err != nil {
		return nil, err
	}
	if v.only != "" {
		if err := e.keepOnly(v.only); err != nil {
			return nil, err
		}
	}
	if v.accept != nil {
		if err := v.accept(e.names()); err != nil {
			return nil, err
		}
	}
	errs = make([]error, len(e.hosts))
	var mu sync.Mutex
	done := 0
	tell := func() {
		if v.told != nil {
			v.told(done, len(e.hosts))
		}
	}
	tell()
	v.parallel(len(e.hosts), func(i int) {
		h := e.hosts[i]
		got, err := v.nix.Host(ctx, h.Flake, h.Kind, h.Name)
		err = v.hinted(err)
		mu.Lock()
		defer mu.Unlock()
		e.hosts[i], errs[i] = got, err
		if v.each != nil {
			v.each(got, err)
		}
		done++
		tell()
	})
	if ctx.Err() != nil {
		return e, fmt.Errorf("evaluate: %w", context.Cause(ctx))
	}
	return e, joinErrors("hosts do not evaluate", e.names(), errs)
}

// hinted adds the source's hint to an error that has none.
func (v *evaluator) hinted(err error) error {
	var e *fleet.Error
	if v.hint != "" && errors.As(err, &e) && e.Hint == "" {
		return e.WithHint("%s", v.hint)
	}
	return err
}

// list enumerates the hosts. Two of the same name, and a flake without any, are errors.
func (e *evaluation) list() error {
	where := map[string]nix.Flake{}
	for i, c := range e.contents {
		f := e.flakes[i]
		if len(c.NixOS)+len(c.Darwin) == 0 {
			return fleet.Errorf(fleet.Bad, fleet.CodeNoHosts, "%s has no nixosConfigurations", f.Name()).
				WithHint("declare each host in flake.nix as nixosConfigurations.<name>")
		}
		for kind, names := range map[nix.Kind][]string{nix.NixOS: c.NixOS, nix.Darwin: c.Darwin} {
			for _, name := range names {
				if other, twice := where[name]; twice {
					return fleet.Errorf(fleet.Bad, fleet.CodeNoSuchHost, "host %s is declared twice, by %s and by %s", name, other.Name(), f.Name()).
						WithHint("host names must be unique in a fleet")
				}
				where[name] = f
				e.hosts = append(e.hosts, nix.Host{Name: name, Kind: kind, Flake: f})
			}
		}
	}
	slices.SortFunc(e.hosts, func(a, b nix.Host) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// keepOnly leaves all hosts out but one.
func (e *evaluation) keepOnly(host string) error {
	i := slices.IndexFunc(e.hosts, func(h nix.Host) bool { return h.Name == host })
	if i < 0 {
		return fleet.Errorf(fleet.Local, fleet.CodeNoSuchHost, "there is no host %s in the flake", host).
			WithHint("its nixosConfigurations are: %s", strings.Join(e.names(), ", "))
	}
	e.hosts = e.hosts[i : i+1]
	return nil
}

// names of all hosts, sorted.
func (e *evaluation) names() []string {
	names := make([]string, len(e.hosts))
	for i, h := range e.hosts {
		names[i] = h.Name
	}
	return names
}

// parallel calls f for 0 … n-1, v.jobs at a time.
func (v *evaluator) parallel(n int, f func(int)) {
	slots := make(chan struct{}, v.jobs)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			f(i)
		})
	}
	wg.Wait()
}

// maxFailures bounds how many failures are told in full; all are named.
const maxFailures = 8

// joinErrors makes one error of those of several things, by their names; what says what they are and do not do. It
// blames the fleet only when all of them do.
func joinErrors(what string, names []string, errs []error) error {
	var failed, texts []string
	var first, worst error
	for i, err := range errs {
		if err == nil {
			continue
		}
		if first == nil {
			first = err
		}
		if worst == nil || fleet.ClassOf(worst) == fleet.Bad {
			worst = err
		}
		failed = append(failed, names[i])
		if len(texts) < maxFailures {
			texts = append(texts, err.Error())
		}
	}
	if len(failed) <= 1 {
		return first
	}
	return fleet.Errorf(fleet.ClassOf(worst), fleet.CodeOf(worst), "%d %s: %s\n%s", len(failed), what, strings.Join(failed, ", "), strings.Join(texts, "\n"))
}
