package hubtest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
)

// event is one of a type, by host joker, at some second.
func event(id, kind string, second int) fleet.Event {
	return fleet.Event{SpecVersion: fleet.EventSpec, ID: id, Source: "/hosts/joker", Type: kind, Subject: "joker", Time: at(second), ContentType: "application/json",
		Data: json.RawMessage(`{"text":"ü \u0000"}`)}
}

func ids(list []fleet.Event) (all []string) {
	for _, e := range list {
		all = append(all, e.ID)
	}
	return all
}

// events: each is kept once, in the order in which it was told.
func events(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	if none, err := s.Events(ctx, nil, 0, 10); err != nil || none == nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
	told, err := s.PutEvents(ctx, []fleet.Event{event("a", fleet.EventPhase, 9), event("b", fleet.EventAct, 5), event("a", fleet.EventPhase, 9), event("c", fleet.EventPhase, 7)})
	must(t, err)
	if !slices.Equal(ids(told), []string{"a", "b", "c"}) || told[0].Seq < 1 || told[1].Seq <= told[0].Seq || told[2].Seq <= told[1].Seq {
		t.Errorf("told: %+v", told)
	}
	other := event("a", fleet.EventRun, 1)
	other.Source, other.Seq = "/ci", 1 // what is told has no word in the order
	next, err := s.PutEvents(ctx, []fleet.Event{event("b", fleet.EventRun, 100), other})
	if err != nil || len(next) != 1 || next[0].Source != "/ci" || next[0].Seq <= told[2].Seq {
		t.Errorf("%+v, %v", next, err)
	}
	all := append(told, next...)
	for s := range both(s, again) {
		if list, err := s.Events(ctx, nil, 0, 10); err != nil || !reflect.DeepEqual(list, all) {
			t.Errorf("got %+v, %v\nwant %+v", list, err, all)
		}
		for name, c := range map[string]struct {
			types []string
			after int64
			most  int
			want  []fleet.Event
		}{
			"the first":     {nil, 0, 2, all[:2]},
			"those after":   {nil, all[1].Seq, 10, all[2:]},
			"nothing after": {nil, all[3].Seq, 10, []fleet.Event{}},
			"the newest":    {nil, -1, 2, []fleet.Event{all[3], all[2]}},
			"of a type":     {[]string{fleet.EventPhase}, 0, 10, []fleet.Event{all[0], all[2]}},
			"of two types":  {[]string{fleet.EventRun, fleet.EventPhase}, all[0].Seq, 10, all[2:]},
			"newest of two": {[]string{fleet.EventPhase, fleet.EventAct}, -1, 2, []fleet.Event{all[2], all[1]}},
			"of no type":    {[]string{"garrison.other"}, 0, 10, []fleet.Event{}},
		} {
			if list, err := s.Events(ctx, c.types, c.after, c.most); err != nil || !reflect.DeepEqual(list, c.want) {
				t.Errorf("%s: got %+v, %v\nwant %+v", name, list, err, c.want)
			}
		}
	}
}

// eventsAtOnce: of many who tell the same, one is the first; and who reads on from the last that it saw misses none.
func eventsAtOnce(t *testing.T, s Kept, _ func() Kept) {
	ctx := t.Context()
	const writers, each = 16, 25
	var all sync.WaitGroup
	var mu sync.Mutex
	first := map[string]int{}
	for w := range writers {
		all.Go(func() {
			for i := range each {
				told, err := s.PutEvents(ctx, []fleet.Event{event(fmt.Sprint("same ", i), fleet.EventAct, i), event(fmt.Sprint(w, " ", i), fleet.EventAct, i)})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, e := range told {
					first[e.ID]++
				}
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	seen, after := map[string]bool{}, int64(0)
	for last := false; ; {
		list, err := s.Events(ctx, nil, after, 50)
		must(t, err)
		for _, e := range list {
			if seen[e.ID] || e.Seq <= after {
				t.Fatalf("%s with %d after %d", e.ID, e.Seq, after)
			}
			seen[e.ID], after = true, e.Seq
		}
		if len(list) == 0 && last {
			break
		}
		select {
		case <-done:
			last = true
		default:
		}
	}
	if want := writers*each + each; len(seen) != want || len(first) != want {
		t.Errorf("%d were seen, %d were first, of %d", len(seen), len(first), want)
	}
	for id, n := range first {
		if n != 1 {
			t.Errorf("%s was new %d times", id, n)
		}
	}
}

func published(number, second int) fleet.Published {
	return fleet.Published{Schema: 1, Release: fleet.ReleaseRef{Number: number}, SeenAt: at(second), CreatedAt: at(second), Changed: []string{}}
}

// releases: by number; what was seen first stays.
func releases(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	if none, err := s.Releases(ctx, 0, 10); err != nil || none == nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
	for _, p := range []fleet.Published{published(2, 1), published(10, 2), published(9, 3), published(10, 99)} {
		must(t, s.PutRelease(ctx, p))
	}
	for s := range both(s, again) {
		for before, want := range map[int][]fleet.Published{0: {published(10, 2), published(9, 3)}, 10: {published(9, 3), published(2, 1)}, 3: {published(2, 1)}, 2: {}} {
			if list, err := s.Releases(ctx, before, 2); err != nil || !reflect.DeepEqual(list, want) {
				t.Errorf("before %d: %+v, %v", before, list, err)
			}
		}
	}
}

// deploymentsOf: those of a release and since a moment, of all hosts.
func deploymentsOf(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	for _, d := range []fleet.DeploymentReport{ended("ratched", 7, 30), ended("joker", 7, 20), ended("joker", 8, 40), ended("joker", 7, 10), ended("ratched", 7, 30)} {
		must(t, s.PutDeployment(ctx, d))
	}
	failed := ended("joker", 9, 50)
	failed.Deployment.Result, failed.Deployment.Failure = fleet.RolledBack, &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeCheck}
	must(t, s.PutDeployment(ctx, failed))
	for s := range both(s, again) {
		want := []fleet.Deployment{ended("joker", 7, 20).Deployment, ended("joker", 7, 10).Deployment, ended("ratched", 7, 30).Deployment}
		if list, err := s.DeploymentsOf(ctx, 7); err != nil || !reflect.DeepEqual(list, want) {
			t.Errorf("got %+v, %v\nwant %+v", list, err, want)
		}
		if list, err := s.DeploymentsOf(ctx, 1); err != nil || list == nil || len(list) != 0 {
			t.Errorf("%v, %v", list, err)
		}
		for _, c := range []struct {
			since       time.Time
			first, last int
			want        []fleet.DeploymentReport
		}{
			{at(20), 1, 8, []fleet.DeploymentReport{ended("joker", 7, 20), ended("ratched", 7, 30), ended("joker", 8, 40)}},
			{time.Time{}, 7, 7, []fleet.DeploymentReport{ended("joker", 7, 10), ended("joker", 7, 20), ended("ratched", 7, 30)}},
			{time.Time{}, 8, 8, []fleet.DeploymentReport{ended("joker", 8, 40)}},
			{at(41), 9, fleet.MaxNumber, []fleet.DeploymentReport{failed}},
			{at(51), 1, 9, nil},
		} {
			var want []hub.Outcome
			for _, d := range c.want {
				want = append(want, hub.OutcomeOf(d.Deployment))
			}
			if list, err := s.Outcomes(ctx, c.since, c.first, c.last); err != nil || !reflect.DeepEqual(list, want) {
				t.Errorf("since %s, of %d to %d: %+v, %v\nwant %+v", c.since, c.first, c.last, list, err, want)
			}
		}
	}
}

func drills(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	drill := func(id string, second int, passed bool) fleet.DrillReport {
		return fleet.DrillReport{Schema: 1, ID: id, StartedAt: at(0), EndedAt: at(second), Where: "sandbox", Passed: passed, Scenarios: []fleet.DrillScenario{}}
	}
	if none, err := s.Drills(ctx, 10); err != nil || none == nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
	for _, r := range []fleet.DrillReport{drill("new", 9, false), drill("old", 1, true), drill("new", 9, true), drill("middle", 5, true)} {
		must(t, s.PutDrill(ctx, r))
	}
	for s := range both(s, again) {
		if list, err := s.Drills(ctx, 2); err != nil || !reflect.DeepEqual(list, []fleet.DrillReport{drill("new", 9, true), drill("middle", 5, true)}) {
			t.Errorf("%+v, %v", list, err)
		}
	}
}

// forget: a host goes with all that it told; what happened with it did happen.
func forget(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	for _, host := range []string{"joker", "ratched"} {
		must(t, s.PutStatus(ctx, fleet.Status{Schema: 1, Host: host, At: at(1)}))
		must(t, s.PutDeployment(ctx, ended(host, 1, 1)))
		must(t, s.PutAct(ctx, fleet.Act{Schema: 1, Host: host, Act: "retry", At: at(1)}))
		must(t, s.PutDiff(ctx, fleet.HostDiff{Schema: 1, Host: host}))
	}
	if _, err := s.PutEvents(ctx, []fleet.Event{event("a", fleet.EventAct, 1)}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		if was, err := s.Forget(ctx, "joker"); was != want || err != nil {
			t.Errorf("%v, %v, want %v", was, err, want)
		}
	}
	for s := range both(s, again) {
		for host, want := range map[string]bool{"joker": false, "ratched": true} {
			_, status, err := s.Status(ctx, host)
			must(t, err)
			list, err := s.Deployments(ctx, host, 10)
			must(t, err)
			_, log, err := s.DeploymentLog(ctx, host, 0)
			must(t, err)
			acts, err := s.Acts(ctx, host, 10)
			must(t, err)
			_, diff, err := s.Diff(ctx, host)
			must(t, err)
			for what, got := range map[string]bool{"status": status, "deployments": len(list) > 0, "log": log, "acts": len(acts) > 0, "diff": diff} {
				if got != want {
					t.Errorf("%s of %s: %v", what, host, got)
				}
			}
		}
		if list, err := s.Events(ctx, nil, 0, 10); err != nil || len(list) != 1 {
			t.Errorf("%v, %v", list, err)
		}
	}
}
