package hub_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func doc(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return string(b)
}

func act(host string) string {
	b, _ := json.Marshal(fleet.Act{Schema: 1, Host: host, Act: fleet.ActRetry, At: endedAt, By: &fleet.Actor{User: "root"}})
	return string(b)
}

// outsideRun is a run of a CI outside of the hub that began at endedAt.
func outsideRun(change func(*fleet.Run)) string {
	r := fleet.Run{Schema: 1, Source: fleet.Source{Commit: strings.Repeat("a", 40), Branch: "main", Subject: "More"}, State: fleet.RunRunning, StartedAt: endedAt}
	if change != nil {
		change(&r)
	}
	b, _ := json.Marshal(r)
	return string(b)
}

// events are those that the hub noted after a seq, each as "source type id".
func (w *world) events(after int64) (list []string) {
	w.t.Helper()
	got, body := w.ask("GET", fmt.Sprintf("/api/v1/events?n=1000&after=%d", after), "read", "")
	var events []fleet.Event
	if err := json.Unmarshal([]byte(body), &events); got != 200 || err != nil {
		w.t.Fatalf("%d %s: %v", got, body, err)
	}
	for _, e := range events {
		if e.SpecVersion != "1.0" || e.Seq <= after || e.ContentType != "application/json" || e.Time.IsZero() {
			w.t.Errorf("%+v", e)
		}
		after = e.Seq
		list = append(list, fmt.Sprintf("%s %s %s", e.Source, strings.TrimPrefix(e.Type, "garrison."), e.ID))
	}
	return list
}

func (w *world) tell(path, token, body string, want int) {
	w.t.Helper()
	if got, answer := w.ask("POST", path, token, body); got != want {
		w.t.Errorf("%s: %d %s, want %d", path, got, answer, want)
	}
}

// TestEventsOnce: what is told makes one event, however often it is told, in whatever order, and by a hub that was started anew.
func TestEventsOnce(t *testing.T) {
	w := newWorld(t)
	noted := 0
	w.Noted = func([]fleet.Event) { noted++ }
	since, began := endedAt, time.Now().UTC()
	status := func(phase fleet.Phase, second int) string {
		return doc(t, fleet.Status{Schema: 1, Host: "joker", At: began.Add(time.Duration(second) * time.Second), Since: since, Phase: phase,
			Seen: &fleet.Seen{At: time.Unix(1, 0), Gone: true}})
	}
	nano := endedAt.UnixNano()
	for range 2 {
		w.tell("/api/v1/reports", "report:joker", status(fleet.PhaseIdle, 1), 200)
		w.tell("/api/v1/deployments", "report:joker", deployment("joker", 7, "said\n"), 204)
		w.tell("/api/v1/acts", "report:joker", act("joker"), 204)
		w.tell("/api/v1/runs", "ci", outsideRun(nil), 200)
		w.tell("/api/v1/drills", "ci", doc(t, fleet.DrillReport{Schema: 1, ID: "d-1", Host: "joker", EndedAt: endedAt}), 204)
	}
	w.tell("/api/v1/reports", "report:joker", status(fleet.PhaseIdle, 2), 200)
	since = endedAt.Add(3 * time.Second)
	w.tell("/api/v1/reports", "report:joker", status(fleet.PhaseHeld, 3), 200)
	w.tell("/api/v1/reports", "report:joker", status(fleet.PhaseStaging, 2), 200) // late, and of no concern any more
	want := []string{
		fmt.Sprintf("/hosts/joker host.phase idle-%d", nano),
		fmt.Sprintf("/hosts/joker host.deployment release-7-%d", nano),
		fmt.Sprintf("/hosts/joker host.act retry-%d", nano),
		fmt.Sprintf("/ci ci.run 1-%d-running", nano),
		"/drills drill.ended d-1",
		fmt.Sprintf("/hosts/joker host.phase held-%d", since.UnixNano()),
	}
	if got := w.events(0); fmt.Sprint(got) != fmt.Sprint(want) || noted != len(want) {
		t.Errorf("noted %d times\n%s\nwant\n%s", noted, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var list []fleet.Event
	_, body := w.ask("GET", "/api/v1/events?n=1&types=garrison.host.phase", "read", "")
	must(t, json.Unmarshal([]byte(body), &list))
	var change fleet.PhaseChange
	must(t, json.Unmarshal(list[0].Data, &change))
	if change.Was != fleet.PhaseIdle || change.Phase != fleet.PhaseHeld || change.Host != "joker" || list[0].Subject != "joker" {
		t.Errorf("%+v", change)
	}
	var s fleet.Status
	_, body = w.ask("GET", "/api/v1/hosts/joker", "read", "")
	must(t, json.Unmarshal([]byte(body), &s))
	if s.Seen == nil || s.Seen.Gone || time.Since(s.Seen.At) > time.Minute || s.Phase != fleet.PhaseHeld {
		t.Errorf("a host says how it is seen: %+v", s.Seen)
	}
	for path, want := range map[string]int{"after=x": 400, "after=-1": 400, "types=gossip": 400, "n=1001": 400, "after=9999": 200} {
		if got, body := w.ask("GET", "/api/v1/events?"+path, "read", ""); got != want || want == 200 && strings.TrimSpace(body) != "[]" {
			t.Errorf("%s: %d %s", path, got, body)
		}
	}
}

// TestNothingFollows: whatever hosts and other CIs tell, the hub looks nowhere, wakes nobody, and CI knows of no run of them.
func TestNothingFollows(t *testing.T) {
	w := newWorld(t)
	agent, leave := w.listen("/api/v1/stream", "report:ratched")
	defer leave()
	w.tell("/api/v1/reports", "report:joker", report("joker"), 200)
	w.tell("/api/v1/deployments", "report:joker", deployment("joker", 7, "said\n"), 204)
	w.tell("/api/v1/acts", "report:joker", act("joker"), 204)
	w.tell("/api/v1/diffs", "report:joker", diff("joker"), 204)
	w.tell("/api/v1/logs", "report:joker", `{"schema":1,"host":"joker","activation":"1-1-0","text":"x"}`, 204)
	ended := endedAt.Add(time.Minute)
	w.tell("/api/v1/runs", "ci", outsideRun(func(r *fleet.Run) {
		r.State, r.EndedAt, r.Release = fleet.RunReleased, &ended, &fleet.ReleaseRef{Number: 9}
	}), 200)
	w.tell("/api/v1/drills", "ci", doc(t, fleet.DrillReport{Schema: 1, ID: "d-1", EndedAt: endedAt}), 204)
	w.CloseStreams()
	if e, open := <-agent; open {
		t.Errorf("an agent heard %s", e)
	}
	if w.woken.Load() != 0 {
		t.Error("the hub looks at git")
	}
}

// TestRunsOfOthers: a run of a CI outside belongs to the token that told of it first, and none of the hub's own is anybody else's.
func TestRunsOfOthers(t *testing.T) {
	w := newWorld(t)
	own, err := w.NoteRun(t.Context(), fleet.Run{Schema: 1, Source: fleet.Source{Commit: strings.Repeat("a", 40)}, State: fleet.RunRunning, StartedAt: endedAt})
	must(t, err)
	var first struct{ ID int64 }
	_, body := w.ask("POST", "/api/v1/runs", "ci", outsideRun(func(r *fleet.Run) { r.By = "somebody else" }))
	must(t, json.Unmarshal([]byte(body), &first))
	ended := endedAt.Add(time.Minute)
	for name, c := range map[string]struct {
		change func(*fleet.Run)
		want   int
	}{
		"the hub's own":     {func(r *fleet.Run) { r.ID = own }, 404},
		"no run":            {func(r *fleet.Run) { r.ID = 999 }, 404},
		"of another commit": {func(r *fleet.Run) { r.ID, r.Source.Commit = first.ID, strings.Repeat("b", 40) }, 404},
		"below 0":           {func(r *fleet.Run) { r.ID = -1 }, 400},
		"no commit":         {func(r *fleet.Run) { r.Source.Commit = "main" }, 400},
		"no such state":     {func(r *fleet.Run) { r.State = "done" }, 400},
		"ended, and runs":   {func(r *fleet.Run) { r.EndedAt = &ended }, 400},
		"failed, and runs":  {func(r *fleet.Run) { r.State = fleet.RunFailed }, 400},
		"ended before":      {func(r *fleet.Run) { at := endedAt.Add(-1); r.State, r.EndedAt = fleet.RunFailed, &at }, 400},
		"of the future":     {func(r *fleet.Run) { r.StartedAt = time.Now().Add(time.Hour) }, 400},
		"never began":       {func(r *fleet.Run) { r.StartedAt = time.Time{} }, 400},
		"a script for URL":  {func(r *fleet.Run) { r.URL = "javascript:alert(1)" }, 400},
		"many stages":       {func(r *fleet.Run) { r.Stages = make([]fleet.StageTime, 1000) }, 400},
		"long stage":        {func(r *fleet.Run) { r.Stage = fleet.Stage(strings.Repeat("x", 1000)) }, 400},
	} {
		if got, body := w.ask("POST", "/api/v1/runs", "ci", outsideRun(c.change)); got != c.want {
			t.Errorf("%s: %d %s", name, got, body)
		}
	}
	w.tell("/api/v1/runs", "ci", outsideRun(func(r *fleet.Run) { r.ID, r.Stage = first.ID, fleet.Build }), 200)
	failure := fleet.Failure{Class: fleet.Bad, Code: fleet.CodeTimeout, Stage: fleet.Build, Message: strings.Repeat("m", 100_000)}
	w.tell("/api/v1/runs", "ci", outsideRun(func(r *fleet.Run) {
		r.State, r.EndedAt, r.Stage, r.Failure = fleet.RunFailed, &ended, fleet.Build, &failure
	}), 200)
	w.tell("/api/v1/runs", "ci", outsideRun(func(r *fleet.Run) { r.Stage = fleet.Push }), 200) // late
	runs, err := w.store.Runs(t.Context(), 10)
	must(t, err)
	if len(runs) != 2 || runs[0].ID != first.ID || runs[0].By != "ci" || runs[0].State != fleet.RunFailed || len(runs[0].Failure.Message) > 5000 || runs[1].State != fleet.RunRunning || runs[1].By != "" {
		t.Errorf("%+v", runs)
	}
	// One that nothing more is heard of is ended when another is told.
	old := func(r *fleet.Run) { r.StartedAt = time.Now().Add(-7 * time.Hour).UTC() }
	w.tell("/api/v1/runs", "ci", outsideRun(old), 200)
	w.tell("/api/v1/runs", "ci", outsideRun(func(r *fleet.Run) { r.StartedAt = time.Now().UTC() }), 200)
	runs, err = w.store.Runs(t.Context(), 10)
	must(t, err)
	if len(runs) != 4 || runs[0].State != fleet.RunRunning || runs[1].State != fleet.RunFailed || runs[1].Failure.Code != fleet.CodeInterrupted || runs[3].State != fleet.RunRunning {
		t.Errorf("%+v", runs)
	}
}

// TestReplayed: what is older than what is known takes no place of it.
func TestReplayed(t *testing.T) {
	w := newWorld(t)
	told := func(second int, after string) string {
		return doc(t, fleet.HostDiff{Schema: 1, Host: "joker", At: endedAt.Add(time.Duration(second) * time.Second), After: after})
	}
	w.tell("/api/v1/diffs", "report:joker", told(2, "/nix/store/b"), 204)
	w.tell("/api/v1/diffs", "report:joker", told(1, "/nix/store/a"), 204)
	if d, _, err := w.store.Diff(t.Context(), "joker"); err != nil || d.After != "/nix/store/b" {
		t.Errorf("%+v, %v", d, err)
	}
	w.tell("/api/v1/diffs", "report:joker", told(1<<31, "/nix/store/c"), 204)
	if d, _, err := w.store.Diff(t.Context(), "joker"); err != nil || d.After != "/nix/store/c" || d.At.After(time.Now()) {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestTooMuch: a token that tells too much is asked to wait, and others are heard meanwhile; events of one host are bounded, its status is known all the same.
func TestTooMuch(t *testing.T) {
	w := newWorld(t)
	refused := 0
	for i := range 700 {
		s := fleet.Status{Schema: 1, Host: "joker", At: time.Now().UTC(), Since: endedAt.Add(time.Duration(i) * time.Second), Phase: fleet.Phase(fmt.Sprint("p", i%2))}
		req, err := http.NewRequestWithContext(t.Context(), "POST", w.url+"/api/v1/reports", strings.NewReader(doc(t, s)))
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+secretOf("report:joker"))
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode == http.StatusTooManyRequests {
			if refused++; resp.Header.Get("Retry-After") == "" {
				t.Error("until when?")
			}
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
	w.tell("/api/v1/reports", "report:ratched", report("ratched"), 200)
	if n := len(w.events(0)); n > 601 {
		t.Errorf("%d events", n)
	}
	huge := fleet.Deployment{Schema: 1, Host: "ratched", Release: fleet.ReleaseRef{Number: 7}, EndedAt: endedAt, Failure: &fleet.Failure{Message: strings.Repeat("\x1b", 100_000)}}
	w.tell("/api/v1/deployments", "report:ratched", doc(t, fleet.DeploymentReport{Schema: 1, Deployment: huge}), 204)
	huge.Previous = strings.Repeat("x", 200_000)
	w.tell("/api/v1/deployments", "report:ratched", doc(t, fleet.DeploymentReport{Schema: 1, Deployment: huge}), 400)
	w.tell("/api/v1/acts", "report:ratched", doc(t, fleet.Act{Schema: 1, Host: "ratched", Act: strings.Repeat("x", 1000), At: endedAt}), 400)
	w.tell("/api/v1/acts", "report:ratched", doc(t, fleet.Act{Schema: 1, Host: "ratched", Act: "retry", At: endedAt, OutPath: strings.Repeat("x", 20_000)}), 400)
}

// TestForget: a host that is forgotten is gone until it reports again, and somebody did it.
func TestForget(t *testing.T) {
	w := newWorld(t)
	w.tell("/api/v1/reports", "report:joker", report("joker"), 200)
	w.tell("/api/v1/deployments", "report:joker", deployment("joker", 7, "said\n"), 204)
	w.tell("/api/v1/logs", "report:joker", `{"schema":1,"host":"joker","activation":"1-1-0","text":"x"}`, 204)
	for i, want := range []int{204, 404} {
		if got, body := w.ask("DELETE", "/api/v1/hosts/joker", "operate", ""); got != want {
			t.Errorf("%d: %d %s", i, got, body)
		}
	}
	for _, path := range []string{"", "/logs", "/diff"} {
		if got, body := w.ask("GET", "/api/v1/hosts/joker"+path, "read", ""); got != 404 {
			t.Errorf("%s: %d %s", path, got, body)
		}
	}
	all := w.events(0)
	if last := all[len(all)-1]; !strings.HasPrefix(last, "/hosts/joker host.act forgotten-") || !strings.Contains(w.log.String(), "a host was forgotten\" host=joker by=operate") {
		t.Errorf("%s\n%s", last, w.log)
	}
	w.tell("/api/v1/reports", "report:joker", report("joker"), 200)
	if got, _ := w.ask("GET", "/api/v1/hosts/joker", "read", ""); got != 200 {
		t.Error(got)
	}
}

// TestDrillThatPassed: a ring may wait for a drill that passed, so a report that says so must be of one that can have.
func TestDrillThatPassed(t *testing.T) {
	w := newWorld(t)
	ended := func(all ...fleet.DrillResult) (list []fleet.DrillScenario) {
		for _, r := range all {
			list = append(list, fleet.DrillScenario{Name: "x", Result: r, Checks: []fleet.DrillCheck{}})
		}
		return list
	}
	for _, c := range []struct {
		scenarios []fleet.DrillScenario
		err       string
		want      int
	}{
		{ended(fleet.DrillPass, fleet.DrillSkip), "", 204},
		{nil, "", 400},
		{ended(fleet.DrillSkip), "", 400},
		{ended(fleet.DrillPass, fleet.DrillFail), "", 400},
		{ended(fleet.DrillPass), "stopped before its end", 400},
	} {
		w.tell("/api/v1/drills", "ci", doc(t, fleet.DrillReport{Schema: 1, ID: "d-1", Where: "live", Host: "joker", Passed: true, Error: c.err, Scenarios: c.scenarios, EndedAt: endedAt}), c.want)
	}
	w.tell("/api/v1/drills", "ci", doc(t, fleet.DrillReport{Schema: 1, ID: "d-2", EndedAt: time.Now().Add(24 * time.Hour)}), 400)
}

// TestKeptBeforeTold: who is told of a release, or a drill, finds it: a page asks at once, and not again.
func TestKeptBeforeTold(t *testing.T) {
	w := newWorld(t)
	var found []string
	w.Noted = func(events []fleet.Event) {
		releases, err := w.Hub.Store.Releases(t.Context(), 0, 9)
		must(t, err)
		drills, err := w.Hub.Store.Drills(t.Context(), 9)
		must(t, err)
		found = append(found, fmt.Sprintf("%s: %d releases, %d drills", events[0].Type, len(releases), len(drills)))
	}
	must(t, w.NoteReleases(t.Context(), []fleet.Published{{Release: fleet.ReleaseRef{Number: 1}, CreatedAt: endedAt}}))
	w.tell("/api/v1/drills", "ci", doc(t, fleet.DrillReport{Schema: 1, ID: "d-1", Host: "joker", EndedAt: endedAt}), 204)
	if got := strings.Join(found, "; "); got != fleet.EventReleased+": 1 releases, 0 drills; "+fleet.EventDrill+": 1 releases, 1 drills" {
		t.Error(got)
	}
}
