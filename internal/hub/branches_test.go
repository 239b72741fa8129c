package hub_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/proc"
)

// TestCITests: each test branch is released once, behind the source branch; one that fails stands in nobody's way, and what is left of others is taken away.
func TestCITests(t *testing.T) {
	w := newWorld(t)
	bad := fleet.Errorf(fleet.Bad, fleet.CodeNotDescendant, "it is not built on main")
	passing := fleet.Errorf(fleet.Transient, fleet.CodeCache, "down")
	f := &fake{tip: "main1", tests: map[string]string{"joker": "j1", "ursula": "u1", "ratched": "r1"}, left: true,
		failures: map[string][]error{"j1": {bad}, "r1": {passing, passing, passing, passing}}, tidyErr: errors.New("the branch is protected")}
	ci, stop := w.start(f, time.Hour)
	until(t, "all were tried, and what did not fail has ended", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.succeeded["u1"] }) // a run that main overtakes begins anew
	if got := f.commits(); !slices.Equal(got[:2], []string{"main1", "j1"}) {
		t.Errorf("released %v", got)
	}
	f.set(func() { f.tip, f.tidyErr = "main2", nil })
	ci.Wake(time.Now())
	until(t, "main was released although a test fails for the moment", func() bool { return slices.Contains(f.commits(), "main2") })
	until(t, "what was left was taken away", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return !f.left })
	f.set(func() { f.tests["ursula"] = "u2"; delete(f.tests, "joker"); f.failures = nil })
	ci.Wake(time.Now())
	until(t, "the next test was released", func() bool { return slices.Contains(f.commits(), "u2") })
	until(t, "the one that failed for the moment was tried again", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.succeeded["r1"]
	})
	stop()
	count := func(commit string) (n int) {
		for _, c := range f.commits() {
			if c == commit {
				n++
			}
		}
		return n
	}
	if count("j1") != 1 || count("u1") != 1 || count("u2") != 1 || count("main1") != 1 {
		t.Errorf("released %v", f.commits())
	}
	before := len(f.commits())
	f.set(func() { f.tests["joker"] = "j1" }) // what failed is there again, as it was
	ci, _ = w.start(f, time.Hour)
	until(t, "main is looked at anew", func() bool { return len(f.commits()) > before })
	looks := f.looksNow() + 1 // there may be one under way
	ci.Wake(time.Now())
	until(t, "it looked behind that", func() bool { ci.Wake(time.Now()); return f.looksNow() > looks })
	if got := f.commits()[before:]; !slices.Equal(got, []string{"main2"}) {
		t.Errorf("a hub that began anew released %v", got)
	}
}

// TestCISuperseded: a newer push ends a run that has not begun to publish, and is released at once; one that has begun is not touched.
func TestCISuperseded(t *testing.T) {
	for _, c := range []struct {
		name    string
		publish bool // it has begun to
		test    bool // it is a test's
		deleted bool // what was tested, meanwhile
	}{{"a run", false, false, false}, {"a test's run", false, true, false}, {"a test whose branch is deleted", false, true, true}, {"a run that publishes", true, false, false}} {
		t.Run(c.name, func(t *testing.T) {
			w, f := newWorld(t), &fake{tip: "old"}
			if c.test {
				f.tests = map[string]string{"joker": "j1"}
			}
			var ci *hub.CI
			ready, ended := make(chan struct{}), make(chan error, 1)
			f.during = func(ctx context.Context, commit string) {
				<-ready
				if c.test == (commit == "old") || commit == "new" || len(f.commits()) > 2 {
					return
				}
				f.set(func() {
					if c.deleted {
						delete(f.tests, "joker")
					} else {
						f.tip = "new"
					}
				})
				wait := func() error {
					ci.Wake(time.Now())
					select {
					case <-ctx.Done():
					case <-time.After(300 * time.Millisecond):
					}
					ended <- ctx.Err()
					return nil
				}
				if c.publish {
					_ = proc.Stage(ctx, fleet.Publish, wait)
				} else {
					_ = wait()
				}
			}
			ci, _ = w.start(f, time.Hour)
			close(ready)
			if err := <-ended; (err == nil) != c.publish {
				t.Errorf("the run was ended: %v", err)
			}
			switch {
			case c.deleted:
				until(t, "it looked again", func() bool { return f.looksNow() >= 3 })
			case c.test:
				until(t, "main, then the test again", func() bool { return slices.Equal(f.commits(), []string{"old", "j1", "new", "j1"}) })
			default:
				until(t, "the newer one was released", func() bool { return slices.Equal(f.commits(), []string{"old", "new"}) })
			}
			run := w.ended(1)[0]
			if c.test {
				run = w.ended(2)[1]
			}
			if (run.State == fleet.RunReleased) != c.publish || !c.publish && run.Failure.Code != fleet.CodeSuperseded {
				t.Errorf("%+v, %+v", run, run.Failure)
			}
		})
	}
}

func TestCIConcerns(t *testing.T) {
	w, f := newWorld(t), &fake{tip: "a"}
	ci, _ := w.start(f, time.Hour)
	w.ended(1)
	for ref, want := range map[string]bool{
		"refs/heads/main": true, "refs/heads/joker-test": true, "refs/heads/release-joker-test": false, "refs/heads/release": false,
		"refs/heads/topic": false, "refs/tags/main": false, "main": false, "": false, "refs/heads/-test": false,
	} {
		if got := ci.Concerns(ref); got != want {
			t.Errorf("Concerns(%q) is %v", ref, got)
		}
	}
}

// TestFollowRun: a run's log can be followed to its end, which ends it.
func TestFollowRun(t *testing.T) {
	w, f := newWorld(t), &fake{tip: "a"}
	begun, goOn := make(chan struct{}), make(chan struct{})
	f.during = func(context.Context, string) { close(begun); <-goOn }
	w.start(f, time.Hour)
	<-begun
	all := make(chan string)
	go func() {
		_, said := w.ask("GET", "/api/v1/runs/1/log?follow=1", "read", "")
		all <- said
	}()
	select {
	case said := <-all:
		t.Errorf("it ended before the run: %s", said)
	case <-time.After(100 * time.Millisecond):
	}
	close(goOn)
	if said := <-all; !strings.Contains(said, "building a") || !strings.Contains(said, "stage build ended") {
		t.Errorf("%s", said)
	}
	if _, said := w.ask("GET", "/api/v1/runs/1/log?follow=1", "read", ""); !strings.Contains(said, "stage build ended") { // of one that has ended
		t.Errorf("%s", said)
	}
}
