package hub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/hubtest"
	"github.com/garrison-nix/garrison/internal/ledger"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// wards is a fleet like hubtest.Wards that has release 1 everywhere, and a hub.
func wards(t *testing.T, change func(*hub.ControllerOptions)) (*hubtest.Fleet, *hubtest.Running) {
	t.Helper()
	f := hubtest.Wards(t)
	r := f.Start(openStore(t, t.TempDir()), t.TempDir(), change)
	publish(f, r)
	r.Everywhere(1)
	return f, r
}

func publish(f *hubtest.Fleet, r *hubtest.Running) {
	f.Release(nil)
	r.Follower.Hint(time.Now())
}

// ringsAt are the releases of canary, web's batches, rest.
func ringsAt(f *hubtest.Fleet) string {
	return fmt.Sprint(f.Given(fleet.Step{Ring: "canary", Batch: 1}), f.Given(fleet.Step{Ring: "web", Batch: 1}), f.Given(fleet.Step{Ring: "web", Batch: 2}), f.Given(fleet.Step{Ring: "rest", Batch: 1}))
}

func hook(t *testing.T, f *hubtest.Fleet, name, script string) {
	t.Helper()
	file := filepath.Join(f.Origin.Dir, "hooks", name)
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o755))
}

// TestFailingCanary: a release goes no further than the ring that it failed in, which is told once; resumed it goes on, and a newer one takes its place.
func TestFailingCanary(t *testing.T) {
	f, r := wards(t, nil)
	publish(f, r)
	r.UntilGiven("canary", 1, 2)
	r.Fails("ratched", 2)
	r.Until("it is paused", func() bool { v := r.View(); return v.State == fleet.RolloutStopped && v.Rings[0].Failed.Count == 1 })
	r.Beat()
	r.Until("that is told", func() bool {
		return strings.Contains(strings.Join(r.Acts(), "\n"), "release-2 goes no further than ring canary")
	})
	if got := ringsAt(f); got != "2 1 1 1" {
		t.Errorf("the rings have %s", got)
	}
	publish(f, r)
	r.UntilGiven("canary", 1, 3)
	r.Has("ratched", 3)
	r.UntilGiven("web", 1, 3)
	if n := strings.Count(strings.Join(r.Acts(), "\n"), "goes no further"); n != 1 {
		t.Errorf("told %d times:\n%s", n, strings.Join(r.Acts(), "\n"))
	}
	var way []string // newest first
	r.Until("each release says how far it went", func() bool {
		list, err := r.Releases(t.Context(), 0, 3)
		must(t, err)
		way = nil
		for _, v := range list {
			line := v.Release.Name()
			for _, g := range v.Rings {
				line += fmt.Sprintf(" %s/%d", g.Ring, g.Batches)
			}
			for _, a := range v.Stops {
				line += " " + a.Act + " at " + a.Ring
			}
			way = append(way, line)
		}
		return strings.Contains(way[0], "web")
	})
	if got, want := strings.Join(way, "; "), "release-3 canary/1 web/1; release-2 canary/1 paused at canary; release-1 canary/1 web/2 rest/1"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// TestOrdersInGit: what is ordered by the API is a commit in the token's name, and holds for whoever comes after.
func TestOrdersInGit(t *testing.T) {
	var aborts atomic.Int32
	f, r := wards(t, func(o *hub.ControllerOptions) {
		o.Abort = func(o fleet.RolloutOrder, of fleet.Source) {
			if o.To == 1 && o.Release == 3 && strings.HasPrefix(of.Subject, "change 1") {
				aborts.Add(1)
			}
		}
	})
	order := func(want int, c fleet.RolloutCommand) (v fleet.Rollout) {
		t.Helper()
		c.Reason = "because"
		status, answer := r.Order(c)
		if status != want {
			t.Fatalf("%+v: %d %s", c, status, answer)
		}
		if status == 200 {
			must(t, json.Unmarshal([]byte(answer), &v))
		}
		return v
	}
	if v := order(200, fleet.RolloutCommand{Act: "pause"}); v.Paused == nil || v.Paused.By != "token ann" {
		t.Errorf("%+v", v)
	}
	order(200, fleet.RolloutCommand{Act: "pause"}) // told again
	f.Release(nil)
	r.Follower.Hint(time.Now())
	r.Until("it is paused", func() bool { v := r.View(); return v.Release == 2 && v.State == fleet.RolloutStopped })
	order(200, fleet.RolloutCommand{Act: "resume"})
	r.UntilGiven("canary", 1, 2)
	until := time.Now().Add(time.Hour)
	order(200, fleet.RolloutCommand{Act: "freeze", Until: &until})
	r.Has("ratched", 2)
	if v := order(200, fleet.RolloutCommand{Act: "promote", Ring: "web", Release: 2, Force: true}); v.Freeze == nil {
		t.Errorf("%+v", v)
	}
	if got := ringsAt(f); got != "2 2 2 1" {
		t.Errorf("the rings have %s", got)
	}
	order(200, fleet.RolloutCommand{Act: "unfreeze"})
	order(409, fleet.RolloutCommand{Act: "unfreeze"})
	order(404, fleet.RolloutCommand{Act: "promote", Ring: "nowhere"})
	order(404, fleet.RolloutCommand{Act: "promote", Ring: "web", Release: 9})
	publish(f, r)
	r.UntilGiven("canary", 1, 3)
	order(200, fleet.RolloutCommand{Act: "abort"})
	r.Until("CI is asked for what all had", func() bool { return aborts.Load() > 0 })
	if a := f.Ledger().Aborted; a == nil || a.To != 1 || a.Release != 3 {
		t.Errorf("%+v", a)
	}
	f.Release(func(m *fleet.Manifest) { m.RollbackTo = 1 })
	r.Follower.Hint(time.Now())
	r.Until("it is there", func() bool { return r.View().Release == 4 })
	out, err := exec.Command("git", "--git-dir", f.Origin.Dir, "log", "--reverse", "--format=%an: %s: %b", "release-rollout").Output()
	must(t, err)
	for _, want := range []string{"token ann: pause at release-1: because", "token ann: resume with release-2: because", "token ann: abort release-3: back to release-1: because"} {
		if n := strings.Count(string(out), want); n != 1 {
			t.Errorf("%q is there %d times:\n%s", want, n, out)
		}
	}
	acts := strings.Join(r.Acts(), "\n")
	for _, want := range []string{"release-1 is paused by token ann: because", "is resumed by token ann", "frozen until", "the freeze has been ended by token ann", "release-3 was aborted: back to release-1 by token ann"} {
		if n := strings.Count(acts, want); n != 1 {
			t.Errorf("%q was told %d times:\n%s", want, n, acts)
		}
	}
}

// TestUnfrozenWhileAway: what is ordered in a clone while no hub listens is told by the next one.
func TestUnfrozenWhileAway(t *testing.T) {
	f := hubtest.Wards(t)
	dir, store := t.TempDir(), openStore(t, t.TempDir())
	r := f.Start(store, dir, nil)
	publish(f, r)
	r.Until("it is seen", func() bool { return r.View().Release == 1 })
	until := time.Now().Add(time.Hour)
	if status, answer := r.Order(fleet.RolloutCommand{Act: "freeze", Until: &until, Reason: "holidays"}); status != 200 {
		t.Fatal(status, answer)
	}
	r.Until("it is told", func() bool { return strings.Contains(strings.Join(r.Acts(), "\n"), "frozen until") })
	r.Stop()
	clone, err := git.Init(t.Context(), filepath.Join(t.TempDir(), "clone.git"))
	must(t, err)
	at := time.Now().UTC()
	_, err = ledger.Book{Repo: clone, Remote: git.Remote{URL: f.Origin.Dir}, Release: "release"}.Change(t.Context(), func(p ledger.Page) (*ledger.Entry, error) {
		l, err := rollout.Ordered(p.Ledger, fleet.RolloutUnfreeze, fleet.RolloutOrder{By: "Ann", At: at, Reason: "back early"})
		return &ledger.Entry{By: "Ann <ann@example.org>", Summary: "unfreeze", Ledger: l}, err
	})
	must(t, err)
	for range 2 { // and by one alone
		r = f.Start(store, dir, nil)
		r.Until("the end is told", func() bool {
			return strings.Contains(strings.Join(r.Acts(), "\n"), "the freeze has been ended by Ann: back early")
		})
		r.Until("the rings are read", func() bool { return r.View().Release == 1 })
		r.Stop()
	}
	if acts := strings.Join(r.Acts(), "\n"); strings.Count(acts, "the freeze has been ended") != 1 {
		t.Error(acts)
	}
}

// TestDiesInThePush: a hub that is killed before its push arrives, or before it hears that it did, leaves nothing half done, and nothing is done twice.
func TestDiesInThePush(t *testing.T) {
	for _, when := range []string{"pre-receive", "post-receive"} {
		t.Run(when, func(t *testing.T) {
			f := hubtest.Wards(t)
			dir, store := t.TempDir(), openStore(t, t.TempDir())
			r := f.Start(store, dir, nil)
			f.Release(nil)
			r.Follower.Hint(time.Now())
			r.UntilGiven("canary", 1, 1)
			here := filepath.Join(t.TempDir(), "here")
			hook(t, f, when, "echo > '"+here+"'; exec sleep 3\n")
			r.Has("ratched", 1)
			r.Until("the push is under way", func() bool { _, err := os.Stat(here); return err == nil })
			r.Stop()
			must(t, os.Remove(filepath.Join(f.Origin.Dir, "hooks", when)))
			r = f.Start(store, dir, nil)
			r.Everywhere(1)
			for branch, given := range f.Ledger().Promotions {
				if len(given) != 1 {
					t.Errorf("%s was given %+v", branch, given)
				}
			}
			acts := r.Acts()
			slices.Sort(acts)
			if len(slices.Compact(slices.Clone(acts))) != len(acts) {
				t.Errorf("told twice: %q", acts)
			}
		})
	}
}

// TestTwoHubs: two hubs that both roll out, by mistake, do no harm.
func TestTwoHubs(t *testing.T) {
	f := hubtest.Wards(t)
	var both []*hubtest.Running
	for range 2 {
		both = append(both, f.Start(openStore(t, t.TempDir()), t.TempDir(), nil))
	}
	f.Release(nil)
	for _, hosts := range [][]string{{"ratched"}, {"web1"}, {"web2"}, {"joker", "ursula"}} {
		var at sync.WaitGroup
		for _, r := range both {
			r.Follower.Hint(time.Now())
			at.Go(func() {
				for _, h := range hosts {
					r.Has(h, 1)
				}
				r.Beat()
			})
		}
		at.Wait()
		s := f.Hosts[hosts[0]]
		next := map[string]fleet.Step{"ratched": {Ring: "web", Batch: 1}, "web1": {Ring: "web", Batch: 2}, "web2": {Ring: "rest", Batch: 1}}[hosts[0]]
		if next != s && next.Ring != "" {
			both[0].UntilGiven(next.Ring, next.Batch, 1)
		}
	}
	for branch, given := range f.Ledger().Promotions {
		if len(given) != 1 {
			t.Errorf("%s was given %+v", branch, given)
		}
	}
}

// TestTroubles: with git away, with a forge that refuses, with a ledger that cannot be read or was written anew, nothing is promoted and that is said; then it goes on.
func TestTroubles(t *testing.T) {
	f, r := wards(t, nil)
	publish(f, r)
	r.Until("that is seen", func() bool { return r.View().Release == 2 })
	trouble := func(code fleet.Code) {
		t.Helper()
		r.Until("trouble: "+string(code), func() bool { v := r.View(); return v.Trouble != nil && v.Trouble.Code == code })
	}
	well := func() {
		t.Helper()
		r.Until("all is well", func() bool { return r.View().Trouble == nil })
	}

	away := f.Origin.Dir + ".away"
	must(t, os.Rename(f.Origin.Dir, away))
	r.Has("ratched", 2)
	trouble(fleet.CodeRemote)
	must(t, os.Rename(away, f.Origin.Dir))
	r.UntilGiven("web", 1, 2)
	well()

	hook(t, f, "pre-receive", "echo 'protected branch' >&2; exit 1\n")
	r.Has("web1", 2)
	trouble(fleet.CodeUnauthorized)
	if v := r.View(); !strings.Contains(v.Trouble.Hint, "let the release user, and the hub's, write to them") || ringsAt(f) != "2 2 1 1" {
		t.Errorf("%+v, the rings have %s", v.Trouble, ringsAt(f))
	}
	must(t, os.Remove(filepath.Join(f.Origin.Dir, "hooks", "pre-receive")))
	r.UntilGiven("web", 2, 2)
	well()

	ref := "refs/heads/release-rollout"
	good, _, err := f.Origin.Resolve(t.Context(), ref)
	must(t, err)
	write := func(text string, parents ...string) {
		tree, err := f.Origin.TreeOf(t.Context(), fleet.LedgerPath, []byte(text))
		must(t, err)
		c, err := f.Origin.WriteCommit(t.Context(), git.Commit{Tree: tree, Parents: parents, Message: "by hand", When: time.Now()})
		must(t, err)
		must(t, f.Origin.UpdateRef(t.Context(), ref, c))
		r.Follower.Hint(time.Now())
	}
	write("{", good)
	trouble(fleet.CodeInvalid)
	r.Has("web2", 2)
	r.Beat()
	time.Sleep(300 * time.Millisecond)
	write(`{"schema":1}`) // without what was before
	trouble(fleet.CodeForcePushed)
	r.Beat()
	time.Sleep(300 * time.Millisecond)
	if got := ringsAt(f); got != "2 2 2 1" {
		t.Errorf("the rings have %s", got)
	}
	if status, answer := r.Order(fleet.RolloutCommand{Act: "pause", Reason: "x"}); status != 200 { // is no word that it goes on
		t.Fatal(status, answer)
	}
	trouble(fleet.CodeForcePushed)
	if status, answer := r.Order(fleet.RolloutCommand{Act: "resume", Reason: "it is as it should be"}); status != 200 {
		t.Fatal(status, answer)
	}
	well()
	r.Beat()
	r.UntilGiven("rest", 1, 2)

	// Somebody puts back what the ledger was before another resume: that says nothing of going on.
	before, _, err := f.Origin.Resolve(t.Context(), ref)
	must(t, err)
	time.Sleep(time.Second) // the ledger's times are whole seconds
	for _, act := range []string{"resume", "pause"} {
		if status, answer := r.Order(fleet.RolloutCommand{Act: act, Reason: "and again"}); status != 200 {
			t.Fatal(status, answer)
		}
	}
	paused, _, err := f.Origin.Resolve(t.Context(), ref)
	must(t, err)
	must(t, f.Origin.UpdateRef(t.Context(), ref, before))
	r.Follower.Hint(time.Now())
	trouble(fleet.CodeForcePushed)
	must(t, f.Origin.UpdateRef(t.Context(), ref, paused))
	r.Follower.Hint(time.Now())
	well()

	// A freeze without an end, which nobody can order.
	now := time.Now().UTC()
	write(fmt.Sprintf(`{"schema":1,"freeze":{"by":"token ann","reason":"so","at":%q}}`, now.Format(time.RFC3339)), paused)
	r.Until("it is frozen", func() bool { return r.View().Freeze != nil })
	now = now.Add(time.Hour)
	if status, answer := r.Order(fleet.RolloutCommand{Act: "freeze", Until: &now, Reason: "so"}); status != 200 {
		t.Fatal(status, answer)
	}

	must(t, f.Origin.UpdateRef(t.Context(), "refs/heads/release-ring-canary", good)) // which is no release
	r.Follower.Hint(time.Now())
	trouble(fleet.CodeForcePushed)
	if v := r.View(); !strings.Contains(v.Trouble.Message, "release-ring-canary") {
		t.Errorf("%+v", v.Trouble)
	}
}

// TestMayNotMove: a hub that was not said to may show, and moves nothing.
func TestMayNotMove(t *testing.T) {
	f := hubtest.Wards(t)
	r := f.Start(openStore(t, t.TempDir()), t.TempDir(), func(o *hub.ControllerOptions) { o.Moves = false })
	publish(f, r)
	r.UntilGiven("canary", 1, 1)
	r.Has("ratched", 1)
	r.Until("it is said", func() bool {
		v := r.View()
		return v.Trouble != nil && v.Trouble.Code == fleet.CodeNotNow && v.Rings[0].Done.Count == 1 && v.Rings[1].Offered == 0
	})
	if status, answer := r.Order(fleet.RolloutCommand{Act: "pause", Reason: "x"}); status != 409 || !strings.Contains(answer, "[rollout] enable") {
		t.Errorf("%d %s", status, answer)
	}
	if got := ringsAt(f); got != "1 0 0 0" {
		t.Errorf("the rings have %s", got)
	}
}

// TestWithoutRings: a fleet without rings costs no talk with git, and its view has none.
func TestWithoutRings(t *testing.T) {
	f := hubtest.NewFleet(t, nil, map[string]fleet.Step{"joker": {}})
	var talks atomic.Int32
	r := f.Start(openStore(t, t.TempDir()), t.TempDir(), func(o *hub.ControllerOptions) {
		o.Remote = func() (git.Remote, error) { talks.Add(1); return git.Remote{}, nil }
	})
	publish(f, r)
	r.Until("the release is known", func() bool { return r.View().Release == 1 })
	r.Has("joker", 1)
	time.Sleep(200 * time.Millisecond)
	if v := r.View(); talks.Load() != 0 || len(v.Rings) != 0 || v.Trouble != nil || v.State != fleet.RolloutDone {
		t.Errorf("%d talks, %+v", talks.Load(), v)
	}
	if status, answer := r.Order(fleet.RolloutCommand{Act: "pause", Reason: "x"}); status != 409 || !strings.Contains(answer, "no rings") {
		t.Errorf("%d %s", status, answer)
	}
}

// TestCIAborts: what an abort asks for is released once, however often it is said and although something was pushed meanwhile, which comes after it; what failed for the moment is tried again.
func TestCIAborts(t *testing.T) {
	w, f := newWorld(t), &fake{tip: "m1", failures: map[string][]error{"old": {fleet.Errorf(fleet.Transient, fleet.CodeRemote, "away")}}}
	ci, _ := w.start(f, 20*time.Millisecond)
	until(t, "main was released", func() bool { return slices.Equal(f.commits(), []string{"m1"}) })
	order := fleet.RolloutOrder{At: time.Now(), To: 3, Release: 5}
	f.set(func() {
		f.during = func(_ context.Context, commit string) {
			if commit == "old" {
				f.set(func() { f.tip = "m2" })
				ci.Abort(order, fleet.Source{Commit: "old", Branch: "main"})
			}
		}
	})
	ci.Abort(order, fleet.Source{Commit: "old", Branch: "main"})
	until(t, "it was released, and what was pushed", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.succeeded["old"] && f.succeeded["m2"] })
	for range 5 {
		ci.Abort(order, fleet.Source{Commit: "old", Branch: "main"})
	}
	looks := f.looksNow()
	until(t, "it looked again", func() bool { return f.looksNow() > looks+3 })
	count := 0
	for _, c := range f.commits() {
		if c == "old" {
			count++
		}
	}
	if count != 2 {
		t.Errorf("released: %q", f.commits())
	}
}
