package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// ringsOf are rings of which the one of a step is the second.
func ringsOf(s fleet.Step) []fleet.Ring {
	return []fleet.Ring{{Name: "canary", Batches: 1, SoakSeconds: 3600}, {Name: s.Ring, Batches: max(s.Batch, 2)}}
}

var late = fleet.Step{Ring: "late", Batch: 1}

// promote moves the branch of a step of the roll-out.
func (b *box) promote(s fleet.Step, commit string) {
	b.t.Helper()
	b.move(fleet.RingBranch("release", s.Ring, s.Batch), commit)
}

// given waits until a release was given to the host, and activated, while another is the newest.
func (b *box) given(n int, variant string, ahead int) fleet.Status {
	b.t.Helper()
	s := b.await(fleet.TagName(n)+" is what the ring has", func(s fleet.Status) bool {
		return s.Newest != nil && s.Newest.Number == n && s.Phase == fleet.PhaseIdle && s.Systems.Current == b.lab.out(variant) &&
			(s.Ahead == nil && ahead == 0 || s.Ahead != nil && s.Ahead.Release.Number == ahead)
	})
	if s.Refused != nil || s.Failure != nil || s.Drift {
		b.t.Errorf("refused %+v, failure %+v, drift %v", s.Refused, s.Failure, s.Drift)
	}
	b.runs(variant)
	return s
}

// TestRing: a host follows the branch of its ring, whatever the newest release is, straight to where that points; a branch that is not there gives it
// nothing, and one that is behind leaves it where it is.
func TestRing(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.step = late
	b.publish("good1")
	one := b.tip
	s := b.await("release-1 is ahead", func(s fleet.Status) bool { return s.Ahead != nil })
	if s.Phase != fleet.PhaseNew || s.Newest != nil || s.Ring != "late" || s.Batch != 1 || s.Boot == "" || s.Ahead.OutPath != b.lab.out("good1") {
		t.Errorf("%+v", s)
	}
	b.promote(late, one)
	b.given(1, "good1", 0)

	b.publish("good2")
	two := b.tip
	b.given(1, "good1", 2)
	b.publish("good3")
	b.given(1, "good1", 3)
	b.restartAgent()
	b.given(1, "good1", 3)
	b.promote(late, two)
	b.given(2, "good2", 3)
	b.promote(late, b.tip)
	b.given(3, "good3", 0)
	b.promote(late, one)
	b.must("sleep 2")
	b.given(3, "good3", 0)

	// To another batch of the ring, which is behind, and further on with that.
	b.step.Batch = 2
	b.promote(b.step, two)
	b.publish("good1")
	b.given(3, "good3", 4)
	b.promote(late, b.tip)
	b.must("sleep 2")
	b.given(3, "good3", 4)
	b.promote(b.step, b.tip)
	b.given(4, "good1", 0)

	// Rings are given up, and made again.
	b.step = fleet.Step{}
	b.publish("good2")
	if s := b.given(5, "good2", 0); s.Ring != "" || s.Batch != 0 {
		t.Errorf("ring %q, batch %d", s.Ring, s.Batch)
	}
	b.step = fleet.Step{Ring: "first", Batch: 1}
	b.publish("good3")
	b.given(5, "good2", 6)
	b.promote(b.step, b.tip)
	b.given(6, "good3", 0)
	for _, d := range b.history(3) {
		if d.Result != fleet.Committed {
			t.Errorf("%+v", d)
		}
	}
	if log := b.must("cat /var/log/agent.log"); strings.Contains(log, "level=ERROR") {
		t.Errorf("%s", log)
	}
}

// TestRingForgotten: an agent that lost its state, whose ring is behind what the host runs, does not take it back.
func TestRingForgotten(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.step = late
	b.publish("good1")
	one := b.tip
	b.promote(late, one)
	b.given(1, "good1", 0)
	b.publish("good2")
	b.promote(late, b.tip)
	b.given(2, "good2", 0)
	b.step.Batch = 2
	b.promote(b.step, one)
	b.publish("good3")
	b.given(2, "good2", 3)
	for _, lost := range []string{"/*", "/state.json", "/newest.json", "/repo.git"} {
		b.stopped(func() { b.must("rm -rf " + stateDir + lost) })
		if s := b.given(2, "good2", 3); s.Ring != "late" || s.Batch != 2 {
			t.Errorf("without %s: ring %q, batch %d", lost, s.Ring, s.Batch)
		}
	}
	b.move("release-ring-late.2", "") // as before anything was promoted
	b.stopped(func() { b.must("rm -rf " + stateDir + "/state.json") })
	b.given(2, "good2", 3)
	b.stopped(func() { b.must("rm -rf " + stateDir + "/*") })
	s := b.await("nothing is given", func(s fleet.Status) bool { return s.Ahead != nil && s.Phase == fleet.PhaseNew })
	if s.Refused != nil || s.Newest != nil {
		t.Errorf("%+v", s)
	}
	b.runs("good2")
	b.promote(b.step, b.tip)
	b.given(3, "good3", 0)
}

// TestRingOperator: an operator may be ahead of the ring, which then does not bring the host back.
func TestRingOperator(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.step = late
	b.publish("good1")
	b.promote(late, b.tip)
	b.given(1, "good1", 0)
	b.publish("good2")
	two := b.tip
	b.publish("good3")
	b.given(1, "good1", 3)
	b.orders(1, "deploy release-4", "release-4 is not among the releases that this host knows")
	b.orders(0, "deploy --now release-3", "turning to release-3")
	b.phase(fleet.PhaseOverruled, "good3")
	b.promote(late, two)
	b.await("the ring goes on", func(s fleet.Status) bool { return s.Newest.Number == 2 })
	b.must("sleep 1")
	b.phase(fleet.PhaseOverruled, "good3")
	b.runs("good3")
	b.promote(late, b.tip)
	b.given(3, "good3", 0)
	b.orders(0, "deploy --now release-1", "turning to release-1")
	b.phase(fleet.PhaseOverruled, "good1")
	b.publish("good2")
	b.await("release-4 is ahead", func(s fleet.Status) bool { return s.Ahead != nil })
	b.phase(fleet.PhaseOverruled, "good1")
	b.promote(late, b.tip)
	b.given(4, "good2", 0)
}

// TestRingTests: a test release is built on the newest release, whatever the ring has; it lasts until the ring has a newer one.
func TestRingTests(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.step = late
	b.publish("good1")
	b.promote(late, b.tip)
	b.given(1, "good1", 0)
	b.publish("good2")
	two := b.tip
	b.given(1, "good1", 2)
	b.try(1, "good3", trial{base: 2})
	b.testing(1, "good3", "good1")
	b.restartAgent()
	b.testing(1, "good3", "good1")
	b.publish("good1") // a newer one that the ring does not give
	b.await("release-3 is ahead", func(s fleet.Status) bool { return s.Ahead != nil && s.Ahead.Release.Number == 3 })
	b.testing(1, "good3", "good1")
	b.promote(late, two) // what the test is built on
	b.await("that is what is confirmed", func(s fleet.Status) bool { return s.Active.Release.Number == 2 })
	b.testing(1, "good3", "good2")
	b.promote(late, b.tip)
	b.ignores(b.ref("release-joker-test"), fleet.CodeNotDescendant)
	b.given(3, "good1", 0)
}

// promote moves the ring's branch of an origin.
func (o *origin) promote(commit string) {
	o.t.Helper()
	if err := o.repo.UpdateRef(o.t.Context(), "refs/heads/release-ring-late", commit); err != nil {
		o.t.Fatal(err)
	}
}

const noBuilds = "[build]\nwhen = \"never\"\n[prefetch]\nenable = false\n"

// TestRingRefusals: what the ring's branch points at is verified as the release branch is, and that it is the one is said.
func TestRingRefusals(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.step = late
	o.publish(1)
	first := o.tip
	o.publish(2)
	second := o.tip
	o.publish(3)
	o.promote(second)
	f := follow(t, o, "poll = \"1s\"\nremote = \""+o.repo.Dir+"\"\n"+noBuilds)
	f.follows(2)
	unsigned := strings.TrimSpace(o.do("git", "--git-dir", o.repo.Dir, "-c", "user.name=x", "-c", "user.email=x@x", "commit-tree", "-p", second, "-m", "not a release", o.tree))
	for tip, code := range map[string]fleet.Code{unsigned: fleet.CodeUnsigned, o.make(7, second, "stranger"): fleet.CodeUnknownKey, o.make(2000, first, "release"): fleet.CodeForcePushed} {
		o.promote(tip)
		s := f.await("refused", func(s fleet.Status) bool { return s.Refused != nil && s.Refused.Tip == tip })
		if r := s.Refused.Failure; r.Code != code || !strings.Contains(r.Message+r.Hint, "release-ring-late") || s.Newest.Number != 2 || s.Ahead == nil {
			t.Errorf("%+v, newest %+v", r, s.Newest)
		}
		o.promote(second)
		f.await("over", func(s fleet.Status) bool { return s.Refused == nil })
	}
	o.do("git", "--git-dir", o.repo.Dir, "tag", "--delete", "release-7", "release-2000")
	o.promote(first)
	f.look()
	o.publish(4) // for which it looks
	if s := f.await("release-4 is ahead", func(s fleet.Status) bool { return s.Ahead != nil && s.Ahead.Release.Number == 4 }); s.Refused != nil || s.Newest.Number != 2 {
		t.Errorf("%+v, newest %+v", s.Refused, s.Newest)
	}

	// The release branch itself goes back, or elsewhere: refused, although the host was not given that far.
	o.point(second)
	s := f.await("refused", func(s fleet.Status) bool { return s.Refused != nil })
	if s.Refused.Failure.Code != fleet.CodeForcePushed || !strings.Contains(s.Refused.Failure.Message, "the branch release was") {
		t.Errorf("%+v", s.Refused)
	}
	elsewhere := o.make(5, first, "release")
	o.point(elsewhere)
	f.await("refused", func(s fleet.Status) bool { return s.Refused != nil && s.Refused.Tip == elsewhere })
	if out, err := f.accept(elsewhere); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s = f.await("it is the newest", func(s fleet.Status) bool { return s.Ahead != nil && s.Ahead.Release.Number == 5 })
	if s.Newest.Number != 2 || s.Refused != nil {
		t.Errorf("newest %+v, %+v", s.Newest, s.Refused)
	}
	o.publish(6)
	f.await("and goes on", func(s fleet.Status) bool { return s.Ahead != nil && s.Ahead.Release.Number == 6 })
	f.stop()
	f.start()
	o.promote(elsewhere)
	f.follows(5)
	o.promote(o.tip)
	if s = f.follows(6); s.Refused != nil || s.Ahead != nil {
		t.Errorf("%+v, %+v", s.Refused, s.Ahead)
	}
}

// TestRingRemotes: of several remotes one lags with the ring's branch, or the other with the release branch.
func TestRingRemotes(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.step = late
	o.publish(1)
	o.promote(o.tip)
	mirror := o.copy("mirror")
	o.publish(2)
	o.promote(o.tip)
	f := follow(t, o, fmt.Sprintf("poll = \"1s\"\nremote = %q\n[[remotes]]\nname = \"mirror\"\nurl = %q\n", o.repo.Dir, mirror)+noBuilds)
	quiet := func(s fleet.Status) {
		t.Helper()
		if s.Refused != nil || s.Remotes[0].Refused != nil || s.Remotes[1].Refused != nil {
			t.Errorf("%+v", s.Remotes)
		}
	}
	f.follows(2)
	quiet(f.await("the mirror is behind", func(s fleet.Status) bool { return s.Remotes[1].Behind && s.Newest.Number == 2 }))
	update := func(refs ...string) { // of the mirror
		t.Helper()
		o.do("git", append([]string{"--git-dir", mirror, "fetch", "--quiet", o.repo.Dir}, refs...)...)
	}
	// Its release branch comes first, and then that of the ring.
	update("+refs/heads/release:refs/heads/release", "+refs/tags/*:refs/tags/*")
	quiet(f.await("it is not", func(s fleet.Status) bool { return !s.Remotes[1].Behind && s.Newest.Number == 2 && s.Ahead == nil }))
	// Its ring's branch comes first, and the other remote is away.
	o.publish(3)
	f.await("release-3 is ahead", func(s fleet.Status) bool { return s.Ahead != nil })
	third := o.tip
	away := o.repo.Dir + ".away"
	update("+refs/tags/*:refs/tags/*")
	if err := os.Rename(o.repo.Dir, away); err != nil {
		t.Fatal(err)
	}
	o.do("git", "--git-dir", mirror, "update-ref", "refs/heads/release-ring-late", third)
	s := f.follows(3)
	quiet(s)
	if s.Ahead != nil || !s.Remotes[1].Behind {
		t.Errorf("%+v, %+v", s.Ahead, s.Remotes)
	}
	if err := os.Rename(away, o.repo.Dir); err != nil {
		t.Fatal(err)
	}
	f.look()
	quiet(f.await("both answer", func(s fleet.Status) bool { return s.Remotes[0].Failure == nil && s.Newest.Number == 3 }))
}

// TestRingRoundTrips: a host in a ring asks no more of a remote than another; a promotion to what it verified before is one talk.
func TestRingRoundTrips(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.step = late
	var commits []string
	for n := 1; n <= 12; n++ {
		o.publish(n)
		commits = append(commits, o.tip)
	}
	o.promote(commits[7])
	forge := newForge(t, filepath.Join(o.dir, "origin"))
	f := follow(t, o, "poll = \"1h\"\nremote = \""+forge.url()+"\"\n"+noBuilds)
	s := f.follows(8)
	forge.took()
	looked := func(most int) {
		t.Helper()
		before := s.Remote.LastOK
		f.look()
		s = f.await("it looked", func(s fleet.Status) bool { return s.Remote.LastOK.After(before) })
		if requests, sent := forge.took(); len(requests) > most || sent > 20000 {
			t.Errorf("%d bytes by %q, at most %d are needed", sent, requests, most)
		}
	}
	for range 3 {
		looked(2)
	}
	o.publish(13)
	looked(4)
	looked(2)
	o.promote(commits[9]) // not verified before
	looked(8)
	f.follows(10)
	looked(2)
	o.promote(o.tip)
	looked(2)
	f.follows(13)
	o.promote(commits[1]) // behind
	looked(8)
	looked(2)
	f.stop()
	f.start()
	f.await("it looked", func(s fleet.Status) bool { return !s.Remote.LastOK.IsZero() })
	forge.took()
	s = f.follows(13)
	looked(2)
}
