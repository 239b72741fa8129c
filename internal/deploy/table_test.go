package deploy

import (
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

var update = flag.Bool("update", false, "write the table into docs/ARCHITECTURE.md")

// TestTableInDocs holds what people read against what runs.
func TestTableInDocs(t *testing.T) {
	const file, begin, end = "../../docs/ARCHITECTURE.md", "<!-- the table of internal/deploy -->\n", "<!-- end -->\n"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", file)
	}
	if table == Table() {
		return
	}
	if !*update {
		t.Fatalf("the table in %s is not what runs: go test ./internal/deploy -run TableInDocs -update", file)
	}
	if err := os.WriteFile(file, []byte(before+begin+Table()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestTableIsAFunction wants no event to have two rules in a phase, and every event to have one somewhere.
func TestTableIsAFunction(t *testing.T) {
	seen := map[Kind]map[fleet.Phase]bool{}
	for _, r := range table {
		if seen[r.on] == nil {
			seen[r.on] = map[fleet.Phase]bool{}
		}
		for _, p := range r.in {
			if seen[r.on][p] {
				t.Errorf("%s in %s has two rules", r.on, p)
			}
			seen[r.on][p] = true
		}
	}
	for _, e := range everyEvent(rand.New(rand.NewPCG(1, 1))) {
		if seen[KindOf(e)] == nil {
			t.Errorf("%s is not in the table", KindOf(e))
		}
	}
}

var root = fleet.Actor{UID: 0, User: "root"}

// everyEvent is each kind of event at least once, with what could matter drawn by lot.
func everyEvent(rng *rand.Rand) []Event {
	name := func() string { return string(rune('a' + rng.IntN(4))) }
	sys := func() fleet.Systems {
		s := running(name())
		if rng.IntN(4) == 0 {
			s.Profile = out(name())
		}
		s.Reboot = rng.IntN(4) == 0
		return s
	}
	n := 1 + rng.IntN(9)
	chosen := func(act string) Choose {
		return Choose{Act: act, By: root, Target: fleet.Target{Release: ref(rng.IntN(9)), Toplevel: fleet.Toplevel{OutPath: out(name())}}, Now: rng.IntN(2) == 0}
	}
	f := release(n, name())
	f.Systems = sys()
	ahead := release(n, name())
	ahead.Head = &Head{Release: ref(n + rng.IntN(3)), Entry: *release(n, name()).Entry}
	boot := []string{"", "boot1", "boot2"}[rng.IntN(3)]
	return []Event{f, ahead, Nothing{Head: ahead.Head}, Permitted{boot}, Permitted{"boot1"}, Restarted{Systems: sys(), Boot: "boot1"}, release(1+rng.IntN(9), name()), Found{Release: ref(n), Manual: true}, Found{Release: ref(n)}, Nothing{}, Refused{"x", badRelease},
		Staged{}, StageFailed{network}, StageFailed{badRelease},
		ok, Activated{Result: fleet.Committed, Systems: sys()}, Activated{Result: fleet.RebootNeeded, Systems: sys()}, Activated{Result: fleet.RolledBack, Failure: &badRelease, Systems: sys()},
		Activated{Result: fleet.NotActivated, Failure: &network, Systems: sys()}, Activated{Result: fleet.RollbackFailed, Failure: &network, Systems: sys()}, Activated{Result: fleet.RolledBack, Failure: &interrupted},
		Restarted{}, Restarted{Systems: sys()}, Observed{sys()}, Observed{}, Due{}, Due{},
		Retry{}, Confirm{By: root, Release: n, Tag: ref(n).Tag, Now: rng.IntN(2) == 0}, chosen(fleet.ActDeploy), chosen(fleet.ActRollback),
		Suspend{By: root, Reason: "r", Until: t0.Add(time.Duration(rng.IntN(48)) * time.Hour)}, Resumed{},
		test(1+rng.IntN(6), n, name()), test(1+rng.IntN(6), 9, name()), TestGone{}, Activated{Result: fleet.Tested, Systems: sys()}}
}

func somePolicy(rng *rand.Rand) Policy {
	p := Policy{Confirm: rng.IntN(3) == 0, Correct: rng.IntN(2) == 0, Grace: 30 * time.Second}
	night := Windows{{Days: [7]bool{true, true, true, true, true, true, true}, Start: 120, End: 300}}
	if rng.IntN(3) == 0 {
		p.Windows = night
	}
	if rng.IntN(2) == 0 {
		p.Reboots = night
	}
	p.Permits = rng.IntN(3) == 0
	return p
}

// TestRandomHistories checks what must hold whatever happens, in any order, under any policy. It also meets every event in every phase.
func TestRandomHistories(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	type cell struct {
		on Kind
		in fleet.Phase
	}
	met := map[cell]bool{}
	reached := map[cell]bool{}
	for range 2500 {
		p := somePolicy(rng)
		r, at := New("h", t0), t0
		for range 60 {
			events := everyEvent(rng)
			e := events[rng.IntN(len(events))]
			if rng.IntN(3) == 0 { // what moves things on, more often
				newest := 9
				if r.Newest != nil {
					newest = r.Newest.Number
				}
				e = []Event{Staged{}, ok, Due{}, Found{Release: ref(9), Entry: release(9, "b").Entry, Systems: running("a")}, test(1+rng.IntN(60), newest, "c")}[rng.IntN(5)]
				if r.Phase == fleet.PhaseIdle && rng.IntN(2) == 0 {
					e = test(r.TestNumber()+1, newest, "d")
				}
				if r.Test != nil && !r.Test.Left && rng.IntN(2) == 0 { // and to its end
					e = map[fleet.Phase]Event{fleet.PhaseStaging: Staged{}, fleet.PhaseActivating: Activated{Result: fleet.Tested}}[r.Phase]
				}
				if e == nil {
					e = Due{}
				}
			}
			at = at.Add(time.Duration(rng.IntN(300)) * time.Minute)
			was := r
			before, _ := json.Marshal(was)
			var effects []Effect
			r, effects = p.Next(was, e, at, rng.Float64())
			if after, _ := json.Marshal(was); string(after) != string(before) {
				t.Fatalf("%s changed the record that it was given", KindOf(e))
			}
			met[cell{KindOf(e), was.Phase}] = true
			reached[cell{KindOf(e), r.Phase}] = true
			if bad := wrong(p, was, e, r, effects, at); bad != "" {
				text, _ := json.MarshalIndent(map[string]any{"was": was, "event": e, "is": r}, "", " ")
				t.Fatalf("%T: %s; effects %v, policy %+v, at %s\n%s", e, bad, effects, p, at, text)
			}
		}
	}
	for _, phase := range fleet.Phases() {
		for _, e := range everyEvent(rng) {
			if !met[cell{KindOf(e), phase}] {
				t.Errorf("%s was never met in phase %s", KindOf(e), phase)
			}
		}
	}
	for _, r := range table {
		for _, to := range r.to {
			if !reached[cell{r.on, to}] {
				t.Errorf("%s never led to %s, as the table says it may", r.on, to)
			}
		}
	}
}

// wrong says what of the rules was broken by a transition, "" for none.
func wrong(p Policy, was Record, e Event, is Record, effects []Effect, at time.Time) string {
	rule, there := ruleFor(KindOf(e), was.Phase)
	has := func(x Effect) bool { return slices.Contains(effects, x) }
	suspended := is.Suspended != nil && at.Before(is.Suspended.Until)
	_, byOperator := map[Kind]bool{"Retry": true, "Confirm": true, "Choose": true}[KindOf(e)]
	pushed := KindOf(e) == "Found" || KindOf(e) == "TestFound"
	switch {
	case !is.Valid():
		return "a record that would be set aside"
	case (!there || p.May(was, e, at) != nil) && (!reflect.DeepEqual(was, is) || effects != nil):
		return "something happened that the table does not have"
	case is.Phase != was.Phase && !slices.Contains(rule.to, is.Phase):
		return "the table does not have that it leads there"
	case len(effects) > 1 || len(effects) == 1 && !slices.Contains(rule.effects, effects[0]):
		return "the table does not have these effects"
	case was.Newest != nil && is.Newest.Number < was.Newest.Number:
		return "the release number went down"
	case has(Activate) != (was.Phase != fleet.PhaseActivating && is.Phase == fleet.PhaseActivating):
		return "an activation begins with its phase, and only one at once"
	case has(Stage) && is.Phase != fleet.PhaseStaging, is.Phase == fleet.PhaseStaging && was.Phase != fleet.PhaseStaging && !has(Stage):
		return "a stage begins with its phase"
	case has(Activate) && suspended, has(Reboot) && suspended:
		return "begun although suspended"
	case has(Activate) && p.Confirm && is.Target.OutPath != pathOf(is.Active) && (is.Confirmed == nil || is.Confirmed.Release != is.Target.Release || is.Confirmed.OutPath != is.Target.OutPath):
		return "activated without its confirmation"
	case has(Activate) && !p.Windows.Open(at, time.UTC) && (is.Confirmed == nil || !is.Confirmed.Now || is.Confirmed.Release != is.Target.Release):
		return "activated outside of the windows"
	case has(Activate) && is.Newest != nil && is.Target.Release.Test == "" && is.Target.Release.Number < is.Newest.Number && is.Choice == nil && is.Target.OutPath != pathOf(is.Active):
		return "an older release is activated and nobody asked for it"
	case was.TestNumber() > is.TestNumber():
		return "the number of the test went down"
	case has(Activate) && is.Target.Release.Test != "" && (is.Test == nil || is.Test.Left || is.Choice != nil || is.Test.Release != is.Target.Release):
		return "a test is activated that is not in force"
	case KindOf(e) == "Activated" && was.Target != nil && was.Target.Release.Test != "" && pathOf(was.Active) != pathOf(is.Active):
		return "a test was confirmed"
	case was.Test != nil && was.Test.Left && is.Phase == fleet.PhaseTesting:
		return "a test that was left is tried again"
	case was.Phase == fleet.PhaseActivating && is.Phase == fleet.PhaseActivating && !reflect.DeepEqual(was.Target, is.Target):
		return "an activation's target changed under it"
	case was.Phase == fleet.PhaseHeld && is.Phase == fleet.PhaseStaging && !byOperator && !pushed && was.Target.OutPath == is.Target.OutPath:
		return "a held release is tried again by itself"
	case was.Phase == fleet.PhaseHeld && pushed && is.Phase == fleet.PhaseStaging && was.Target.OutPath == is.Target.OutPath && was.Failure.Code != fleet.CodeInterrupted && pathOf(was.Active) == pathOf(is.Active):
		return "a bad system is tried again because others changed"
	case has(Reboot) && was.Rebooted == is.Active.OutPath:
		return "rebooted twice for one system"
	case has(Reboot) && p.Permits && (was.Permit == "" || was.Permit != was.Boot || is.Permit != ""):
		return "rebooted without its ring's permit, or kept that"
	case was.Head != nil && is.Head != nil && is.Head.Release.Number < was.Head.Release.Number:
		return "the number of the newest release went down"
	case is.Head != nil && is.Newest != nil && is.Head.Release.Tag == is.Newest.Tag:
		return "what the host was given is ahead of it"
	case was.Head != nil && is.Head == nil && (is.Newest == nil || is.Newest.Number < was.Head.Release.Number):
		return "a newer release was forgotten"
	}
	working := slices.Contains([]fleet.Phase{fleet.PhaseStaging, fleet.PhaseWaiting, fleet.PhaseActivating, fleet.PhaseRetrying, fleet.PhaseHeld}, is.Phase)
	switch {
	case working != (is.Target != nil):
		return "phase and target disagree"
	case (is.Phase == fleet.PhaseRetrying) != (is.RetryAt != nil):
		return "phase and time of the retry disagree"
	case (is.Phase == fleet.PhaseWaiting) != (is.Wait != nil):
		return "phase and wait disagree"
	case is.Phase == fleet.PhaseOverruled && is.Drift == nil && is.Choice.OutPath != is.Active.OutPath:
		return "overruled by a choice that does not run"
	case is.Phase == fleet.PhaseTesting && (is.Test.Left || is.Choice != nil || is.Drift != nil || is.Tried == ""):
		return "testing what was left"
	case is.Phase == fleet.PhaseIdle && (is.Choice != nil || is.Drift != nil || is.Entry == nil || is.Entry.OutPath != is.Active.OutPath):
		return "idle, and not what the newest release says"
	}
	// The timer always leads somewhere: no event comes at once again and again.
	if wake := p.Wake(is, at); wake != nil && !wake.After(at) {
		next, effects := p.Next(is, Due{}, at, 0)
		if again := p.Wake(next, at); again != nil && !again.After(at) && effects == nil {
			return "the timer spins"
		}
	}
	return ""
}
