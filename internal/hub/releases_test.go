package hub_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
)

// putReleases has the hub see releases 1 to n, an hour apart, the last one a minute ago, that change all hosts.
func putReleases(tb testing.TB, s hub.Store, n int, hosts ...string) {
	for i := 1; i <= n; i++ {
		made := time.Now().Add(-time.Duration(n-i)*time.Hour - time.Minute).UTC()
		pushed := made.Add(-30 * time.Second)
		if err := s.PutRelease(tb.Context(), fleet.Published{Schema: 1, CreatedAt: made, SeenAt: made, Hosts: len(hosts), Changed: hosts, Release: fleet.ReleaseRef{Number: i,
			Commit: strings.Repeat("c", 40), Source: fleet.Source{Commit: strings.Repeat("a", 40), Branch: "main", Subject: fmt.Sprint("change ", i), Author: "Editor", PushedAt: &pushed}}}); err != nil {
			tb.Fatal(err)
		}
	}
}

// deploys keeps how a deployment of release n of so many ended, a minute after that was made.
func deploys(tb testing.TB, s hub.Store, host string, n, of int, result fleet.Result) {
	d := fleet.Deployment{Schema: 1, Host: host, Release: fleet.ReleaseRef{Number: n}, Result: result, Stages: []fleet.StageTime{}, EndedAt: time.Now().Add(-time.Duration(of-n) * time.Hour).UTC()}
	if result != fleet.Committed {
		d.Failure = &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeCheck, Stage: fleet.Check, Message: "not well"}
	}
	if err := s.PutDeployment(tb.Context(), fleet.DeploymentReport{Schema: 1, Deployment: d}); err != nil {
		tb.Fatal(err)
	}
}

func TestReleasesByAPI(t *testing.T) {
	w := newWorld(t)
	asks := func(path string, into any) {
		t.Helper()
		code, body := w.ask("GET", path, "read", "")
		if code != http.StatusOK || json.Unmarshal([]byte(body), into) != nil {
			t.Fatalf("%s: %d %s", path, code, body)
		}
	}
	var list []fleet.ReleaseView
	if asks("/api/v1/releases", &list); list == nil || len(list) != 0 {
		t.Errorf("%v", list)
	}
	putReleases(t, w.store, 5, "joker", "ratched")
	for n := 1; n <= 4; n++ {
		deploys(t, w.store, "joker", n, 5, fleet.Committed)
	}
	deploys(t, w.store, "ratched", 2, 5, fleet.RolledBack)
	deploys(t, w.store, "ratched", 3, 5, fleet.Committed)
	run := fleet.Run{Schema: 1, State: fleet.RunReleased, StartedAt: time.Now().UTC(), Stages: []fleet.StageTime{}, Release: &fleet.ReleaseRef{Number: 3}}
	_, err := w.NoteRun(t.Context(), run)
	must(t, err)

	states := func(path string) string {
		t.Helper()
		asks(path, &list)
		var s []string
		for _, r := range list {
			if r.Progress != nil {
				t.Errorf("%s: %s has the progress of hosts", path, r.Release.Name())
			}
			s = append(s, fmt.Sprint(r.Release.Number, " ", r.State))
		}
		return strings.Join(s, ", ")
	}
	for path, want := range map[string]string{
		"/api/v1/releases":              "5 under-way, 4 superseded, 3 done, 2 failed, 1 superseded",
		"/api/v1/releases?n=2":          "5 under-way, 4 superseded",
		"/api/v1/releases?n=2&before=4": "3 done, 2 failed",
		"/api/v1/releases?before=1":     "",
		"/api/v1/releases?before=9&n=1": "5 under-way",
		"/api/v1/releases?before=5&n=1": "4 superseded",
	} {
		if got := states(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	var v fleet.ReleaseView
	asks("/api/v1/releases/3", &v)
	lead, ok := v.LeadTime()
	if v.Run == nil || len(v.Progress) != 2 || v.Progress[1].Deployment == nil || v.Progress[1].Deployment.Result != fleet.Committed || !ok || lead.Round(time.Minute) > 2*time.Minute {
		t.Errorf("%+v, %s", v, lead)
	}
	asks("/api/v1/releases?before=4&n=1", &list)
	if list[0].DoneAt == nil || v.DoneAt == nil || !list[0].DoneAt.Equal(*v.DoneAt) || list[0].Text != v.Text || list[0].Text != "all 2 hosts had it" {
		t.Errorf("in the list: %+v, by itself: %+v", list[0], v)
	}
	var stats fleet.Stats
	asks("/api/v1/stats", &stats)
	if stats.Releases != 5 || stats.Deployments != 6 || stats.ChangeFailures != 1 || stats.TimeToRestore == nil || stats.LeadTime.Count != 3 || stats.Runs != 1 {
		t.Errorf("%+v, lead %+v", stats, stats.LeadTime)
	}
	asks("/api/v1/stats?days=1", &stats)
	for path, want := range map[string]int{"releases/9": 404, "releases/x": 400, "releases/01": 400, "releases?before=x": 400, "releases?n=0": 400, "releases?n=101": 400,
		"stats?days=0": 400, "stats?days=9999": 400, "stats?days=x": 400, "drills?n=x": 400, "drills": 200} {
		if code, body := w.ask("GET", "/api/v1/"+path, "read", ""); code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	for _, path := range []string{"releases", "releases/3", "stats", "drills"} {
		if code, _ := w.ask("GET", "/api/v1/"+path, "push", ""); code != 403 {
			t.Errorf("%s by the wrong token: %d", path, code)
		}
	}
}

// BenchmarkReleases asks for what a fleet of 1,000 hosts shows: 20 releases that each changed all of them, one of those, and the figures.
func BenchmarkReleases(b *testing.B) {
	s := openStore(b, b.TempDir())
	h := hub.New(hub.Options{Store: s})
	const releases = 20
	var hosts []string
	for i := range 1000 {
		hosts = append(hosts, fmt.Sprintf("host%03d", i))
	}
	putReleases(b, s, releases, hosts...)
	for _, host := range hosts {
		for n := 1; n <= releases; n++ {
			deploys(b, s, host, n, releases, fleet.Committed)
		}
		at := time.Now().UTC()
		st := fleet.Status{Schema: 1, Host: host, At: at, Phase: fleet.PhaseIdle, Newest: &fleet.ReleaseRef{Number: releases}, Active: &fleet.Target{At: at, Release: fleet.ReleaseRef{Number: releases}}}
		if err := s.PutStatus(b.Context(), st); err != nil {
			b.Fatal(err)
		}
	}
	for name, ask := range map[string]func() error{
		"list":  func() error { _, err := h.Releases(b.Context(), 0, releases); return err },
		"one":   func() error { _, _, err := h.Release(b.Context(), releases); return err },
		"older": func() error { _, _, err := h.Release(b.Context(), 1); return err },
		"stats": func() error { _, err := h.Stats(b.Context(), time.Now().AddDate(0, 0, -30), time.Now()); return err },
		"hosts": func() error { _, err := h.Hosts(b.Context()); return err },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := ask(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
