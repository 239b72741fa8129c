package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/proc"
)

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

	// Hosts are evaluated together so many that it takes about as long as aim; after limit each is evaluated by itself.
	aim, limit time.Duration
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
	return &evaluator{nix: &limited, jobs: jobs, hint: of.hint, aim: time.Second, limit: 15 * time.Second}
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
	return e, v.hosts(ctx, e)
}

// hosts evaluates each host once, and reports all that fail. Small ones are evaluated several in one process, since most of
// such an evaluation is that Nix starts; when that fails, for whatever reason, each of them is evaluated by itself.
func (v *evaluator) hosts(ctx context.Context, e *evaluation) error {
	errs := make([]error, len(e.hosts))
	var mu sync.Mutex
	done := 0
	tell := func() {
		if v.told != nil {
			v.told(done, len(e.hosts))
		}
	}
	tell()
	end := func(i int, err error) {
		mu.Lock()
		defer mu.Unlock()
		errs[i] = v.hinted(err)
		if v.each != nil {
			v.each(e.hosts[i], errs[i])
		}
		done++
		tell()
	}
	failed := v.batches(ctx, e.hosts, end)
	v.parallel(len(failed), func(k int) {
		i := failed[k]
		end(i, v.nix.Hosts(ctx, e.hosts[i:i+1]))
	})
	if ctx.Err() != nil {
		return fmt.Errorf("evaluate: %w", context.Cause(ctx))
	}
	return joinErrors("hosts do not evaluate", e.names(), errs)
}

// batches evaluates hosts in batches and calls end for each that was evaluated, or failed by itself. It returns those of
// batches that failed.
func (v *evaluator) batches(ctx context.Context, hosts []nix.Host, end func(i int, err error)) (failed []int) {
	var mu sync.Mutex
	p := &pace{of: len(hosts), aim: v.aim, size: 1, most: min((len(hosts)+v.jobs-1)/v.jobs, batchMost)}
	v.parallel(v.jobs, func(int) {
		for from, to := p.take(); from < to && ctx.Err() == nil; from, to = p.take() {
			began := time.Now()
			err := v.together(ctx, hosts[from:to])
			p.learn(to-from, time.Since(began), err)
			for i := from; i < to; i++ {
				if err == nil || to-from == 1 {
					end(i, err)
					continue
				}
				mu.Lock()
				failed = append(failed, i)
				mu.Unlock()
			}
		}
	})
	return failed
}

// What several evaluations in one process may be.
const (
	batchMost  = 64              // hosts: what asks for them must fit into an argument
	batchHeap  = evalMemoryLeast // bytes
	batchWords = 64 << 10        // bytes that are passed on of what Nix says
)

// together evaluates hosts in one process, within the bounds of several when they are.
func (v *evaluator) together(ctx context.Context, hosts []nix.Host) error {
	if len(hosts) == 1 {
		return v.nix.Hosts(ctx, hosts)
	}
	limited := *v.nix
	if limited.EvalHeap == 0 || limited.EvalHeap > batchHeap {
		limited.EvalHeap = batchHeap
	}
	said := &proc.Tail{Limit: batchWords}
	limited.Log = said
	limit, cancel := context.WithTimeout(ctx, v.limit)
	defer cancel()
	err := limited.Hosts(limit, hosts)
	if err == nil && v.nix.Log != nil { // else they are evaluated again, and it is said then
		_, _ = io.WriteString(v.nix.Log, said.String())
	}
	return err
}

// pace deals out a number of hosts, as many at a time as those before were quick.
type pace struct {
	mu         sync.Mutex
	next, of   int
	aim        time.Duration
	size, most int // how many the next ones are, and may be
}

// take returns the next ones: from … to-1, none when all were taken.
func (p *pace) take() (from, to int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	from = p.next
	p.next = min(from+p.size, p.of)
	return from, p.next
}

// learn is told how the evaluation of n hosts went.
func (p *pace) learn(n int, took time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.size = int(p.aim / max(took/time.Duration(n), 1))
	case n > 1:
		p.most = max(n/2, 1)
	}
	p.size = max(1, min(p.size, p.most))
}

// hinted adds the source's hint to an error that has none.
func (v *evaluator) hinted(err error) error {
	var e *fleet.Error
	if v.hint != "" && errors.As(err, &e) && e.Hint == "" {
		return e.WithHint("%s", v.hint)
	}
	return err
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
