// Package hubtest is the suite that every hub.Store passes.
package hubtest

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
)

// Store tests a kind of store. open returns an empty one, and again the same one, opened once more.
func Store(t *testing.T, open func(t *testing.T) (s hub.Store, again func() hub.Store)) {
	t.Run("Statuses", func(t *testing.T) { s, again := open(t); statuses(t, s, again) })
	t.Run("Deployments", func(t *testing.T) { s, again := open(t); deployments(t, s, again) })
	t.Run("Acts", func(t *testing.T) { s, again := open(t); acts(t, s, again) })
	t.Run("Diffs", func(t *testing.T) { s, again := open(t); diffs(t, s, again) })
	t.Run("Runs", func(t *testing.T) { s, again := open(t); runs(t, s, again) })
	t.Run("ManyAtOnce", func(t *testing.T) { s, _ := open(t); manyAtOnce(t, s) })
	t.Run("Canceled", func(t *testing.T) { s, _ := open(t); canceled(t, s) })
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

func statuses(t *testing.T, s hub.Store, again func() hub.Store) {
	ctx := t.Context()
	want := func(s hub.Store, phases ...fleet.Phase) {
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
	want(again(), fleet.PhaseHeld, fleet.PhaseNew)
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

func runs(t *testing.T, s hub.Store, again func() hub.Store) {
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
	for _, s := range []hub.Store{s, again()} {
		list, err := s.Runs(ctx, 2)
		if err != nil || len(list) != 2 || list[0].ID != ids[2] || list[0].Source.Subject != "2" || !reflect.DeepEqual(list[1], done) {
			t.Errorf("%+v, %v", list, err)
		}
	}
}

func manyAtOnce(t *testing.T, s hub.Store) {
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

func canceled(t *testing.T, s hub.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.PutStatus(ctx, fleet.Status{Host: "h", At: at(0)}); err == nil {
		t.Error("PutStatus did not notice that its context has ended")
	}
	if _, err := s.PutRun(ctx, fleet.Run{}); err == nil {
		t.Error("PutRun did not notice that its context has ended")
	}
	if list, err := s.Runs(t.Context(), 1); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}
