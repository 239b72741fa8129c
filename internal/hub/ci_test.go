package hub_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/proc"
)

// fake is a Releaser whose branch and results the test says.
type fake struct {
	mu       sync.Mutex
	tip      string
	tipErr   error
	failures map[string][]error // by commit, one a run; then it succeeds
	during   func(ctx context.Context, commit string)
	looks    int
	released []fleet.Source
	tests    map[string]string // by host
	left     bool              // test releases to tidy
	tidied   int
	tidyErr  error

	succeeded map[string]bool // by commit
}

func (f *fake) Look(context.Context) (hub.Branches, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	b := hub.Branches{Source: fleet.Source{Commit: f.tip, Branch: "main"}, Tests: map[string]fleet.Source{}, Left: f.left}
	for host, tip := range f.tests {
		b.Tests[host] = fleet.Source{Commit: tip, Branch: host + "-test"}
	}
	return b, f.tipErr
}

func (f *fake) Tip(_ context.Context, branch string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if host, ok := strings.CutSuffix(branch, "-test"); ok {
		return f.tests[host], f.tipErr
	}
	return f.tip, f.tipErr
}

func (f *fake) Tidy(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tidied++
	f.left = f.tidyErr != nil
	return f.tidyErr
}

func (f *fake) Release(ctx context.Context, job hub.Job, out io.Writer) (fleet.RunState, *fleet.ReleaseRef, error) {
	s := job.Source
	f.mu.Lock()
	f.released = append(f.released, s)
	n, during := len(f.released), f.during
	var err error
	if list := f.failures[s.Commit]; len(list) > 0 {
		err, f.failures[s.Commit] = list[0], list[1:]
	}
	f.mu.Unlock()
	err = proc.Stage(ctx, fleet.Build, func() error {
		fmt.Fprintf(out, "building %s\n", s.Commit)
		if during != nil {
			during(ctx, s.Commit)
		}
		return errors.Join(err, ctx.Err())
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.succeeded == nil {
		f.succeeded = map[string]bool{}
	}
	f.succeeded[s.Commit] = err == nil
	return fleet.RunReleased, &fleet.ReleaseRef{Number: n}, err
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// commits are those that were released, or tried to.
func (f *fake) commits() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var c []string
	for _, s := range f.released {
		c = append(c, s.Commit)
	}
	return c
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("it never came to this: %s", what)
}

// start runs a CI until the test ends, or stop is called.
func (w *world) start(f *fake, poll time.Duration) (ci *hub.CI, stop func()) {
	ci = hub.NewCI(hub.CIOptions{Releaser: f, Hub: w.Hub, Poll: poll, LogDir: w.dir, Log: slog.New(slog.NewTextHandler(w.log, nil))})
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); ci.Run(ctx) }()
	stop = func() { cancel(); <-done }
	w.t.Cleanup(stop)
	return ci, stop
}

// runs are the store's, oldest first.
func (w *world) runs() []fleet.Run {
	w.t.Helper()
	list, err := w.store.Runs(context.WithoutCancel(w.t.Context()), 100)
	must(w.t, err)
	slices.Reverse(list)
	return list
}

// ended waits for n runs to have ended and returns all.
func (w *world) ended(n int) []fleet.Run {
	w.t.Helper()
	until(w.t, fmt.Sprint(n, " runs have ended"), func() bool {
		list := w.runs()
		return len(list) >= n && list[n-1].EndedAt != nil
	})
	return w.runs()
}

func TestCIReleasesAndWakes(t *testing.T) {
	w, f := newWorld(t), &fake{}
	agent, leave := w.listen("/api/v1/stream", "report:joker")
	defer leave()
	ci, _ := w.start(f, time.Hour)
	until(t, "it looked", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.looks == 1 }) // an empty repository is no failure
	heard := time.Now()
	f.set(func() { f.tip = "a" })
	ci.Wake(heard)
	runs := w.ended(1)
	wantEvents(t, agent, "wake")
	r := runs[0]
	if r.State != fleet.RunReleased || r.Source.Commit != "a" || !r.Source.PushedAt.Equal(heard) || r.Release.Number != 1 || r.Failure != nil || r.Stage != "" ||
		len(r.Stages) != 2 || r.Stages[0].Stage != fleet.Fetch || r.Stages[1].Stage != fleet.Build {
		t.Errorf("%+v", r)
	}
	log, err := os.ReadFile(hub.LogFile(w.dir, r.ID))
	if err != nil || !strings.Contains(string(log), "stage build begins") || !strings.Contains(string(log), "building a\n") {
		t.Errorf("%s, %v", log, err)
	}
	// A wake for what is known does nothing, and is forgotten: the next commit was not pushed then.
	until(t, "it looked behind the run", func() bool { return f.looksNow() == 3 })
	ci.Wake(time.Now())
	until(t, "it looked again", func() bool { return f.looksNow() == 4 })
	before := time.Now()
	f.set(func() { f.tip = "b" })
	ci.Wake(time.Now())
	if r := w.ended(2)[1]; r.Source.Commit != "b" || r.Source.PushedAt.Before(before.UTC()) {
		t.Errorf("%+v", r)
	}
}

func TestCIRetries(t *testing.T) {
	w := newWorld(t)
	bad := fleet.Errorf(fleet.Bad, fleet.CodeBuild, "joker does not build")
	passing := fleet.Errorf(fleet.Transient, fleet.CodeCache, "cannot reach https://ci:s3cret@cache/").WithHint("is it up?")
	local := errors.New("disk full")
	f := &fake{tip: "flaky", failures: map[string][]error{"bad": {bad}, "flaky": {passing, local}}}
	ci, _ := w.start(f, 20*time.Millisecond) // pauses are never longer than that
	runs := w.ended(3)
	if runs[0].Failure.Class != fleet.Transient || runs[0].Failure.Stage != fleet.Build || runs[0].Failure.Hint != "is it up?" || runs[0].Stage != fleet.Build ||
		runs[1].Failure.Class != fleet.Local || runs[2].State != fleet.RunReleased {
		t.Errorf("%+v", runs)
	}
	f.set(func() { f.tip = "bad" })
	runs = w.ended(4)
	if fail := runs[3].Failure; fail == nil || fail.Code != fleet.CodeBuild || runs[3].State != fleet.RunFailed {
		t.Errorf("%+v", runs[3])
	}
	looks := f.looksNow()
	for range 3 {
		ci.Wake(time.Now())
		time.Sleep(10 * time.Millisecond)
	}
	until(t, "it went on looking", func() bool { return f.looksNow() >= looks+3 })
	f.set(func() { f.tip = "good" })
	w.ended(5)
	if got := f.commits(); !slices.Equal(got, []string{"flaky", "flaky", "flaky", "bad", "good"}) {
		t.Errorf("released %v", got)
	}
	log, err := os.ReadFile(hub.LogFile(w.dir, runs[0].ID))
	must(t, err)
	if all := string(log) + w.log.String() + runs[0].Failure.Message; strings.Contains(all, "s3cret") || !strings.Contains(string(log), "failed: cannot reach https://…@cache/") {
		t.Errorf("credentials in a log: %s", all)
	}
}

func (f *fake) looksNow() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looks
}

// TestCIBacksOff: a commit that fails for the moment is tried again soon, but not at once; a wake does not wait.
func TestCIBacksOff(t *testing.T) {
	w := newWorld(t)
	transient := fleet.Errorf(fleet.Transient, fleet.CodeCache, "down")
	f := &fake{tip: "a", failures: map[string][]error{"a": {transient, transient, transient}}}
	ci, _ := w.start(f, time.Hour)
	first := w.ended(1)[0]
	if second := w.ended(2)[1]; second.StartedAt.Sub(*first.EndedAt) < leastPause*8/10 {
		t.Errorf("tried again after %s", second.StartedAt.Sub(*first.EndedAt))
	}
	began := time.Now()
	ci.Wake(began)
	if third := w.ended(3)[2]; third.StartedAt.Sub(began) > leastPause*17/10 { // the pause would be about twice that
		t.Errorf("a wake took %s", third.StartedAt.Sub(began))
	}
	f.set(func() { f.tipErr = errors.New("remote down") })
	looks := f.looksNow()
	ci.Wake(time.Now())
	until(t, "it looked, and will again", func() bool { return f.looksNow() > looks })
}

const leastPause = time.Second

// TestCINewerCommit: what is pushed during a run is released right behind it, without another word.
func TestCINewerCommit(t *testing.T) {
	w, f := newWorld(t), &fake{tip: "a"}
	var ci *hub.CI
	ready, pushed := make(chan struct{}), time.Time{}
	f.during = func(_ context.Context, commit string) {
		<-ready
		if commit == "a" {
			f.set(func() { f.tip = "c" }) // b came and went
			pushed = time.Now()
			ci.Wake(pushed)
		}
	}
	ci, _ = w.start(f, time.Hour)
	close(ready)
	runs := w.ended(2)
	if got := f.commits(); !slices.Equal(got, []string{"a", "c"}) || runs[1].Source.PushedAt == nil || !runs[1].Source.PushedAt.Equal(pushed) {
		t.Errorf("released %v, the second was pushed at %v", got, runs[1].Source.PushedAt)
	}
}

// TestCIStopped: a run that is stopped with the hub, or that a killed hub left behind, does not stay at "running".
func TestCIStopped(t *testing.T) {
	w, f := newWorld(t), &fake{tip: "a"}
	started := make(chan struct{})
	f.during = func(ctx context.Context, _ string) { close(started); <-ctx.Done() }
	_, stop := w.start(f, time.Hour)
	<-started
	stop()
	r := w.runs()[0]
	if r.State != fleet.RunFailed || r.EndedAt == nil || r.Failure.Code != fleet.CodeInterrupted || r.Failure.Class != fleet.Transient {
		t.Errorf("%+v", r)
	}
	_, err := w.NoteRun(t.Context(), fleet.Run{Schema: 1, State: fleet.RunRunning, Stage: fleet.Push, Source: fleet.Source{Commit: "a"}, StartedAt: time.Now()})
	must(t, err)
	f.set(func() { f.during = nil })
	w.start(f, time.Hour)
	runs := w.ended(3)
	if r := runs[1]; r.State != fleet.RunFailed || r.EndedAt == nil || r.Failure.Code != fleet.CodeInterrupted || r.Failure.Stage != fleet.Push {
		t.Errorf("%+v", r)
	}
	if runs[2].State != fleet.RunReleased {
		t.Errorf("%+v", runs[2])
	}
}

// TestCISurvivesItsStore: a full disk stops neither the hub nor, once there is room, the fleet.
func TestCISurvivesItsStore(t *testing.T) {
	w, f := newWorld(t), &fake{tip: "a"}
	logs := w.dir + "/logs" // is not there yet
	ci := hub.NewCI(hub.CIOptions{Releaser: f, Hub: w.Hub, Poll: 20 * time.Millisecond, LogDir: logs, Log: slog.New(slog.NewTextHandler(w.log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); ci.Run(ctx) }()
	if r := w.ended(1)[0]; r.Failure == nil || r.Failure.Code != fleet.CodeState || len(f.commits()) != 0 {
		t.Errorf("%+v", r)
	}
	must(t, os.Mkdir(logs, 0o700))
	until(t, "it was released", func() bool { return len(f.commits()) == 1 })
	cancel()
	<-done
}
