package hub_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
)

func TestStatsOf(t *testing.T) {
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	at := func(n int) time.Time { return from.Add(time.Duration(n) * time.Minute) }
	pushed := func(n int) *time.Time { when := at(n); return &when }
	release := func(n, made int, push *time.Time, changed ...string) fleet.Published {
		return fleet.Published{Release: fleet.ReleaseRef{Number: n, Source: fleet.Source{PushedAt: push}}, CreatedAt: at(made), Changed: changed}
	}
	rollback := func(n, made, to int, changed ...string) fleet.Published {
		p := release(n, made, pushed(made), changed...)
		p.RollbackTo = to
		return p
	}
	ended := func(host string, n int, result fleet.Result, class fleet.Class, end int) hub.Outcome {
		return hub.Outcome{Host: host, Release: n, Result: result, Class: class, EndedAt: at(end)}
	}
	ok := func(host string, n, end int) hub.Outcome { return ended(host, n, fleet.Committed, "", end) }
	bad := func(host string, n, end int) hub.Outcome { return ended(host, n, fleet.RolledBack, fleet.Bad, end) }
	run := func(n, began int, state fleet.RunState, code fleet.Code) fleet.Run {
		r := fleet.Run{State: state, StartedAt: at(began)}
		if n > 0 {
			r.Release = &fleet.ReleaseRef{Number: n}
		}
		if code != "" {
			r.Failure = &fleet.Failure{Code: code}
		}
		return r
	}
	for _, c := range []struct {
		name     string
		releases []fleet.Published
		outcomes []hub.Outcome
		runs     []fleet.Run
		want     string // but for schema, from and until
	}{
		{"nothing", nil, nil, nil, `{"releases":0,"deployments":0,"changeFailures":0,"runsFailed":0,"runs":0}`},
		{"one that went well: to the last of its hosts", []fleet.Published{release(1, 12, pushed(10), "a", "b")}, []hub.Outcome{ok("a", 1, 13), ok("b", 1, 20)}, nil,
			`{"releases":1,"deployments":2,"changeFailures":0,"changeFailureRate":0,"runsFailed":0,"runs":0,"leadTime":{"count":1,"median":600,"p95":600,"most":600}}`},
		{"the push is not known: from the run", []fleet.Published{release(1, 12, nil, "a")}, []hub.Outcome{ok("a", 1, 13)}, []fleet.Run{run(1, 11, fleet.RunReleased, "")},
			`{"releases":1,"deployments":1,"changeFailures":0,"changeFailureRate":0,"runsFailed":0,"runs":1,"leadTime":{"count":1,"median":120,"p95":120,"most":120}}`},
		{"nor the run: from when it was made; clocks differ", []fleet.Published{release(1, 12, nil, "a")}, []hub.Outcome{ok("a", 1, 11)}, nil,
			`{"releases":1,"deployments":1,"changeFailures":0,"changeFailureRate":0,"runsFailed":0,"runs":0,"leadTime":{"count":1,"median":0,"p95":0,"most":0}}`},
		{"changed nothing, and one that is not there yet", []fleet.Published{release(1, 1, pushed(0)), release(2, 2, pushed(1), "a", "b")}, []hub.Outcome{ok("a", 2, 3)}, nil,
			`{"releases":2,"deployments":1,"changeFailures":0,"changeFailureRate":0,"runsFailed":0,"runs":0}`},
		{"superseded: the change came with a newer one", []fleet.Published{release(1, 1, pushed(0), "a"), release(2, 2, pushed(2), "a")}, []hub.Outcome{ok("a", 2, 4)}, nil,
			`{"releases":2,"deployments":1,"changeFailures":0,"changeFailureRate":0,"runsFailed":0,"runs":0,"leadTime":{"count":2,"median":120,"p95":240,"most":240}}`},
		{"failed on a host and mended by the next", []fleet.Published{release(1, 1, pushed(0), "a", "b"), release(2, 20, pushed(20), "a")},
			[]hub.Outcome{ok("b", 1, 2), bad("a", 1, 3), bad("a", 1, 4), ok("a", 2, 33)}, nil,
			`{"releases":2,"deployments":4,"changeFailures":1,"changeFailureRate":0.5,"runsFailed":0,"runs":0,"leadTime":{"count":2,"median":780,"p95":1980,"most":1980},"timeToRestore":{"count":1,"median":1800,"p95":1800,"most":1800}}`},
		{"well everywhere, and taken back: the roll-back is no change", []fleet.Published{release(1, 1, pushed(0), "a"), release(2, 2, pushed(2), "a"), rollback(3, 9, 1, "a")},
			[]hub.Outcome{ok("a", 1, 1), ok("a", 2, 3), ok("a", 3, 10)}, nil,
			`{"releases":3,"deployments":3,"changeFailures":1,"changeFailureRate":0.3333333333333333,"runsFailed":0,"runs":0,"leadTime":{"count":2,"median":60,"p95":60,"most":60}}`},
		{"taken back before it was there", []fleet.Published{release(2, 2, pushed(2), "a", "b"), rollback(3, 9, 1, "b")}, []hub.Outcome{ok("b", 2, 3), ok("b", 3, 10), ok("a", 3, 11)}, nil,
			`{"releases":2,"deployments":3,"changeFailures":1,"changeFailureRate":0.5,"runsFailed":0,"runs":0}`},
		{"not the release's fault, and never restored", []fleet.Published{release(1, 1, pushed(0), "a")},
			[]hub.Outcome{ended("a", 1, fleet.NotActivated, fleet.Transient, 2), ended("a", 1, fleet.NotActivated, fleet.Local, 3)}, nil,
			`{"releases":1,"deployments":2,"changeFailures":0,"runsFailed":0,"runs":0}`},
		{"held before anything was switched; neither system whole", []fleet.Published{release(1, 1, pushed(0), "a", "b")},
			[]hub.Outcome{ended("a", 1, fleet.NotActivated, fleet.Bad, 2), ended("b", 1, fleet.RollbackFailed, fleet.Local, 3), ended("b", 1, fleet.RebootNeeded, "", 5)}, nil,
			`{"releases":1,"deployments":3,"changeFailures":1,"changeFailureRate":1,"runsFailed":0,"runs":0,"timeToRestore":{"count":1,"median":120,"p95":120,"most":120}}`},
		{"other times, and tests, do not count", []fleet.Published{release(1, -5, pushed(-6), "a"), release(2, 70, pushed(69), "a")},
			[]hub.Outcome{bad("a", 1, -1), bad("a", 0, 1), ended("a", 0, fleet.Tested, "", 2), ok("a", 2, 71)}, []fleet.Run{run(2, 60, fleet.RunReleased, ""), run(0, -1, fleet.RunFailed, fleet.CodeBuild)},
			`{"releases":0,"deployments":0,"changeFailures":0,"runsFailed":0,"runs":0}`},
		{"runs: what gave way, or is under way, does not count", nil, nil, []fleet.Run{run(0, 1, fleet.RunFailed, fleet.CodeBuild), run(0, 2, fleet.RunFailed, fleet.CodeSuperseded),
			run(0, 3, fleet.RunFailed, fleet.CodeInterrupted), run(1, 4, fleet.RunUnchanged, ""), run(0, 5, fleet.RunRunning, "")},
			`{"releases":0,"deployments":0,"changeFailures":0,"runsFailed":1,"runs":2}`},
	} {
		got := hub.StatsOf(from, at(60), c.releases, c.outcomes, c.runs, nil)
		want := fleet.Stats{}
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		want.Schema, want.From, want.Until = 1, from, at(60)
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if string(a) != string(b) {
			t.Errorf("%s:\n got %s\nwant %s", c.name, a, b)
		}
	}
}

// TestStatsOfRings: lead times count what releases waited between rings, work times do not.
func TestStatsOfRings(t *testing.T) {
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	at := func(n int) time.Time { return from.Add(time.Duration(n) * time.Minute) }
	release := func(n, made int) fleet.Published {
		pushed := at(made - 1)
		return fleet.Published{Release: fleet.ReleaseRef{Number: n, Source: fleet.Source{PushedAt: &pushed}}, CreatedAt: at(made), Changed: []string{"a", "b"}}
	}
	ok := func(host string, n, end int) hub.Outcome {
		return hub.Outcome{Host: host, Release: n, Result: fleet.Committed, EndedAt: at(end)}
	}
	gives := func(n int, ring string, when int) fleet.RolloutAct {
		return fleet.RolloutAct{Act: fleet.RolloutPromoted, Ring: ring, Batch: 1, Release: n, At: at(when)}
	}
	// Release 1 comes to b only with release 2. Of its 36 minutes it waits for 10 until that goes to canary, and for 22 until that goes to web.
	got := hub.StatsOf(from, at(600), []fleet.Published{release(1, 1), release(2, 12)}, []hub.Outcome{ok("a", 1, 2), ok("a", 2, 14), ok("b", 2, 36)}, nil,
		[]fleet.RolloutAct{gives(1, "canary", 1), gives(2, "canary", 12), gives(2, "web", 34)})
	// Of release 2's 25 it waits for the 20 after a has it.
	if want := (fleet.Spread{Count: 2, Median: 25 * 60, P95: 36 * 60, Most: 36 * 60}); got.LeadTime == nil || *got.LeadTime != want {
		t.Errorf("lead time %+v", got.LeadTime)
	}
	if want := (fleet.Spread{Count: 2, Median: 4 * 60, P95: 5 * 60, Most: 5 * 60}); got.WorkTime == nil || *got.WorkTime != want {
		t.Errorf("work time %+v", got.WorkTime)
	}
}
