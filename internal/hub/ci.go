package hub

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/proc"
)

// Releaser makes releases; package release does, wired up in cli.
type Releaser interface {
	// Look fetches, and says what there is to release.
	Look(ctx context.Context) (Branches, error)
	// Release releases job's source. What it runs prints to out.
	Release(ctx context.Context, job Job, out io.Writer) (fleet.RunState, *fleet.ReleaseRef, error)
	// Tip is where a branch of the remote is now, "" when it is not there. It touches nothing that Release works with.
	Tip(ctx context.Context, branch string) (commit string, err error)
	// Tidy takes away the test releases whose test branches are gone, and gives mirrors what they lack.
	Tidy(ctx context.Context) error
}

// Branches are what CI follows.
type Branches struct {
	Source fleet.Source            // its Commit is "" when there is none to release
	Tests  map[string]fleet.Source // the test branches, by host
	Left   bool                    // there are test releases whose test branches are gone, or mirrors that lag behind
}

// Job is what to release.
type Job struct {
	Source fleet.Source
	Test   string // the one host that it is for; "" for the fleet
	// RollbackTo is the release, made of Source, that is to be released again; 0 for none.
	RollbackTo int
	Ordered    time.Time // when somebody said so
}

// trace is the traceparent of j's release: whoever makes one of that commit finds the same.
func (j Job) trace() string {
	of := ""
	if j.Test != "" {
		of = j.Source.Branch
	}
	return fleet.NewTrace(j.Source.Commit, of).String()
}

// CIOptions are what a CI needs.
type CIOptions struct {
	Releaser Releaser
	Hub      *Hub
	Released func(fleet.ReleaseRef) // is told of what is published; nil: agents are woken
	Forge    forge.Forge            // is told how far runs are; may be nil
	Poll     time.Duration
	LogDir   string
	Log      *slog.Logger
}

// CI follows the source branch and hosts' test branches: one run at a time, for the newest commit, the source branch first. What is pushed to it
// ends a run that has not begun to publish.
type CI struct {
	CIOptions
	wake chan struct{}

	mu     sync.Mutex
	heard  time.Time // when somebody first said that there is something, since the last look
	source string    // name of the source branch; "" before the first look
	back   Job       // an older release that somebody ordered to be released again
}

// NewCI makes a CI; its Wake may be called before Run.
func NewCI(o CIOptions) *CI {
	return &CI{CIOptions: o, wake: make(chan struct{}, 1)}
}

// Wake has CI look at its branches. at is when somebody said that there is something.
func (c *CI) Wake(at time.Time) {
	c.mu.Lock()
	if c.heard.IsZero() {
		c.heard = at.UTC()
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // it is going to look anyway
	}
}

// Abort has CI release an older release again, made of that source, before anything else. Told again, it changes nothing unless it is another one.
func (c *CI) Abort(o fleet.RolloutOrder, of fleet.Source) {
	of.PushedAt = nil
	c.mu.Lock()
	isNew := c.back.RollbackTo != o.To || !c.back.Ordered.Equal(o.At)
	c.back = Job{Source: of, RollbackTo: o.To, Ordered: o.At}
	c.mu.Unlock()
	if isNew {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// hint is when somebody said that there is something; it is forgotten thereby.
func (c *CI) hint() (heard time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	heard, c.heard = c.heard, time.Time{}
	return heard
}

const testSuffix = "-test"

// Concerns says whether the ref is one that CI follows.
func (c *CI) Concerns(ref string) bool {
	branch, ok := strings.CutPrefix(ref, "refs/heads/")
	c.mu.Lock()
	defer c.mu.Unlock()
	_, isTest := testedBy(branch)
	return ok && (c.source == "" || branch == c.source || isTest)
}

// testedBy is the host whose test branch this is.
func testedBy(branch string) (host string, ok bool) {
	host, ok = strings.CutSuffix(branch, testSuffix)
	return host, ok && fleet.ValidHostName(host) && !isTestRelease(branch)
}

// LogFile is where a run's log stands.
func LogFile(dir string, id int64) string {
	return filepath.Join(dir, strconv.FormatInt(id, 10)+".log")
}

const (
	leastPause = time.Second
	maxRunTime = 6 * time.Hour // a build that hangs must not stop the fleet for ever
)

// followed is what CI knows of a branch.
type followed struct {
	tip      string
	pushed   *time.Time // when somebody said so
	done     bool       // the tip needs no more work
	failures int        // of the tip
	due      time.Time
}

// see notes where the branch is.
func (b *followed) see(tip string, heard time.Time) {
	if tip == b.tip {
		return
	}
	*b = followed{tip: tip}
	if !heard.IsZero() {
		b.pushed = &heard
	}
}

// waits says whether there is something to do, now or later.
func (b *followed) waits() bool { return b.tip != "" && !b.done }

// Run follows the branches until ctx ends. A commit whose release failed for a reason of its own is not
// tried again; one that met a transient failure, or one of this machine, is, with growing pauses.
func (c *CI) Run(ctx context.Context) {
	c.markInterrupted(ctx)
	main, tests, back := &followed{}, c.testsDone(ctx), &followed{}
	looks := 0 // that failed
	for pause := time.Duration(0); ; {
		woken := false
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		case <-c.wake:
			woken = true
		}
		t := &proc.Timeline{}
		heard := c.hint()
		seen, err := c.look(proc.WithTimeline(ctx, t))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.Log.Warn("CI cannot look at the source branch", "stage", fleet.Fetch, "err", err)
			looks++
			pause = c.backoff(looks)
			if !heard.IsZero() {
				c.keepHint(heard)
			}
			continue
		}
		looks = 0
		c.note(seen, main, tests, heard)
		if woken || !heard.IsZero() { // somebody may have mended what was in the way
			main.due, back.due = time.Time{}, time.Time{}
		}
		if c.goBack(ctx, seen, back, t) {
			pause = 0
			continue
		}
		pause = c.work(ctx, seen, main, tests, t)
		if back.waits() {
			pause = min(pause, max(0, time.Until(back.due)))
		}
	}
}

func (c *CI) keepHint(heard time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = heard
}

func (c *CI) look(ctx context.Context) (seen Branches, err error) {
	err = proc.Stage(ctx, fleet.Fetch, func() error {
		seen, err = c.Releaser.Look(ctx)
		return err
	})
	return seen, err
}

// note brings what is known of the branches up to date.
func (c *CI) note(seen Branches, main *followed, tests map[string]*followed, heard time.Time) {
	c.mu.Lock()
	c.source = seen.Source.Branch
	c.mu.Unlock()
	main.see(seen.Source.Commit, heard)
	for host, s := range seen.Tests {
		if tests[host] == nil {
			tests[host] = &followed{}
		}
		tests[host].see(s.Commit, heard)
	}
	maps.DeleteFunc(tests, func(host string, _ *followed) bool { return seen.Tests[host].Commit == "" })
}

// work does the one thing that is most due, and says when to look again.
func (c *CI) work(ctx context.Context, seen Branches, main *followed, tests map[string]*followed, t *proc.Timeline) (pause time.Duration) {
	now := time.Now()
	if main.waits() && !main.due.After(now) {
		c.release(ctx, Job{Source: seen.Source}, main, seen, t)
		return 0 // something newer may have come meanwhile
	}
	if seen.Left {
		switch err := c.Releaser.Tidy(ctx); {
		case ctx.Err() != nil:
			return 0
		case err == nil:
			c.Log.Info("test releases whose branches are gone were taken away, and mirrors asked what they lack")
		default: // which is no reason to let the rest wait
			c.Log.Warn("what earlier runs left cannot be tidied", "err", err)
		}
	}
	for _, host := range slices.Sorted(maps.Keys(tests)) {
		if b := tests[host]; b.waits() && !b.due.After(now) {
			c.release(ctx, Job{Source: seen.Tests[host], Test: host}, b, seen, t)
			return 0
		}
	}
	pause = jittered(c.Poll)
	for _, b := range append(slices.Collect(maps.Values(tests)), main) {
		if b.waits() {
			pause = min(pause, time.Until(b.due))
		}
	}
	return max(0, pause)
}

// goBack makes the release that an abort asks for, if one does.
func (c *CI) goBack(ctx context.Context, seen Branches, b *followed, t *proc.Timeline) bool {
	c.mu.Lock()
	job := c.back
	c.mu.Unlock()
	if job.RollbackTo == 0 {
		return false
	}
	b.see(job.Ordered.String(), time.Time{})
	if !b.waits() || b.due.After(time.Now()) {
		return false
	}
	c.release(ctx, job, b, seen, t)
	return true
}

// release makes a run, and notes what it came to.
func (c *CI) release(ctx context.Context, job Job, b *followed, seen Branches, t *proc.Timeline) {
	job.Source.PushedAt = b.pushed
	failure, err := c.run(ctx, job, seen.Source, t)
	if err != nil {
		c.Log.Error("a CI run cannot be kept", "commit", job.Source.Commit, "err", err)
	}
	switch {
	case fleet.CodeOf(failure) == fleet.CodeSuperseded: // what did that is looked at next
	case failure != nil && fleet.ClassOf(failure) != fleet.Bad:
		b.failures++
		b.due = time.Now().Add(c.backoff(b.failures))
	default:
		b.failures, b.done = 0, true
	}
}

func (c *CI) backoff(failures int) time.Duration {
	return jittered(min(c.Poll, leastPause<<min(failures-1, 12)))
}

func jittered(d time.Duration) time.Duration {
	return time.Duration((0.9 + 0.2*rand.Float64()) * float64(d))
}
