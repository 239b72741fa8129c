package fleet_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestEventInWords(t *testing.T) {
	ref := fleet.ReleaseRef{Number: 7, Source: fleet.Source{Commit: "0123456789abcdef", Branch: "main", Subject: "A change"}}
	until := time.Date(2026, 12, 27, 6, 0, 0, 0, time.UTC)
	failure := &fleet.Failure{Code: fleet.CodeCheck, Message: "the check web failed:\n502"}
	for _, c := range []struct {
		kind string
		data any
		want string
	}{
		{fleet.EventRun, fleet.Run{ID: 3, Source: ref.Source, State: fleet.RunRunning, Stage: fleet.Build}, "CI run 3 of 0123456789ab on main: running, build"},
		{fleet.EventRun, fleet.Run{ID: 3, Source: ref.Source, State: fleet.RunReleased, Release: &ref}, "CI run 3 of 0123456789ab on main: released, release-7"},
		{fleet.EventRun, fleet.Run{ID: 3, Source: ref.Source, State: fleet.RunFailed, Failure: failure}, "CI run 3 of 0123456789ab on main: failed: the check web failed:"},
		{fleet.EventReleased, fleet.Published{Release: ref, Hosts: 3, Changed: []string{"a"}}, "release-7 was published: A change (changes 1 of 3 hosts)"},
		{fleet.EventPhase, fleet.PhaseChange{Host: "a", Phase: fleet.PhaseNew}, "a: new"},
		{fleet.EventPhase, fleet.PhaseChange{Host: "a", Was: fleet.PhaseActivating, Phase: fleet.PhaseHeld, Release: &ref, Failure: failure}, "a: held, was activating (release-7): the check web failed:"},
		{fleet.EventDeployment, fleet.Deployment{Host: "a", Release: ref, Result: fleet.RolledBack, Failure: failure}, "a: release-7 rolled-back: the check web failed:"},
		{fleet.EventAct, fleet.Act{Host: "a", Act: fleet.ActDeploy, By: &fleet.Actor{User: "root"}, Release: &ref, Reason: "why"}, "a: deploy by root, release-7: why"},
		{fleet.EventAlert, fleet.Alert{Severity: fleet.Critical, What: "a is silent"}, "critical: a is silent"},
		{fleet.EventResolved, fleet.Alert{What: "a is silent"}, "over: a is silent"},
		{fleet.EventDrill, fleet.DrillReport{Host: "a", Passed: true, Scenarios: []fleet.DrillScenario{{}}}, "a drill of a passed (1 scenarios)"},
		{fleet.EventDrill, fleet.DrillReport{Host: "a", Scenarios: []fleet.DrillScenario{{Name: "x", Result: fleet.DrillFail}, {Name: "y"}}}, "a drill of a FAILED: x"},
		{fleet.EventRollout, fleet.RolloutAct{Act: fleet.RolloutPromoted, Ring: "web", Batch: 1, Release: 7, By: "hub", Reason: "canary soaked"}, "roll-out: release-7 goes to ring web: canary soaked"},
		{fleet.EventRollout, fleet.RolloutAct{Act: fleet.RolloutPromoted, Ring: "web", Batch: 2, Release: 7, By: "Ann"}, "roll-out: release-7 goes to ring web, batch 2 by Ann"},
		{fleet.EventRollout, fleet.RolloutAct{Act: fleet.RolloutApproved, Ring: "web", Release: 7, By: "Ann"}, "roll-out: ring web may be given release-7 by Ann"},
		{fleet.EventRollout, fleet.RolloutAct{Act: fleet.RolloutPaused, Ring: "web", Release: 7, Reason: "1 host failed: a"}, "roll-out: release-7 goes no further than ring web: 1 host failed: a"},
		{fleet.EventRollout, fleet.RolloutAct{Act: fleet.RolloutPaused, Release: 7, By: "Ann"}, "roll-out: release-7 is paused by Ann"},
		{fleet.EventRollout, fleet.RolloutAct{Act: fleet.RolloutResumed, Release: 7, By: "Ann"}, "roll-out: release-7 is resumed by Ann"},
		{fleet.EventRollout, fleet.RolloutAct{Act: fleet.RolloutFrozen, By: "Ann", Until: &until, Reason: "holidays"}, "roll-out: frozen until 2026-12-27 06:00 UTC by Ann: holidays"},
		{fleet.EventRollout, fleet.RolloutAct{Act: fleet.RolloutUnfrozen, By: "Ann"}, "roll-out: the freeze has been ended by Ann"},
		{fleet.EventRollout, fleet.RolloutAct{Act: fleet.RolloutAborted, Release: 7, To: 5, By: "Ann"}, "roll-out: release-7 was aborted: back to release-5 by Ann"},
		{fleet.EventRollout, fleet.RolloutAct{Act: fleet.RolloutRebooting, By: "hub", Hosts: []string{"a", "b"}}, "roll-out: may reboot now: a, b"},
		{fleet.EventRollout, fleet.RolloutAct{Act: fleet.RolloutComplete, Release: 7}, "roll-out: all rings have release-7"},
		{fleet.EventRun, "nonsense", "it (/ci)"},
		{"of a later version", 1, "it (/ci)"},
	} {
		e, err := fleet.NewEvent(c.kind, "/ci", "1", "it", time.Now(), c.data)
		if got := e.Words(); err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", c.kind, got, err, c.want)
		}
	}
	if got := (fleet.Event{Type: fleet.EventRun, Source: "/ci", Data: json.RawMessage("{")}).Words(); got != "(/ci)" {
		t.Errorf("%q", got)
	}
}

// TestExplainSeen: what a hub knows of a host beyond its own word comes first.
func TestExplainSeen(t *testing.T) {
	at := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	idle := fleet.Status{Host: "a", Phase: fleet.PhaseIdle, Since: at}
	for _, c := range []struct {
		change func(*fleet.Status)
		about  []string
	}{
		{func(s *fleet.Status) { s.Seen = &fleet.Seen{At: at} }, []string{"idle"}},
		{func(s *fleet.Status) { s.Seen = &fleet.Seen{At: at, Silent: &at} }, []string{"silent", "idle"}},
		{func(s *fleet.Status) { s.Seen = &fleet.Seen{At: at, Gone: true} }, []string{"gone", "idle"}},
		{func(s *fleet.Status) { s.Seen, s.Phase = &fleet.Seen{}, fleet.PhaseUnheard }, []string{"unheard"}},
		{func(s *fleet.Status) { s.Seen, s.Phase = &fleet.Seen{Silent: &at}, fleet.PhaseUnheard }, []string{"unheard"}},
	} {
		s := idle
		c.change(&s)
		e := fleet.Explain(s)
		if len(e.Why) != len(c.about) {
			t.Errorf("%+v, want %q", e.Why, c.about)
			continue
		}
		for i, w := range e.Why {
			if w.About != c.about[i] || w.Said == "" || w.About != "idle" && len(w.Commands) == 0 {
				t.Errorf("%+v, want %q", w, c.about[i])
			}
		}
	}
}
