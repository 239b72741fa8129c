package hubtest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
)

// keep is what the suite has stores keep; seconds, where a hub keeps days.
var keep = hub.Keep{Events: 100 * time.Second, History: 1000 * time.Second, Logs: 3}

func pruned(t *testing.T, s Kept, second int) {
	t.Helper()
	for range 100 {
		more, err := s.Prune(t.Context(), keep, at(second))
		must(t, err)
		if !more {
			return
		}
	}
	t.Error("there is no end to what is to be removed")
}

// prune: deployments, logs and acts of each host; the newest stay, and those of what hosts have now.
func prune(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	pruned(t, s, 0) // of nothing
	const n = 700   // one a second; more than are removed at once
	must(t, s.PutStatus(ctx, fleet.Status{Schema: 1, Host: "joker", At: at(1), Active: &fleet.Target{Release: fleet.ReleaseRef{Number: 17}}}))
	for i := 1; i <= n; i++ {
		must(t, s.PutDeployment(ctx, ended("joker", i, i)))
		must(t, s.PutAct(ctx, fleet.Act{Schema: 1, Host: "joker", Act: "retry", At: at(i)}))
	}
	for i := 1; i <= 5; i++ {
		must(t, s.PutDeployment(ctx, ended("ratched", i, i)))
	}
	pruned(t, s, 1000+n-100)
	for s := range both(s, again) {
		list, err := s.Deployments(ctx, "joker", 2*n)
		// The last 100 seconds, the second at their edge, and release 17.
		if err != nil || len(list) != 102 || list[0].Release.Number != n || list[101].Release.Number != 17 || list[100].Release.Number != n-100 {
			t.Errorf("%d are kept, %v", len(list), err)
		}
		acts, err := s.Acts(ctx, "joker", 2*n)
		if err != nil || len(acts) != 101 || !acts[0].At.Equal(at(n)) {
			t.Errorf("%d acts are kept, %v", len(acts), err)
		}
		for release, want := range map[int]bool{n: true, n - 2: true, n - 3: false, 17: false} {
			if log, found, err := s.DeploymentLog(ctx, "joker", release); err != nil || found != want {
				t.Errorf("log of %d: %q, %v, %v", release, log, found, err)
			}
		}
		if list, err := s.Deployments(ctx, "ratched", 10); err != nil || len(list) != 5 {
			t.Errorf("the newest of another host went: %v, %v", list, err)
		}
	}
	s = again()
	pruned(t, s, 100*n)
	list, err := s.Deployments(ctx, "joker", 2*n)
	acts, err2 := s.Acts(ctx, "joker", 2*n)
	if err != nil || err2 != nil || len(list) < 10 || len(list) > 30 || len(acts) < 10 || len(acts) > 30 {
		t.Errorf("in the end %d deployments and %d acts stay, %v, %v", len(list), len(acts), err, err2)
	}
	// What comes after is counted on.
	must(t, s.PutDeployment(ctx, ended("joker", n+1, n+1)))
	if list, err := s.Deployments(ctx, "joker", 1); err != nil || list[0].Release.Number != n+1 {
		t.Errorf("%v, %v", list, err)
	}
}

// pruneFacts: releases, runs, drills.
func pruneFacts(t *testing.T, s Kept, _ func() Kept) {
	ctx := t.Context()
	const n = 60
	must(t, s.PutStatus(ctx, fleet.Status{Schema: 1, Host: "joker", At: at(1), Active: &fleet.Target{Release: fleet.ReleaseRef{Number: 3}}}))
	var last int64
	for i := 1; i <= n; i++ {
		must(t, s.PutRelease(ctx, published(i, i)))
		id, err := s.PutRun(ctx, fleet.Run{Schema: 1, StartedAt: at(i), Stages: []fleet.StageTime{}})
		must(t, err)
		must(t, s.PutDrill(ctx, fleet.DrillReport{Schema: 1, ID: fmt.Sprint(i), EndedAt: at(i)}))
		last = id
	}
	count := func() (releases []fleet.Published, runs []fleet.Run, drills []fleet.DrillReport) {
		t.Helper()
		releases, err := s.Releases(ctx, 0, 2*n)
		must(t, err)
		runs, err = s.Runs(ctx, 2*n)
		must(t, err)
		drills, err = s.Drills(ctx, 2*n)
		must(t, err)
		return releases, runs, drills
	}
	pruned(t, s, 1000+20)
	if r, u, d := count(); len(r) != n-19+1 || r[len(r)-1].Release.Number != 3 || len(u) != n-19 || len(d) != n-19 {
		t.Errorf("%d releases, %d runs, %d drills", len(r), len(u), len(d))
	}
	pruned(t, s, 100*n)
	r, u, d := count()
	if len(r) < 10 || len(r) > 30 || r[0].Release.Number != n || len(u) < 10 || len(u) > 30 || u[0].ID != last || len(d) < 10 || len(d) > 30 || d[0].ID != fmt.Sprint(n) {
		t.Errorf("in the end %d releases, %d runs, %d drills", len(r), len(u), len(d))
	}
}

// pruneTold: events, alerts that are over, deliveries that are done. What has not passed the rules stays longer.
func pruneTold(t *testing.T, s Kept, _ func() Kept) {
	ctx := t.Context()
	var list []fleet.Event
	for i := 1; i <= 50; i++ {
		list = append(list, event(fmt.Sprint(i), fleet.EventAct, i))
	}
	told, err := s.PutEvents(ctx, list)
	must(t, err)
	end := at(10)
	over := alert("over", 1)
	over.ResolvedAt = &end
	for _, a := range []fleet.Alert{over, alert("open", 1)} {
		_, _, err := s.PutAlert(ctx, a, func(fleet.Alert) (*fleet.Event, error) { return nil, nil })
		must(t, err)
	}
	done := delivery("a", "done", 1)
	done.DoneAt = &end
	must(t, s.Queue(ctx, told[29].Seq, []fleet.Delivery{done, delivery("a", "due", 1)}))
	want := func(events, alerts, done, due int) {
		t.Helper()
		e, err := s.Events(ctx, nil, 0, 100)
		must(t, err)
		a, err := s.Alerts(ctx, 100)
		must(t, err)
		l, err := s.LastDeliveries(ctx, 100)
		must(t, err)
		d, err := s.Deliveries(ctx, 100)
		must(t, err)
		if len(e) != events || len(a) != alerts || len(l) != done || len(d) != due || e != nil && events > 0 && e[len(e)-1].ID != "50" {
			t.Errorf("%d events, %d alerts, %d done, %d due", len(e), len(a), len(l), len(d))
		}
	}
	pruned(t, s, 100)
	want(50, 2, 1, 1)
	pruned(t, s, 100+21)
	want(30, 1, 0, 1)
	pruned(t, s, 100+51)
	want(20, 1, 0, 1) // those that did not pass the rules
	pruned(t, s, 200+51)
	want(0, 1, 0, 1)
}

// pruneBetween: whoever writes while there is much to remove, gets between.
func pruneBetween(t *testing.T, s Kept, _ func() Kept) {
	ctx := t.Context()
	var list []fleet.Event
	for i := range 3000 {
		list = append(list, event(fmt.Sprint(i), fleet.EventAct, i/100))
	}
	_, err := s.PutEvents(ctx, list)
	must(t, err)
	var all sync.WaitGroup
	rounds := 0
	all.Go(func() {
		for more := true; more; rounds++ {
			var err error
			if more, err = s.Prune(ctx, keep, at(10_000)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 50 {
		must(t, s.PutStatus(ctx, fleet.Status{Schema: 1, Host: fmt.Sprint("h", i), At: at(i)}))
	}
	all.Wait()
	left, err := s.Events(ctx, nil, 0, 10)
	if err != nil || len(left) != 0 || rounds < 3 {
		t.Errorf("%d events are left, after %d rounds, %v", len(left), rounds, err)
	}
}

// flood: a host that tells without end has no more kept of it than some, of its newest; others have theirs.
func flood(t *testing.T, s Kept, _ func() Kept) {
	ctx := t.Context()
	must(t, s.PutDeployment(ctx, ended("other", 1, 1)))
	const n, writers = 2600, 8
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := w; i < n; i += writers {
				if err := s.PutAct(ctx, fleet.Act{Schema: 1, Host: "joker", Act: "retry", At: at(i)}); err != nil {
					t.Error(err)
				}
				if i < 300 {
					if err := s.PutDeployment(ctx, ended("joker", i+1, i)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	acts, err := s.Acts(ctx, "joker", 2*n)
	if err != nil || len(acts) > 2000 || len(acts) < 1000 {
		t.Errorf("%d acts, %v", len(acts), err)
	}
	list, err := s.Deployments(ctx, "joker", 2*n)
	logs := 0
	for _, d := range list {
		_, found, err := s.DeploymentLog(ctx, "joker", d.Release.Number)
		must(t, err)
		if found {
			logs++
		}
	}
	if err != nil || len(list) != 300 || logs > 200 || logs < 50 {
		t.Errorf("%d deployments, %d logs, %v", len(list), logs, err)
	}
	if _, found, err := s.DeploymentLog(ctx, "other", 0); !found || err != nil {
		t.Errorf("another host's went: %v", err)
	}
}
