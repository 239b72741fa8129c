// Package hubtest is the suite that every store of a hub passes.
package hubtest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/notify"
)

// Kept is all that is kept for a hub.
type Kept interface {
	hub.Store
	notify.Store
	Close() error
}

// Store tests a kind of store. new returns what opens an empty one, and after that was closed the same one again.
func Store(t *testing.T, new func(t *testing.T) (open func() Kept)) {
	for name, test := range map[string]func(t *testing.T, s Kept, again func() Kept){
		"Statuses": statuses, "Known": known, "Deployments": deployments, "Acts": acts, "Diffs": diffs, "Runs": runs, "ManyAtOnce": manyAtOnce, "Canceled": canceled,
		"Events": events, "EventsAtOnce": eventsAtOnce, "Releases": releases, "DeploymentsOf": deploymentsOf, "Drills": drills, "Forget": forget,
		"Alerts": alerts, "AlertsAtOnce": alertsAtOnce, "AlertWithoutEvent": alertWithoutEvent, "Deliveries": deliveries, "LastDeliveries": lastDeliveries,
		"Prune": prune, "PruneFacts": pruneFacts, "PruneTold": pruneTold, "PruneBetween": pruneBetween, "Flood": flood,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open := new(t)
			s := open()
			t.Cleanup(func() {
				if s != nil {
					must(t, s.Close())
				}
			})
			test(t, s, func() Kept {
				old := s
				s = nil
				must(t, old.Close())
				s = open()
				return s
			})
		})
	}
}

// both are s, and the same store opened again.
func both(s Kept, again func() Kept) iter.Seq[Kept] {
	return func(yield func(Kept) bool) {
		if yield(s) {
			yield(again())
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// at is when a report of the suite was made, in seconds after some moment.
func at(seconds int) time.Time {
	return time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC).Add(time.Duration(seconds) * time.Second)
}

func statuses(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	want := func(s Kept, phases ...fleet.Phase) {
		t.Helper()
		list, err := s.Statuses(ctx)
		must(t, err)
		got := []fleet.Phase{}
		for _, st := range list {
			got = append(got, st.Phase)
		}
		if list == nil || !reflect.DeepEqual(got, append([]fleet.Phase{}, phases...)) {
			t.Errorf("got %v, want %v", got, phases)
		}
	}
	put := func(host string, when time.Time, p fleet.Phase) {
		t.Helper()
		must(t, s.PutStatus(ctx, fleet.Status{Schema: 1, Host: host, At: when, Phase: p, Failure: &fleet.Failure{Message: "ü \x00 '"}}))
	}
	want(s)
	put("ratched", at(0), fleet.PhaseNew)
	put("joker", at(0), fleet.PhaseStaging)
	want(s, fleet.PhaseStaging, fleet.PhaseNew) // by name
	put("joker", at(2), fleet.PhaseIdle)
	put("joker", at(1), fleet.PhaseHeld) // late
	want(s, fleet.PhaseIdle, fleet.PhaseNew)
	put("joker", at(2), fleet.PhaseHeld) // said in the same moment: the later word
	want(s, fleet.PhaseHeld, fleet.PhaseNew)
	s = again()
	want(s, fleet.PhaseHeld, fleet.PhaseNew)
	if st, found, err := s.Status(ctx, "joker"); err != nil || !found || st.Phase != fleet.PhaseHeld {
		t.Errorf("joker alone: %+v, %v, %v", st, found, err)
	}
	if _, found, err := s.Status(ctx, "nobody"); err != nil || found {
		t.Errorf("a host that never reported: %v, %v", found, err)
	}
	list, err := s.Statuses(ctx)
	must(t, err)
	if st := list[0]; !st.At.Equal(at(2)) || st.Failure.Message != "ü \x00 '" {
		t.Errorf("%+v", st)
	}
}

// known: all of a host, or nothing.
func known(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	status := fleet.Status{Schema: 1, Host: "joker", At: at(1), Phase: fleet.PhaseIdle}
	act := fleet.Act{Schema: 1, Host: "joker", Act: "retry", At: at(3)}
	last := ended("joker", 2, 2).Deployment
	want := hub.Known{Deployment: &last}
	must(t, s.PutDeployment(ctx, ended("joker", 1, 9)))
	must(t, s.PutDeployment(ctx, ended("joker", 2, 2)))
	if k, err := s.Known(ctx, "joker"); err != nil || !reflect.DeepEqual(k, want) {
		t.Errorf("%+v, %v", k, err)
	}
	must(t, s.PutStatus(ctx, status))
	must(t, s.PutAct(ctx, act))
	want.Status, want.Act = &status, &act
	for s := range both(s, again) {
		if k, err := s.Known(ctx, "joker"); err != nil || !reflect.DeepEqual(k, want) {
			t.Errorf("%+v, %v", k, err)
		}
		if k, err := s.Known(ctx, "nobody"); err != nil || k != (hub.Known{}) {
			t.Errorf("%+v, %v", k, err)
		}
	}
}

func runs(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	none, err := s.Runs(ctx, 10)
	if err != nil || none == nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
	var ids []int64
	for n := range 3 {
		id, err := s.PutRun(ctx, fleet.Run{Schema: 1, State: fleet.RunRunning, Stages: []fleet.StageTime{}, Source: fleet.Source{Subject: fmt.Sprint(n)}})
		must(t, err)
		ids = append(ids, id)
	}
	if ids[0] < 1 || ids[1] <= ids[0] || ids[2] <= ids[1] {
		t.Errorf("the ids are %v", ids)
	}
	ended := at(3)
	done := fleet.Run{Schema: 1, ID: ids[1], State: fleet.RunReleased, EndedAt: &ended, Stages: []fleet.StageTime{{Stage: fleet.Build, StartedAt: at(1), Seconds: 2}},
		Release: &fleet.ReleaseRef{Number: 7}}
	if id, err := s.PutRun(ctx, done); err != nil || id != ids[1] {
		t.Errorf("%d, %v", id, err)
	}
	if _, err := s.PutRun(ctx, fleet.Run{ID: ids[2] + 1000}); err == nil {
		t.Error("a run was kept under an id that was never given")
	}
	for s := range both(s, again) {
		list, err := s.Runs(ctx, 2)
		if err != nil || len(list) != 2 || list[0].ID != ids[2] || list[0].Source.Subject != "2" || !reflect.DeepEqual(list[1], done) {
			t.Errorf("%+v, %v", list, err)
		}
	}
}

func manyAtOnce(t *testing.T, s Kept, _ func() Kept) {
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			_, err := s.PutRun(t.Context(), fleet.Run{})
			if err == nil {
				err = s.PutStatus(t.Context(), fleet.Status{Host: fmt.Sprint("h", i), At: at(i)})
			}
			if err == nil {
				_, err = s.Statuses(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := s.Runs(t.Context(), 100)
	hosts, err2 := s.Statuses(t.Context())
	if err != nil || err2 != nil || len(list) != n || len(hosts) != n {
		t.Errorf("%d runs, %d hosts, %v, %v", len(list), len(hosts), err, err2)
	}
	seen := map[int64]bool{}
	for _, r := range list {
		if seen[r.ID] {
			t.Errorf("two runs have the id %d", r.ID)
		}
		seen[r.ID] = true
	}
}

// canceled: what was not done in time is not done, and says so; not even in one transaction with what others do.
func canceled(t *testing.T, s Kept, _ func() Kept) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	ctx := t.Context()
	var others sync.WaitGroup
	for i := range 20 {
		others.Go(func() { must(t, s.PutStatus(ctx, fleet.Status{Host: fmt.Sprint("other", i), At: at(i)})) })
	}
	for name, err := range map[string]error{
		"PutStatus":     s.PutStatus(gone, fleet.Status{Host: "h", At: at(0)}),
		"PutDeployment": s.PutDeployment(gone, ended("h", 1, 1)),
		"PutAct":        s.PutAct(gone, fleet.Act{Host: "h"}),
		"PutDiff":       s.PutDiff(gone, fleet.HostDiff{Host: "h"}),
		"PutRun":        second(s.PutRun(gone, fleet.Run{})),
		"PutEvents":     second(s.PutEvents(gone, []fleet.Event{event("1", fleet.EventAct, 1)})),
		"PutRelease":    s.PutRelease(gone, published(1, 1)),
		"PutDrill":      s.PutDrill(gone, fleet.DrillReport{ID: "d"}),
		"Forget":        second(s.Forget(gone, "h")),
		"Prune":         second(s.Prune(gone, hub.Keep{}, at(0))),
		"Queue":         s.Queue(gone, 1, nil),
		"Statuses":      second(s.Statuses(gone)),
		"Events":        second(s.Events(gone, nil, 0, 1)),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s does not say that its context has ended: %v", name, err)
		}
	}
	others.Wait()
	list, err := s.Statuses(ctx)
	runs, err2 := s.Runs(ctx, 1)
	kept, err3 := s.Events(ctx, nil, 0, 1)
	if err := errors.Join(err, err2, err3); err != nil || len(list) != 20 || len(runs) != 0 || len(kept) != 0 {
		t.Errorf("%d statuses, %v, %v, %v", len(list), runs, kept, err)
	}
}

func second[T any](_ T, err error) error { return err }
