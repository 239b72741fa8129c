package hubtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
)

// Wards is a fleet in three rings, the second in two batches.
func Wards(tb testing.TB) *Fleet {
	tb.Helper()
	return NewFleet(tb, []fleet.Ring{{Name: "canary", Batches: 1}, {Name: "web", Batches: 2}, {Name: "rest", Batches: 1}},
		map[string]fleet.Step{"ratched": {Ring: "canary", Batch: 1}, "web1": {Ring: "web", Batch: 1}, "web2": {Ring: "web", Batch: 2}, "joker": {Ring: "rest", Batch: 1}, "ursula": {Ring: "rest", Batch: 1}})
}

// Everywhere rolls a release out to a fleet like Wards, and waits until that is seen.
func (r *Running) Everywhere(release int) {
	r.fleet.T.Helper()
	r.UntilGiven("canary", 1, release)
	r.Has("ratched", release)
	r.UntilGiven("web", 1, release)
	r.Has("web1", release)
	r.UntilGiven("web", 2, release)
	r.Has("web2", release)
	r.Beat()
	r.UntilGiven("rest", 1, release)
	r.Has("joker", release)
	r.Has("ursula", release)
	r.Until("all have it", func() bool { v := r.View(); return v.State == fleet.RolloutDone && v.Release == release })
}

// told are what is told of a release that goes everywhere in a fleet like Wards.
func told(release string) []string {
	return []string{release + " goes to ring canary by ci: published", release + " goes to ring web: passed ring canary", release + " goes to ring web, batch 2: passed batch 1",
		release + " goes to ring rest: passed ring web", "all rings have " + release}
}

// Rollout has a roll-out go through its rings with a kind of store, hubs die at each step, and the store be lost in its midst. new is as that of Store.
func Rollout(t *testing.T, new func(t *testing.T) (open func() Kept)) {
	t.Run("ring by ring", func(t *testing.T) {
		f := Wards(t)
		s := new(t)()
		r := f.Start(s, t.TempDir(), nil)
		t.Cleanup(func() { r.Stop(); must(t, s.Close()) })
		for n := 1; n <= 2; n++ {
			f.Release(nil)
			r.Follower.Hint(f.Newest.CreatedAt)
			r.Everywhere(n)
		}
		r.wantActs(append(told("release-1"), told("release-2")...))
	})
	t.Run("a hub dies at each step", func(t *testing.T) { diesAtEachStep(t, new, false) })
	t.Run("and loses its store", func(t *testing.T) { diesAtEachStep(t, new, true) })
}

// wantActs waits until that is told, in whatever order, and no more.
func (r *Running) wantActs(want []string) {
	t := r.fleet.T
	t.Helper()
	r.Until("all is told", func() bool { return len(r.Acts()) >= len(want) })
	got := r.Acts()
	slices.Sort(got) // what a hub that died did not tell comes later
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("told:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// diesAtEachStep has another hub take over after whatever happens, which is told all again.
func diesAtEachStep(t *testing.T, new func(t *testing.T) func() Kept, loses bool) {
	f := Wards(t)
	open, dir := new(t), t.TempDir()
	s := open()
	r := f.Start(s, dir, nil)
	t.Cleanup(func() { r.Stop(); must(t, s.Close()) })
	f.Release(nil)
	r.Follower.Hint(f.Newest.CreatedAt)
	r.Everywhere(1)
	f.Release(nil)
	has := map[string]int{"ratched": 1, "web1": 1, "web2": 1, "joker": 1, "ursula": 1}
	again := func() {
		r.Stop()
		must(t, s.Close())
		if loses {
			open, dir = new(t), t.TempDir()
		} else { // its git was killed, too, and somebody looks only now
			lock, then := filepath.Join(dir, "repo.git/refs/garrison/rollout/heads/release-rollout.lock"), time.Now().Add(-time.Hour)
			must(t, os.WriteFile(lock, nil, 0o600))
			must(t, os.Chtimes(lock, then, then))
		}
		s = open()
		r = f.Start(s, dir, nil)
		for host, n := range has { // agents tell a hub that does not know
			r.Has(host, n)
		}
		r.Beat()
	}
	for _, step := range []struct {
		ring  string
		batch int
		hosts []string
	}{{"canary", 1, []string{"ratched"}}, {"web", 1, []string{"web1"}}, {"web", 2, []string{"web2"}}, {"rest", 1, []string{"joker", "ursula"}}} {
		again()
		r.UntilGiven(step.ring, step.batch, 2)
		again()
		for _, host := range step.hosts {
			has[host] = 2
			r.Has(host, 2)
		}
		r.Beat()
	}
	r.Until("all have it", func() bool { v := r.View(); return v.State == fleet.RolloutDone && v.Release == 2 })
	again()
	r.Until("all have it still", func() bool { v := r.View(); return v.State == fleet.RolloutDone && v.Release == 2 })
	for branch, given := range f.Ledger().Promotions {
		if len(given) != 2 || given[0].Release != 1 || given[1].Release != 2 {
			t.Errorf("%s was given %+v", branch, given)
		}
	}
	if loses {
		return // each hub told what it saw
	}
	r.wantActs(append(told("release-1"), told("release-2")...))
}

var _ hub.Roller = (*hub.Controller)(nil)
