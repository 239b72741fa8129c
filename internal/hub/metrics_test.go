package hub_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/metrics"
	"github.com/garrison-nix/garrison/internal/metrics/metricstest"
	"github.com/garrison-nix/garrison/internal/otlp"
)

var update = flag.Bool("update", false, "write the list of metrics anew")

// wrongs are alerts that somebody keeps.
type wrongs struct{ hub.Alerts }

func (wrongs) Open(context.Context) ([]fleet.Alert, error) {
	return []fleet.Alert{{Kind: fleet.AlertDrift, Severity: fleet.Warning}, {Kind: fleet.AlertDrift, Severity: fleet.Warning}, {Kind: fleet.AlertSilent, Severity: fleet.Critical}}, nil
}

func (wrongs) Senders(context.Context) ([]fleet.SenderState, error) {
	queued := time.Unix(1_700_000_000, 0)
	return []fleet.SenderState{{Name: "chat", Pending: 3, Oldest: &queued, Error: "away", GivenUp: 2}, {Name: "mail", Delivered: &queued}}, nil
}

// page asks for the metrics as Prometheus does.
func (w *world) page() string {
	w.t.Helper()
	got, page := w.ask("GET", "/metrics", "read", "")
	if got != 200 {
		w.t.Fatal(got, page)
	}
	return page
}

func wantLines(t *testing.T, page string, want ...string) {
	t.Helper()
	for _, line := range want {
		if !strings.Contains(page, "\n"+line+"\n") {
			name, _, _ := strings.Cut(line, "{")
			var there []string
			for l := range strings.Lines(page) {
				if strings.HasPrefix(l, strings.Fields(name)[0]) {
					there = append(there, strings.TrimSpace(l))
				}
			}
			t.Errorf("there is no %s, but %s", line, strings.Join(there, ", "))
		}
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	w.Alerts, w.Version = wrongs{}, "1.2"
	w.roller.view.Rings = []fleet.RolloutRing{{Ring: fleet.Ring{Name: "canary"}, State: fleet.RolloutDone}}
	w.Measure = func(p *metrics.Page) {
		hub.MeasureContact(p, fleet.Contact{LastOK: time.Unix(1_700_000_000, 0)})
		hub.MeasureDisks(p, []fleet.Disk{{Of: "the hub's data", FreeBytes: 5, TotalBytes: 10}})
		hub.MeasureStore(p, 1234)
		hub.MeasureTrace(p, otlp.Standing{Sent: 8, Refused: 1, Failing: time.Unix(1_700_000_000, 0), Waiting: time.Unix(1_700_000_000, 0)})
	}
	metricstest.Check(t, w.page())
	wantLines(t, w.page(), `garrison_hub_newest_release 0`, `garrison_hub_last_run_ok 1`, `garrison_hub_hosts{standing="converged"} 0`)

	pushed := time.Now().UTC().Add(-time.Minute)
	m := &fleet.Manifest{Number: 7, CreatedAt: pushed.Add(10 * time.Second), Source: fleet.Source{PushedAt: &pushed}, Hosts: map[string]fleet.Entry{"joker": {}, "ratched": {}, "abe": {}}}
	w.SetNewest(m)
	must(t, w.NoteReleases(t.Context(), []fleet.Published{{Release: m.Ref("", ""), CreatedAt: m.CreatedAt}}))
	ref := m.Ref("", "")
	system := fleet.Target{Release: ref}
	w.tell("/api/v1/reports", "report:joker", doc(t, fleet.Status{Schema: 1, Host: "joker", At: time.Now(), Phase: fleet.PhaseIdle, Newest: &ref, Active: &system}), 200)
	w.tell("/api/v1/reports", "report:ratched", doc(t, fleet.Status{Schema: 1, Host: "ratched", At: time.Now(), Phase: fleet.PhaseHeld, Newest: &ref, Drift: true}), 200)
	w.tell("/api/v1/reports", "report:joker", "{}", 400)
	w.tell("/api/v1/reports", "read", "{}", 403)
	ended := pushed.Add(25 * time.Second)
	d := fleet.DeploymentReport{Schema: 1, Deployment: fleet.Deployment{Schema: 1, Host: "joker", Release: ref, Result: fleet.Committed, EndedAt: ended, Stages: []fleet.StageTime{
		{Stage: fleet.Check, StartedAt: pushed, Seconds: 0.3}, {Stage: "made-up", StartedAt: pushed, Seconds: 2}, {Stage: "another", StartedAt: pushed, Seconds: 2}}}}
	for range 2 { // told twice, it happened once
		w.tell("/api/v1/deployments", "report:joker", doc(t, d), 204)
	}
	for i, state := range []fleet.RunState{fleet.RunReleased, fleet.RunFailed, fleet.RunRunning} {
		w.tell("/api/v1/runs", "ci", outsideRun(func(r *fleet.Run) {
			r.StartedAt = r.StartedAt.Add(time.Duration(i) * time.Second)
			if r.State = state; state != fleet.RunRunning {
				at := r.StartedAt.Add(time.Second)
				r.EndedAt, r.Stages = &at, []fleet.StageTime{{Stage: fleet.Build, StartedAt: r.StartedAt, Seconds: 20}}
			}
			if state == fleet.RunFailed {
				r.Failure = &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeBuild}
			}
		}), 200)
	}
	_, leave := w.Listen()
	defer leave()

	page := w.page()
	metricstest.Check(t, page)
	wantLines(t, page,
		`garrison_hub_info{version="1.2"} 1`,
		`garrison_hub_hosts{standing="converged"} 1`, `garrison_hub_hosts{standing="failed"} 1`, `garrison_hub_hosts{standing="under way"} 1`, // abe is waited for
		`garrison_hub_hosts_phase{phase="held"} 1`, `garrison_hub_hosts_phase{phase="unheard"} 1`, `garrison_hub_hosts_drift 1`,
		`garrison_hub_host_trouble{host="ratched",standing="failed"} 1`,
		`garrison_hub_rollout_hosts{standing="done"} 1`, `garrison_hub_rollout_hosts{standing="failed"} 1`, `garrison_hub_rollout_hosts{standing="under way"} 1`,
		`garrison_hub_newest_release 7`,
		`garrison_hub_runs_running 1`, `garrison_hub_last_run_ok 0`, `garrison_hub_runs_total{state="released"} 1`, `garrison_hub_runs_total{state="failed"} 1`,
		`garrison_hub_stage_duration_seconds_bucket{side="host",stage="check",le="0.25"} 0`, `garrison_hub_stage_duration_seconds_bucket{side="host",stage="check",le="0.5"} 1`,
		`garrison_hub_stage_duration_seconds_count{side="host",stage="other"} 2`, `garrison_hub_stage_duration_seconds_count{side="ci",stage="build"} 2`,
		`garrison_hub_lead_time_seconds_bucket{le="10"} 0`, `garrison_hub_lead_time_seconds_bucket{le="30"} 1`, `garrison_hub_lead_time_seconds_count 1`,
		`garrison_hub_deployments_total{result="committed"} 1`,
		`garrison_hub_reports_total{kind="reports",result="taken"} 2`, `garrison_hub_reports_total{kind="reports",result="refused"} 2`, `garrison_hub_reports_total{kind="deployments",result="taken"} 2`,
		`garrison_hub_alerts{kind="drift",severity="warning"} 2`, `garrison_hub_alerts{kind="host-silent",severity="critical"} 1`, `garrison_hub_alerts{kind="disk-low",severity="warning"} 0`,
		`garrison_hub_sender_pending{sender="chat"} 3`, `garrison_hub_sender_ok{sender="chat"} 0`, `garrison_hub_sender_ok{sender="mail"} 1`, `garrison_hub_sender_oldest_timestamp_seconds{sender="chat"} 1.7e+09`,
		`garrison_hub_stream_listeners{of="others"} 1`, `garrison_hub_follow_ok 1`, `garrison_hub_free_bytes{of="the hub's data"} 5`, `garrison_hub_store_bytes 1234`,
		`garrison_hub_trace_spans_total{result="sent"} 8`, `garrison_hub_trace_ok 0`, `garrison_hub_trace_waiting_timestamp_seconds 1.7e+09`, `garrison_hub_store_ok 1`, `garrison_hub_store_errors_total 0`)

	file := filepath.Join(metricstest.Root(t), "monitoring", "hub-metrics.txt")
	got := metricstest.Families(t, page)
	if *update {
		must(t, os.WriteFile(file, []byte(got), 0o644))
	}
	if want, err := os.ReadFile(file); err != nil || string(want) != got {
		t.Errorf("%s is not what a hub exports (go test ./internal/hub -run TestMetrics -update): %v\n%s", file, err, got)
	}
}

// TestMetricsBounded: no fleet is so large, and no store so broken, that the page is not read.
func TestMetricsBounded(t *testing.T) {
	w := newWorld(t)
	for i := range 250 {
		must(t, w.store.PutStatus(t.Context(), fleet.Status{Schema: 1, Host: fmt.Sprintf("h%03d", i), At: time.Now(), Phase: fleet.PhaseHeld}))
	}
	page := w.page()
	if n := strings.Count(page, "garrison_hub_host_trouble{"); n != 100 {
		t.Errorf("%d hosts are named", n)
	}
	wantLines(t, page, `garrison_hub_hosts{standing="failed"} 250`)
	if got, _ := w.ask("GET", "/metrics", "report:joker", ""); got != 403 {
		t.Errorf("a host reads the metrics: %d", got)
	}
	w.Store = brokenStore{w.store}
	page = w.page()
	metricstest.Check(t, page)
	wantLines(t, page, `garrison_hub_store_ok 0`, `garrison_hub_store_errors_total 1`)
	if !strings.Contains(w.log.String(), "what metrics tell cannot be read") {
		t.Error(w.log.String())
	}
}

type brokenStore struct{ hub.Store }

func (brokenStore) Runs(context.Context, int) ([]fleet.Run, error) {
	return nil, errors.New("disk full")
}
