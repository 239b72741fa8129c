package deploy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func observed(current, profile string) Observed {
	return Observed{fleet.Systems{Current: out(current), Profile: out(profile)}}
}

func committed(s string) Activated { return Activated{Result: fleet.Committed, Systems: running(s)} }

func chosen(act string, n int, system string, now bool) Choose {
	return Choose{Act: act, By: root, Target: fleet.Target{Release: ref(n), Toplevel: fleet.Toplevel{OutPath: out(system)}}, Now: now}
}

func yes(n int, now bool) Confirm { return Confirm{By: root, Release: n, Tag: ref(n).Tag, Now: now} }

// TestGatesAndOrders walks through histories like TestTransitions, ten minutes from event to event, from Monday 06:00 on.
func TestGatesAndOrders(t *testing.T) {
	manual, correct := Policy{Confirm: true}, Policy{Correct: true, Grace: time.Minute}
	night := Policy{Windows: Windows{{Days: [7]bool{true, true, true, true, true, true, true}, Start: 7 * 60, End: 8 * 60}}} // opens at 07:00
	nightly := Policy{Reboots: night.Windows}
	bad := Activated{Result: fleet.RolledBack, Failure: &badRelease, Systems: running("a")}
	first := []Event{release(1, "a"), Staged{}, committed("a")}
	second := append(slices.Clone(first), release(2, "b"), Staged{}, committed("b"))
	suspended, briefly := Suspend{By: root, Reason: "r", Until: t0.Add(5 * time.Hour)}, Suspend{By: root, Reason: "r", Until: t0.Add(time.Hour)}
	reboot := append(slices.Clone(first), release(2, "b"), Staged{}, Activated{Result: fleet.RebootNeeded, Systems: fleet.Systems{Current: out("a"), Profile: out("b")}})
	for _, c := range []struct {
		name    string
		policy  Policy
		begin   []Event
		then    []Event
		phase   fleet.Phase
		effects []Effect
		wait    fleet.WaitFor
		active  string
		target  string
	}{
		{"a manual gate waits", manual, nil, []Event{release(1, "a"), Staged{}}, fleet.PhaseWaiting, nil, fleet.ForConfirm, "", "a"},
		{"for its own release", manual, nil, []Event{release(1, "a"), Staged{}, yes(1, false)}, fleet.PhaseActivating, []Effect{Activate}, "", "", "a"},
		{"not for another", manual, nil, []Event{release(1, "a"), Staged{}, yes(2, false)}, fleet.PhaseWaiting, nil, fleet.ForConfirm, "", "a"},
		{"not for another tag", manual, nil, []Event{release(1, "a"), Staged{}, Confirm{Release: 1, Tag: "x"}}, fleet.PhaseWaiting, nil, fleet.ForConfirm, "", "a"},
		{"confirmed while it is fetched", manual, nil, []Event{release(1, "a"), yes(1, false), Staged{}}, fleet.PhaseActivating, []Effect{Activate}, "", "", "a"},
		{"a newer one supersedes it", manual, nil, []Event{release(1, "a"), yes(1, false), release(2, "b"), Staged{}}, fleet.PhaseWaiting, nil, fleet.ForConfirm, "", "b"},
		{"and is for that host too when nothing changed", manual, nil, []Event{release(1, "a"), yes(1, false), release(2, "a"), Staged{}}, fleet.PhaseWaiting, nil, fleet.ForConfirm, "", "a"},
		{"what an operator names needs no other word", manual, nil, []Event{release(1, "a"), chosen(fleet.ActDeploy, 1, "a", false), Staged{}}, fleet.PhaseActivating, []Effect{Activate}, "", "", "a"},
		{"a restart asks no second time", manual, nil, []Event{release(1, "a"), Staged{}, Restarted{}}, fleet.PhaseWaiting, nil, fleet.ForConfirm, "", "a"},

		{"a window keeps it", night, nil, []Event{release(1, "a"), Staged{}}, fleet.PhaseWaiting, nil, fleet.ForWindow, "", "a"},
		{"until it opens", night, nil, []Event{release(1, "a"), Staged{}, Due{}, Due{}, Due{}, Due{}, Due{}}, fleet.PhaseActivating, []Effect{Activate}, "", "", "a"},
		{"or somebody says now", night, nil, []Event{release(1, "a"), Staged{}, yes(1, true)}, fleet.PhaseActivating, []Effect{Activate}, "", "", "a"},
		{"not only yes", night, nil, []Event{release(1, "a"), Staged{}, yes(1, false)}, fleet.PhaseWaiting, nil, fleet.ForWindow, "", "a"},

		{"suspended", free, first, []Event{suspended, release(2, "b"), Staged{}}, fleet.PhaseWaiting, nil, fleet.ForResume, "a", "b"},
		{"not by now", free, first, []Event{suspended, release(2, "b"), Staged{}, yes(2, true)}, fleet.PhaseWaiting, nil, fleet.ForResume, "a", "b"},
		{"until resumed", free, first, []Event{suspended, release(2, "b"), Staged{}, Resumed{}}, fleet.PhaseActivating, []Effect{Activate}, "", "a", "b"},
		{"or over", free, first, []Event{briefly, release(2, "b"), Staged{}, Due{}}, fleet.PhaseActivating, []Effect{Activate}, "", "a", "b"},
		{"a waiting one is suspended too", manual, first, []Event{release(2, "b"), Staged{}, suspended, yes(2, false)}, fleet.PhaseWaiting, nil, fleet.ForResume, "a", "b"},

		{"rolled back by an operator", free, second, []Event{chosen(fleet.ActRollback, 1, "a", true), Staged{}, committed("a")}, fleet.PhaseOverruled, nil, "", "a", ""},
		{"and nothing new does not end it", free, second, []Event{chosen(fleet.ActRollback, 1, "a", true), Staged{}, committed("a"), release(3, "b")}, fleet.PhaseOverruled, nil, "", "a", ""},
		{"another system does", free, second, []Event{chosen(fleet.ActRollback, 1, "a", true), Staged{}, committed("a"), release(3, "c")}, fleet.PhaseStaging, []Effect{Stage}, "", "a", "c"},
		{"the same as chosen is followed", free, second, []Event{chosen(fleet.ActRollback, 1, "a", true), Staged{}, committed("a"), release(3, "a")}, fleet.PhaseIdle, nil, "", "a", ""},
		{"naming the newest ends it", free, second, []Event{chosen(fleet.ActRollback, 1, "a", true), Staged{}, committed("a"), chosen(fleet.ActDeploy, 2, "b", false), Staged{}, committed("b")}, fleet.PhaseIdle, nil, "", "b", ""},
		{"a choice that fails is held", free, second, []Event{chosen(fleet.ActDeploy, 0, "z", false), Staged{}, Activated{Result: fleet.RolledBack, Failure: &badRelease, Systems: running("b")}}, fleet.PhaseHeld, nil, "", "b", "z"},
		{"a release that nobody asked a manual host about leaves a choice", free, []Event{Found{Release: ref(1), Manual: true}}, []Event{chosen(fleet.ActDeploy, 0, "z", false), Found{Release: ref(2), Manual: true}, Staged{}, committed("z")}, fleet.PhaseOverruled, nil, "", "z", ""},
		{"before any release", free, nil, []Event{chosen(fleet.ActDeploy, 0, "z", false), Staged{}, committed("z")}, fleet.PhaseOverruled, nil, "", "z", ""},
		{"none while one is activated", free, first, []Event{release(2, "b"), Staged{}, chosen(fleet.ActRollback, 1, "a", true)}, fleet.PhaseActivating, nil, "", "a", "b"},

		{"retry lifts a hold", free, first, []Event{release(2, "b"), Staged{}, bad, release(3, "b"), Retry{}}, fleet.PhaseStaging, []Effect{Stage}, "", "a", "b"},
		{"a revert after a failure is what runs", free, first, []Event{release(2, "b"), Staged{}, bad, release(3, "a")}, fleet.PhaseIdle, nil, "", "a", ""},
		{"and the revert of that is tried", free, first, []Event{release(2, "b"), Staged{}, bad, release(3, "a"), release(4, "b")}, fleet.PhaseStaging, []Effect{Stage}, "", "a", "b"},

		{"switched by hand", free, second, []Event{observed("x", "x")}, fleet.PhaseOverruled, nil, "", "b", ""},
		{"only what is booted next", free, second, []Event{observed("b", "x")}, fleet.PhaseOverruled, nil, "", "b", ""},
		{"and back", free, second, []Event{observed("x", "x"), observed("b", "b")}, fleet.PhaseIdle, nil, "", "b", ""},
		{"nothing new", free, second, []Event{observed("x", "x"), release(3, "b")}, fleet.PhaseOverruled, nil, "", "b", ""},
		{"something new", free, second, []Event{observed("x", "x"), release(3, "c")}, fleet.PhaseStaging, []Effect{Stage}, "", "b", "c"},
		{"which fails: what was overruled comes again", free, second, []Event{observed("x", "x"), release(3, "c"), Staged{}, Activated{Result: fleet.RolledBack, Failure: &badRelease, Systems: running("x")}, release(4, "b")}, fleet.PhaseStaging, []Effect{Stage}, "", "b", "b"},
		{"by hand over a roll-back, and back: the roll-back still holds", free, second, []Event{chosen(fleet.ActRollback, 1, "a", true), Staged{}, committed("a"), observed("x", "x"), observed("a", "a")}, fleet.PhaseOverruled, nil, "", "a", ""},
		{"while it is fetched", free, second, []Event{release(3, "c"), observed("x", "x"), Staged{}}, fleet.PhaseOverruled, nil, "", "b", ""},
		{"while it is held", free, first, []Event{release(2, "b"), Staged{}, bad, observed("x", "x"), observed("a", "a")}, fleet.PhaseHeld, nil, "", "a", "b"},
		{"what is booted next is put back", free, reboot, []Event{observed("a", "x"), observed("a", "b")}, fleet.PhaseReboot, nil, "", "b", ""},
		{"a boot in the middle of an activation", free, reboot, []Event{release(3, "c"), Staged{}, Activated{Result: fleet.RolledBack, Failure: &interrupted, Systems: running("b")}, observed("b", "b"), release(4, "b")}, fleet.PhaseIdle, nil, "", "b", ""},
		{"what is booted next is put right by a newer release", free, second, []Event{observed("b", "x"), release(3, "c"), Staged{}, Activated{Result: fleet.RolledBack, Failure: &badRelease, Systems: fleet.Systems{Current: out("b"), Profile: out("x")}}, release(4, "b")}, fleet.PhaseStaging, []Effect{Stage}, "", "b", "b"},
		{"to the release itself, profile first", manual, first, []Event{release(2, "b"), Staged{}, observed("a", "b"), observed("b", "b")}, fleet.PhaseIdle, nil, "", "b", ""},
		{"to the release itself", free, first, []Event{release(2, "b"), Staged{}, bad, observed("b", "b")}, fleet.PhaseIdle, nil, "", "b", ""},
		{"what a roll-back failed to undo is no drift", free, first, []Event{release(2, "b"), Staged{}, Activated{Result: fleet.RollbackFailed, Failure: &badRelease, Systems: running("b")}, observed("b", "b")}, fleet.PhaseHeld, nil, "", "a", "b"},

		{"corrected after the grace", correct, second, []Event{observed("x", "x")}, fleet.PhaseWaiting, nil, fleet.ForGrace, "b", "b"},
		{"by fetching it again", correct, second, []Event{observed("x", "x"), Due{}}, fleet.PhaseStaging, []Effect{Stage}, "", "b", "b"},
		{"unless it is switched back meanwhile", correct, second, []Event{observed("x", "x"), observed("b", "b")}, fleet.PhaseIdle, nil, "", "b", ""},
		{"a correction that fails is held", correct, second, []Event{observed("x", "x"), Due{}, Staged{}, Activated{Result: fleet.RolledBack, Failure: &badRelease, Systems: running("x")}}, fleet.PhaseHeld, nil, "", "b", "b"},
		{"and leads on to what came meanwhile", correct, second, []Event{observed("x", "x"), Due{}, Staged{}, release(3, "c"), committed("b")}, fleet.PhaseStaging, []Effect{Stage}, "", "b", "c"},

		{"a reboot waits for its window", nightly, reboot, []Event{Due{}}, fleet.PhaseReboot, []Effect{Reboot}, "", "b", ""}, // 07:00
		{"and comes once", nightly, reboot, []Event{Due{}, Due{}}, fleet.PhaseReboot, nil, "", "b", ""},
		{"and is seen", nightly, reboot, []Event{Due{}, Restarted{Systems: running("b")}}, fleet.PhaseIdle, nil, "", "b", ""},
		{"not while suspended", nightly, reboot, []Event{suspended, Due{}}, fleet.PhaseReboot, nil, "", "b", ""},
		{"not into what somebody chose by hand", nightly, reboot, []Event{observed("a", "x"), Due{}}, fleet.PhaseOverruled, nil, "", "b", ""},
		{"none without a window", free, reboot, []Event{Due{}}, fleet.PhaseReboot, nil, "", "b", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, at := New("h", t0), t0
			var effects []Effect
			for i, e := range slices.Concat(c.begin, c.then) {
				p := c.policy
				if i < len(c.begin) {
					p = free
				}
				r, effects = p.Next(r, e, at, 0.5)
				at = at.Add(10 * time.Minute)
			}
			var wait fleet.WaitFor
			if r.Wait != nil {
				wait = r.Wait.For
			}
			want := func(system string) string {
				if system == "" {
					return ""
				}
				return out(system)
			}
			if r.Phase != c.phase || !slices.Equal(effects, c.effects) || wait != c.wait || pathOf(r.Active) != want(c.active) || pathOf(r.Target) != want(c.target) {
				text, _ := json.MarshalIndent(r, "", " ")
				t.Fatalf("phase %s, effects %v, waits for %q\n%s", r.Phase, effects, wait, text)
			}
		})
	}
}

// TestChosenNewest names by its path the system that the newest release gives this host: all that the release says of it holds.
func TestChosenNewest(t *testing.T) {
	r := New("h", t0)
	found := Found{Release: ref(2), Entry: &fleet.Entry{Toplevel: fleet.Toplevel{OutPath: out("b"), Built: true, Checks: []fleet.HealthCheck{{Name: "valve"}}}}}
	for _, e := range []Event{release(1, "a"), Staged{}, committed("a"), found, chosen(fleet.ActDeploy, 0, "b", false)} {
		r, _ = free.Next(r, e, t0, 0)
	}
	if r.Choice != nil || r.Target.Release != ref(2) || !reflect.DeepEqual(r.Target.Toplevel, found.Entry.Toplevel) {
		t.Errorf("%+v, chosen %+v", r.Target, r.Choice)
	}
}

// A drift that comes again and again is corrected three times, then held; retry begins anew.
func TestCorrectionsEnd(t *testing.T) {
	p := Policy{Correct: true, Grace: time.Minute}
	r, at := New("h", t0), t0
	next := func(e Event) {
		at = at.Add(10 * time.Minute)
		r, _ = p.Next(r, e, at, 0)
	}
	for _, e := range []Event{release(1, "a"), Staged{}, committed("a")} {
		next(e)
	}
	for range MaxCorrections {
		for _, e := range []Event{observed("x", "x"), Due{}, Staged{}, committed("a")} {
			next(e)
		}
		if r.Phase != fleet.PhaseIdle {
			t.Fatalf("%+v", r)
		}
	}
	next(observed("x", "x"))
	if r.Phase != fleet.PhaseHeld || r.Failure.Code != fleet.CodeDiffers {
		t.Fatalf("%+v", r)
	}
	for _, e := range []Event{Retry{}, Staged{}, committed("a"), observed("x", "x")} {
		next(e)
	}
	if r.Phase != fleet.PhaseWaiting {
		t.Fatalf("%+v", r)
	}
}

func TestMaySaysWhatToDo(t *testing.T) {
	r := New("h", t0)
	for _, e := range []Event{release(1, "a"), Staged{}, committed("a")} {
		r, _ = free.Next(r, e, t0, 0)
	}
	for what, e := range map[string]Event{
		"nothing failed here":           Retry{},
		"nothing waits":                 yes(1, false),
		"runs that system already":      chosen(fleet.ActDeploy, 1, "a", false),
		"nothing is suspended":          Resumed{},
		"must end in the future, not a": Suspend{Until: t0},
	} {
		if err := free.May(r, e, t0); err == nil || fleet.CodeOf(err) != fleet.CodeNotNow || !strings.Contains(err.Error(), what) {
			t.Errorf("%T: %v", e, err)
		}
	}
}

// TestOldRecords reads what agents of the first version left, and goes on from there: what ran then is no drift, what
// somebody switched to since is.
func TestOldRecords(t *testing.T) {
	files, err := filepath.Glob("testdata/state-*.json")
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var r Record
		if err := json.Unmarshal(data, &r); err != nil || r.Schema != RecordSchema || !r.Valid() {
			t.Fatalf("%s: %v, %+v", file, err, r)
		}
		was := r.Phase
		current := r.Active.OutPath
		if r.Reboot {
			current = out("before")
		}
		r, effects := free.Next(r, Restarted{Systems: fleet.Systems{Current: current, Profile: r.Active.OutPath}}, t0, 0)
		if r.Phase != was || effects != nil || r.Drift != nil {
			t.Errorf("%s: %s, %v, %+v", file, r.Phase, effects, r.Drift)
		}
		r, _ = free.Next(r, observed("x", "x"), t0, 0)
		if r.Drift == nil || (r.Phase != fleet.PhaseOverruled) != (was == fleet.PhaseHeld) {
			t.Errorf("%s: a switch by hand: %s, %+v", file, r.Phase, r.Drift)
		}
		if r, effects = free.Next(r, release(99, "new"), t0, 0); !slices.Equal(effects, []Effect{Stage}) {
			t.Errorf("%s: a newer release: %s", file, r.Phase)
		}
	}
}
