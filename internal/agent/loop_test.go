package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/activate"
	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// manager is a service manager that remembers what it was told.
type manager struct {
	mu   sync.Mutex
	told []string
}

func (m *manager) notify(state string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told = append(m.told, state)
}

func (m *manager) count(state string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.told {
		if s == state {
			n++
		}
	}
	return n
}

func (m *manager) await(t *testing.T, state string, n int) {
	t.Helper()
	for range 5000 {
		if m.count(state) >= n {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Fatalf("%q was not told %d times", state, n)
}

// bare is an agent whose loop can be run, but that knows no git and no Nix.
func bare(t *testing.T) (*Agent, *manager) {
	t.Helper()
	m := &manager{}
	dir := t.TempDir()
	a := &Agent{Options: Options{Config: Config{Host: "joker", StateDir: dir, Profile: filepath.Join(dir, "profile")}, Notify: m.notify, Watchdog: 10 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler)}, results: make(chan result), wake: make(chan struct{}, 1), report: make(chan struct{}, 1)}
	a.record = deploy.New("joker", time.Now())
	return a, m
}

func (a *Agent) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); a.loop(ctx) }()
	return func() { cancel(); <-done }
}

// stuck is a result that holds up the loop.
type stuck struct{ began, end chan struct{} }

func (s stuck) take(context.Context, *Agent) { close(s.began); <-s.end }

// applied is a result that only changes the record.
type applied struct{ event deploy.Event }

func (r applied) take(ctx context.Context, a *Agent) { a.apply(ctx, r.event) }

const beat = "WATCHDOG=1"

// TestWatchdogIsTheLoops: the manager hears from a loop that turns, and nothing from one that is stuck.
func TestWatchdogIsTheLoops(t *testing.T) {
	a, m := bare(t)
	defer a.start(t)()
	m.await(t, beat, 3)
	s := stuck{make(chan struct{}), make(chan struct{})}
	a.results <- s
	<-s.began
	before := m.count(beat)
	time.Sleep(100 * time.Millisecond) // ten times as long as its patience
	if now := m.count(beat); now != before {
		t.Errorf("a stuck loop told %d times that it is alive", now-before)
	}
	close(s.end)
	m.await(t, beat, before+3)
	if m.count("STATUS=no release active, has not seen a release yet") != 1 {
		t.Errorf("told %q", m.told)
	}
}

// TestWatchdogWhileTheDiskIsFull: a loop that waits to write its record is alive.
func TestWatchdogWhileTheDiskIsFull(t *testing.T) {
	a, m := bare(t)
	if err := os.Mkdir(a.recordFile(), 0o700); err != nil { // nothing can be renamed over it
		t.Fatal(err)
	}
	defer a.start(t)()
	a.results <- applied{deploy.Refused{Tip: "x", Failure: fleet.Failure{Code: fleet.CodeSignature}}}
	for range 5000 {
		if a.counts.lastWriteFailed() {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	before := m.count(beat)
	m.await(t, beat, before+20)
	if !a.counts.lastWriteFailed() {
		t.Error("the record was written")
	}
}

func (c *counts) lastWriteFailed() (failed bool) {
	c.change(func(c *counts) { failed = c.unwritable })
	return failed
}

func TestWatchersAreBounded(t *testing.T) {
	var w watchers
	var leaves []func()
	for range mostWatchers {
		changed, leave, ok := w.join()
		if !ok {
			t.Fatal("too early")
		}
		leaves = append(leaves, leave)
		w.tell()
		w.tell() // nobody listens: it does not wait
		<-changed
	}
	if _, _, ok := w.join(); ok {
		t.Error("there is no end to it")
	}
	leaves[0]()
	if _, _, ok := w.join(); !ok {
		t.Error("one left, and there is no room")
	}
}

func TestLimited(t *testing.T) {
	hold, busy := make(chan struct{}), make(chan struct{}, 2)
	h := limited(2, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { busy <- struct{}{}; <-hold }))
	ask := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		return w.Code
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { ask() })
	}
	<-busy
	<-busy
	if code := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("the third gets %d", code)
	}
	close(hold)
	wg.Wait()
	if code := ask(); code != http.StatusOK {
		t.Errorf("afterwards: %d", code)
	}
}

// TestKeptLogs: of many deployments the newest logs are kept, each with its end.
func TestKeptLogs(t *testing.T) {
	a, _ := bare(t)
	file := activate.LogFile(a.activationDir())
	k := func(n int) fleet.DeploymentKey {
		return fleet.DeploymentKey{Release: n, EndedAt: time.UnixMilli(int64(1_780_000_000_000 + n))}
	}
	a.keepLog(k(1)) // nothing was said
	if kept, err := a.keptLogs(); err != nil || len(kept) != 0 {
		t.Errorf("%v, %v", kept, err)
	}
	if err := os.MkdirAll(a.activationDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a line of sixteen\n", maxLogKept/10) + "the end\n"
	for n := 2; n <= logsKept+5; n++ {
		if err := os.WriteFile(file, fmt.Appendf(nil, "of %d\n%s", n, long), 0o600); err != nil {
			t.Fatal(err)
		}
		a.keepLog(k(n))
	}
	kept, err := a.keptLogs()
	if err != nil || len(kept) != logsKept || kept[0].Release != logsKept+5 || kept[logsKept-1].Release != 6 {
		t.Errorf("%v, %v", kept, err)
	}
	text, err := os.ReadFile(a.logFile(kept[0]))
	lines := strings.Split(string(text), "\n")
	if err != nil || len(text) > maxLogKept+100 || !strings.HasSuffix(string(text), "\nthe end\n") || !strings.HasPrefix(lines[0], "… ") || lines[1] != "a line of sixteen" {
		t.Errorf("%d bytes, %v: %.100q", len(text), err, text)
	}
	if _, err := tail(a.logFile(k(1)), 10); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestExposition(t *testing.T) {
	var e exposition
	e.Begin("m", "gauge", "Help.")
	e.Sample("m", 0.25, "a", "x\\y\"z\nü\xff", "b", "")
	e.Sample("m", 1e21)
	const want = "# HELP m Help.\n# TYPE m gauge\nm{a=\"x\\\\y\\\"z\\nü�\",b=\"\"} 0.25\nm 1e+21\n"
	if e.String() != want {
		t.Errorf("%q, want %q", e.String(), want)
	}
	// A duration on a bucket's bound is in that bucket; one beyond the last only in +Inf.
	var c counts
	c.stage([]fleet.StageTime{{Stage: fleet.Check, Seconds: 0.05}, {Stage: fleet.Check, Seconds: 0.06}, {Stage: fleet.Check, Seconds: 4000}})
	e = exposition{}
	e.counted(&c)
	for _, line := range []string{`{stage="check",le="0.05"} 1`, `{stage="check",le="0.1"} 2`, `{stage="check",le="3600"} 2`, `{stage="check",le="+Inf"} 3`} {
		if !slices.Contains(strings.Split(e.String(), "\n"), "garrison_stage_duration_seconds_bucket"+line) {
			t.Errorf("no %s in\n%s", line, e.String())
		}
	}
}
