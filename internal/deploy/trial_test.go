package deploy

import (
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestTestReleases walks through the life of test releases, on a host that runs what release-1 says.
func TestTestReleases(t *testing.T) {
	tried := func(s string) Activated {
		return Activated{Result: fleet.Tested, Systems: fleet.Systems{Current: out(s), Profile: out("a")}}
	}
	failed := Activated{Result: fleet.RolledBack, Failure: &badRelease, Systems: running("a")}
	back := Activated{Result: fleet.Committed, Systems: running("a")}
	at := func(n int, system, runs string) Found {
		f := release(n, system)
		f.Systems = fleet.Systems{Current: out(runs), Profile: out("a")}
		return f
	}
	x := []Event{test(1, 1, "x"), Staged{}, tried("x")}
	for _, c := range []struct {
		name   string
		events []Event
		phase  fleet.Phase
		active string
		target string
		last   Effect // 0 for none
	}{
		{"is staged", []Event{test(1, 1, "x")}, fleet.PhaseStaging, "a", "x", Stage},
		{"and activated", []Event{test(1, 1, "x"), Staged{}}, fleet.PhaseActivating, "a", "x", Activate},
		{"and runs, while what was confirmed stays", x, fleet.PhaseTesting, "a", "", 0},
		{"the same again does nothing", append(x, test(1, 1, "x")), fleet.PhaseTesting, "a", "", 0},
		{"the release again does nothing", append(x, at(1, "a", "x")), fleet.PhaseTesting, "a", "", 0},
		{"the next push is tried", append(x, test(2, 1, "y")), fleet.PhaseStaging, "a", "y", Stage},
		{"an older one is not", append(x, test(3, 1, "y"), Staged{}, tried("y"), test(2, 1, "z")), fleet.PhaseTesting, "a", "", 0},
		{"nor one on another release", append(x, test(2, 2, "y")), fleet.PhaseTesting, "a", "", 0},
		{"gone, it goes back by an activation", append(x, TestGone{}), fleet.PhaseStaging, "a", "a", Stage},
		{"which ends as before", append(x, TestGone{}, Staged{}, back), fleet.PhaseIdle, "a", "", 0},
		{"gone before it ran, nothing is done", []Event{test(1, 1, "x"), TestGone{}}, fleet.PhaseIdle, "a", "", 0},
		{"gone, and pushed again", append(x, TestGone{}, Staged{}, back, test(2, 1, "x")), fleet.PhaseStaging, "a", "x", Stage},
		{"replayed after it was gone", append(x, test(2, 1, "y"), Staged{}, tried("y"), TestGone{}, Staged{}, back, test(1, 1, "x")), fleet.PhaseIdle, "a", "", 0},
		{"overtaken by a release that changes nothing here", append(x, at(2, "a", "x")), fleet.PhaseStaging, "a", "a", Stage},
		{"overtaken by one that brings the very system", append(x, at(2, "x", "x")), fleet.PhaseStaging, "a", "x", Stage},
		{"overtaken while it is activated", []Event{test(1, 1, "x"), Staged{}, at(2, "b", "a"), tried("x")}, fleet.PhaseStaging, "a", "b", Stage},
		{"overtaken by one that leaves the host out", append(x, Found{Release: ref(2), Manual: true}), fleet.PhaseManual, "a", "", 0},
		{"failed, it is held", []Event{test(1, 1, "x"), Staged{}, failed}, fleet.PhaseHeld, "a", "x", 0},
		{"and not tried again", []Event{test(1, 1, "x"), Staged{}, failed, test(1, 1, "x"), Due{}}, fleet.PhaseHeld, "a", "x", 0},
		{"nor the same system by another push", []Event{test(1, 1, "x"), Staged{}, failed, test(2, 1, "x")}, fleet.PhaseHeld, "a", "x", 0},
		{"but another system is", []Event{test(1, 1, "x"), Staged{}, failed, test(2, 1, "y")}, fleet.PhaseStaging, "a", "y", Stage},
		{"failed and gone", []Event{test(1, 1, "x"), Staged{}, failed, TestGone{}}, fleet.PhaseIdle, "a", "", 0},
		{"releases go on", []Event{test(1, 1, "x"), Staged{}, failed, at(2, "b", "a")}, fleet.PhaseStaging, "a", "b", Stage},
		{"a boot ends it", append(x, Restarted{Systems: running("a")}), fleet.PhaseIdle, "a", "", 0},
		{"and it is not begun again", append(x, Restarted{Systems: running("a")}, test(1, 1, "x")), fleet.PhaseIdle, "a", "", 0},
		{"until the branch moves", append(x, Restarted{Systems: running("a")}, test(2, 1, "x")), fleet.PhaseStaging, "a", "x", Stage},
		{"a mere restart does not", append(x, Restarted{Systems: tried("x").Systems}), fleet.PhaseTesting, "a", "", 0},
		{"an operator ends it", append(x, chosen(fleet.ActDeploy, 1, "a", false)), fleet.PhaseStaging, "a", "a", Stage},
		{"and it stays ended", append(x, chosen(fleet.ActDeploy, 1, "a", false), Staged{}, back, test(1, 1, "x")), fleet.PhaseIdle, "a", "", 0},
		{"a choice in force wins", []Event{chosen(fleet.ActDeploy, 0, "z", false), Staged{}, Activated{Result: fleet.Committed, Systems: running("z")}, test(1, 1, "x")}, fleet.PhaseOverruled, "z", "", 0},
		{"what somebody switched to stays", append(x, observed("z", "z"), test(2, 1, "y"), TestGone{}), fleet.PhaseOverruled, "a", "", 0},
		{"switched to for good it is a drift", []Event{test(1, 1, "x"), observed("x", "x")}, fleet.PhaseOverruled, "a", "", 0},
		{"a suspension keeps it waiting", []Event{Suspend{By: root, Reason: "r", Until: t0.Add(24 * time.Hour)}, test(1, 1, "x"), Staged{}}, fleet.PhaseWaiting, "a", "x", 0},
		{"what the release says is not tried", []Event{test(1, 1, "a")}, fleet.PhaseIdle, "a", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := New("h", t0)
			var effects []Effect
			for i, e := range append([]Event{at(1, "a", "a")}, c.events...) {
				r, effects = free.Next(r, e, t0.Add(time.Duration(i)*10*time.Minute), 0.5)
				if !r.Valid() {
					t.Fatalf("after %s the record is not valid", KindOf(e))
				}
			}
			var last Effect
			if len(effects) == 1 {
				last = effects[0]
			}
			want := func(s string) string {
				if s == "" {
					return ""
				}
				return out(s)
			}
			if r.Phase != c.phase || pathOf(r.Active) != want(c.active) || pathOf(r.Target) != want(c.target) || last != c.last || len(effects) > 1 {
				t.Errorf("%s, active %s, target %s, effects %v", r.Phase, pathOf(r.Active), pathOf(r.Target), effects)
			}
		})
	}
}

// TestConfirmTest: a test waits for a person's word like a release where that is asked for; the way back does not.
func TestConfirmTest(t *testing.T) {
	p := Policy{Confirm: true}
	found := release(1, "a")
	found.Systems = running("a")
	x := test(1, 1, "x")
	r := New("h", t0)
	for i, step := range []struct {
		e     Event
		phase fleet.Phase
	}{
		{found, fleet.PhaseIdle}, {x, fleet.PhaseStaging}, {Staged{}, fleet.PhaseWaiting}, {Confirm{By: root, Release: 0, Tag: "another"}, fleet.PhaseWaiting},
		{Confirm{By: root, Release: 0, Tag: x.Release.Tag}, fleet.PhaseActivating}, {Activated{Result: fleet.Tested, Systems: fleet.Systems{Current: out("x"), Profile: out("a")}}, fleet.PhaseTesting},
		{TestGone{}, fleet.PhaseStaging}, {Staged{}, fleet.PhaseActivating},
	} {
		if r, _ = p.Next(r, step.e, t0, 0); r.Phase != step.phase {
			t.Fatalf("step %d, %s: %s", i, KindOf(step.e), r.Phase)
		}
	}
}
