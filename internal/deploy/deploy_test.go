package deploy

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

var t0 = time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)

// free is a host that follows releases as they come.
var free = Policy{}

func ref(n int) fleet.ReleaseRef {
	return fleet.ReleaseRef{Number: n, Commit: fmt.Sprintf("%040d", n), Tag: fmt.Sprintf("%040x", n)}
}

func out(s string) string { return "/nix/store/00000000000000000000000000000000-" + s }

func release(n int, system string) Found {
	return Found{Release: ref(n), Entry: &fleet.Entry{Toplevel: fleet.Toplevel{OutPath: out(system)}}}
}

// test is test release k of this host, built on release n.
func test(k, n int, system string) TestFound {
	r := ref(100 + k)
	r.Number, r.Test = 0, fleet.TestTagName("h", k)
	return TestFound{Release: r, Entry: *release(n, system).Entry, Base: n}
}

// running is a host that runs and would boot a system.
func running(s string) fleet.Systems { return fleet.Systems{Current: out(s), Profile: out(s)} }

var (
	badRelease  = fleet.Failure{Class: fleet.Bad, Code: fleet.CodeCheck}
	interrupted = fleet.Failure{Class: fleet.Bad, Code: fleet.CodeInterrupted}
	network     = fleet.Failure{Class: fleet.Transient, Code: fleet.CodeSubstitute}
	ok          = Activated{Result: fleet.Committed}
)

// TestTransitions walks through histories: events, and the phase, effects and active system that they must lead to.
func TestTransitions(t *testing.T) {
	for _, c := range []struct {
		name    string
		events  []Event
		phase   fleet.Phase
		effects []Effect // of the last event
		active  string
		target  string
	}{
		{"first release is staged", []Event{release(1, "a")}, fleet.PhaseStaging, []Effect{Stage}, "", "a"},
		{"a host that runs it already adopts it", []Event{Found{Release: ref(1), Entry: &fleet.Entry{Toplevel: fleet.Toplevel{OutPath: out("a")}}, Systems: running("a")}}, fleet.PhaseIdle, nil, "a", ""},
		{"staged is activated", []Event{release(1, "a"), Staged{}}, fleet.PhaseActivating, []Effect{Activate}, "", "a"},
		{"committed is active", []Event{release(1, "a"), Staged{}, ok}, fleet.PhaseIdle, nil, "a", ""},
		{"the same release again does nothing", []Event{release(1, "a"), Staged{}, ok, release(1, "a")}, fleet.PhaseIdle, nil, "a", ""},
		{"an older one does nothing", []Event{release(2, "a"), Staged{}, ok, release(1, "b")}, fleet.PhaseIdle, nil, "a", ""},
		{"an unchanged one moves on without work", []Event{release(1, "a"), Staged{}, ok, release(2, "a")}, fleet.PhaseIdle, nil, "a", ""},
		{"a transient failure is retried", []Event{release(1, "a"), StageFailed{network}}, fleet.PhaseRetrying, nil, "", "a"},
		{"when due", []Event{release(1, "a"), StageFailed{network}, Due{}}, fleet.PhaseStaging, []Effect{Stage}, "", "a"},
		{"a bad release is held", []Event{release(1, "a"), Staged{}, Activated{Result: fleet.RolledBack, Failure: &badRelease}}, fleet.PhaseHeld, nil, "", "a"},
		{"and not tried again", []Event{release(1, "a"), Staged{}, Activated{Result: fleet.RolledBack, Failure: &badRelease}, release(1, "a"), Due{}}, fleet.PhaseHeld, nil, "", "a"},
		{"until a newer one comes", []Event{release(1, "a"), Staged{}, Activated{Result: fleet.RolledBack, Failure: &badRelease}, release(2, "b")}, fleet.PhaseStaging, []Effect{Stage}, "", "b"},
		{"a failed roll-back is held whatever its class", []Event{release(1, "a"), Staged{}, Activated{Result: fleet.RollbackFailed, Failure: &network}}, fleet.PhaseHeld, nil, "", "a"},
		{"a newer release supersedes a stage", []Event{release(1, "a"), release(2, "b")}, fleet.PhaseStaging, []Effect{Stage}, "", "b"},
		{"but never an activation", []Event{release(1, "a"), Staged{}, release(2, "b")}, fleet.PhaseActivating, nil, "", "a"},
		{"which it follows", []Event{release(1, "a"), Staged{}, release(2, "b"), ok}, fleet.PhaseStaging, []Effect{Stage}, "a", "b"},
		{"also a failed one", []Event{release(1, "a"), Staged{}, release(2, "b"), Activated{Result: fleet.RolledBack, Failure: &badRelease}}, fleet.PhaseStaging, []Effect{Stage}, "", "b"},
		{"going back to the older content", []Event{release(1, "a"), Staged{}, ok, release(2, "b"), Staged{}, ok, release(3, "a")}, fleet.PhaseStaging, []Effect{Stage}, "b", "a"},
		{"a manual host is left alone", []Event{Found{Release: ref(1), Manual: true}}, fleet.PhaseManual, nil, "", ""},
		{"a restart resumes an activation", []Event{release(1, "a"), Staged{}, Restarted{}}, fleet.PhaseActivating, []Effect{Resume}, "", "a"},
		{"and a stage", []Event{release(1, "a"), Restarted{}}, fleet.PhaseStaging, []Effect{Stage}, "", "a"},
		{"and nothing else", []Event{release(1, "a"), Staged{}, ok, Restarted{}}, fleet.PhaseIdle, nil, "a", ""},
		{"a reboot is waited for", []Event{release(1, "a"), Staged{}, Activated{Result: fleet.RebootNeeded}}, fleet.PhaseReboot, nil, "a", ""},
		{"and seen", []Event{release(1, "a"), Staged{}, Activated{Result: fleet.RebootNeeded}, Restarted{Systems: running("a")}}, fleet.PhaseIdle, nil, "a", ""},
		{"not by a mere restart", []Event{release(1, "a"), Staged{}, Activated{Result: fleet.RebootNeeded}, Restarted{Systems: running("z")}}, fleet.PhaseReboot, nil, "a", ""},
		{"nor by an unchanged release", []Event{release(1, "a"), Staged{}, Activated{Result: fleet.RebootNeeded}, release(2, "a")}, fleet.PhaseReboot, nil, "a", ""},
		{"nor by a bad one and its end", []Event{release(1, "a"), Staged{}, Activated{Result: fleet.RebootNeeded}, release(2, "b"), Staged{}, Activated{Result: fleet.RolledBack, Failure: &badRelease}, release(3, "a")}, fleet.PhaseReboot, nil, "a", ""},
		{"a bad system is not tried again because others changed", []Event{release(1, "a"), Staged{}, Activated{Result: fleet.RolledBack, Failure: &badRelease}, release(2, "a")}, fleet.PhaseHeld, nil, "", "a"},
		{"nor when that was published meanwhile", []Event{release(1, "a"), Staged{}, release(2, "a"), Activated{Result: fleet.RolledBack, Failure: &badRelease}}, fleet.PhaseHeld, nil, "", "a"},
		{"but one that was interrupted is", []Event{release(1, "a"), Staged{}, Activated{Result: fleet.RolledBack, Failure: &interrupted}, release(2, "a")}, fleet.PhaseStaging, []Effect{Stage}, "", "a"},
		{"going back after a failed roll-back is work", []Event{release(1, "a"), Staged{}, ok, release(2, "b"), Staged{}, Activated{Result: fleet.RollbackFailed, Failure: &badRelease},
			Found{Release: ref(3), Entry: &fleet.Entry{Toplevel: fleet.Toplevel{OutPath: out("a")}}, Systems: running("b")}}, fleet.PhaseStaging, []Effect{Stage}, "a", "a"},
		{"and after one that did not fail is none", []Event{release(1, "a"), Staged{}, ok, release(2, "b"), Staged{}, Activated{Result: fleet.RolledBack, Failure: &badRelease},
			Found{Release: ref(3), Entry: &fleet.Entry{Toplevel: fleet.Toplevel{OutPath: out("a")}}, Systems: running("a")}}, fleet.PhaseIdle, nil, "a", ""},
		{"what somebody else deployed meanwhile is adopted", []Event{release(1, "a"), Staged{}, ok, Found{Release: ref(2), Entry: &fleet.Entry{Toplevel: fleet.Toplevel{OutPath: out("b")}}, Systems: running("b")}}, fleet.PhaseIdle, nil, "b", ""},
		{"also while a reboot was waited for", []Event{release(1, "a"), Staged{}, Activated{Result: fleet.RebootNeeded}, Found{Release: ref(2), Entry: &fleet.Entry{Toplevel: fleet.Toplevel{OutPath: out("b")}}, Systems: running("b")},
			release(3, "b")}, fleet.PhaseIdle, nil, "b", ""},
		{"but not where it would not boot", []Event{release(1, "a"), Staged{}, ok, Found{Release: ref(2), Entry: &fleet.Entry{Toplevel: fleet.Toplevel{OutPath: out("b")}}, Systems: fleet.Systems{Current: out("b"), Profile: out("a")}}}, fleet.PhaseStaging, []Effect{Stage}, "a", "b"},
		{"a system that runs but would not boot is not adopted", []Event{Found{Release: ref(1), Entry: &fleet.Entry{Toplevel: fleet.Toplevel{OutPath: out("a")}}, Systems: fleet.Systems{Current: out("a")}}}, fleet.PhaseStaging, []Effect{Stage}, "", "a"},
		{"a host that is left out during its activation", []Event{release(1, "a"), Staged{}, Found{Release: ref(2), Manual: true}, ok}, fleet.PhaseManual, nil, "a", ""},
		{"a refusal changes nothing else", []Event{release(1, "a"), Staged{}, ok, Refused{"x", fleet.Failure{Code: fleet.CodeSignature}}}, fleet.PhaseIdle, nil, "a", ""},
		{"a late answer of a stage does nothing", []Event{release(1, "a"), Staged{}, ok, Staged{}}, fleet.PhaseIdle, nil, "a", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := New("h", t0)
			var effects []Effect
			for i, e := range c.events {
				r, effects = free.Next(r, e, t0.Add(time.Duration(i)*10*time.Minute), 0.5)
			}
			path := func(x *fleet.Target) string {
				if x == nil {
					return ""
				}
				return x.OutPath[len(out("")):]
			}
			if r.Phase != c.phase || !slices.Equal(effects, c.effects) || path(r.Active) != c.active || path(r.Target) != c.target {
				t.Fatalf("phase %s, effects %v, active %q, target %q; record %+v", r.Phase, effects, path(r.Active), path(r.Target), r)
			}
		})
	}
}

func TestAbsentHostSaysSo(t *testing.T) {
	r, _ := free.Next(New("h", t0), Found{Release: ref(1)}, t0, 0)
	if r.Phase != fleet.PhaseManual || r.Failure == nil || r.Failure.Code != fleet.CodeNoSuchHost {
		t.Fatalf("%+v", r)
	}
}

func TestRefusalKeepsItsBeginning(t *testing.T) {
	f := fleet.Failure{Code: fleet.CodeForcePushed}
	r, _ := free.Next(New("h", t0), Refused{"x", f}, t0, 0)
	r, _ = free.Next(r, Refused{"x", f}, t0.Add(time.Hour), 0)
	if !r.Refused.Since.Equal(t0) {
		t.Fatalf("since %s", r.Refused.Since)
	}
	r, _ = free.Next(r, release(1, "a"), t0, 0)
	if r.Refused != nil {
		t.Fatal("an accepted release must end the refusal")
	}
	r, _ = free.Next(New("h", t0), Refused{"x", f}, t0, 0)
	if r, _ = free.Next(r, Nothing{}, t0, 0); r.Refused != nil {
		t.Fatal("a branch that is gone before any release must end the refusal")
	}
}

// TestAccepted: an operator's word lifts the history once, for one commit, and for nothing else.
func TestAccepted(t *testing.T) {
	at := func(n int, commit string) Found {
		f := release(n, "b")
		f.Release.Commit = commit
		return f
	}
	back := Refused{"back", fleet.Failure{Code: fleet.CodeForcePushed}}
	for _, c := range []struct {
		name   string
		events []Event
		number int
		waits  bool
	}{
		{"the refused tip", []Event{back, Accept{By: root, Commit: "back"}, at(2, "back")}, 2, false},
		{"not another", []Event{back, Accept{By: root, Commit: "other"}, at(2, "other")}, 5, false},
		{"what was not refused", []Event{Accept{By: root, Commit: "back"}, at(2, "back")}, 5, false},
		{"not its signature", []Event{Refused{"back", fleet.Failure{Code: fleet.CodeUnknownKey}}, Accept{By: root, Commit: "back"}, at(2, "back")}, 5, false},
		{"until it is seen", []Event{back, Accept{By: root, Commit: "back"}, Restarted{}, at(5, "old")}, 5, true},
		{"once", []Event{back, Accept{By: root, Commit: "back"}, at(2, "back"), at(1, "back")}, 2, false},
		{"overtaken by a newer one", []Event{back, Accept{By: root, Commit: "back"}, at(6, "six"), at(2, "back")}, 6, false},
		{"during an activation", []Event{release(6, "c"), Staged{}, back, Accept{By: root, Commit: "back"}, at(2, "back"), ok}, 2, false},
	} {
		r, _ := Policy{}.Next(New("h", t0), release(5, "a"), t0, 0)
		r, _ = Policy{}.Next(r, Staged{}, t0, 0)
		r, _ = Policy{}.Next(r, ok, t0, 0)
		for _, e := range c.events {
			r, _ = Policy{}.Next(r, e, t0, 0)
		}
		if r.Newest.Number != c.number || (r.Accept != nil) != c.waits || !r.Valid() {
			t.Errorf("%s: newest %d, %+v", c.name, r.Newest.Number, r.Accept)
		}
		if c.number == 2 && r.Phase != fleet.PhaseStaging {
			t.Errorf("%s: phase %s", c.name, r.Phase)
		}
	}
}

func TestBackoff(t *testing.T) {
	if d := Backoff(fleet.Transient, 1, 0); d != 5*time.Second {
		t.Error(d)
	}
	if d := Backoff(fleet.Transient, 1000, 0); d != 10*time.Minute {
		t.Error(d)
	}
	if d := Backoff(fleet.Local, 2, 1); d != 3*time.Minute {
		t.Error(d)
	}
}
