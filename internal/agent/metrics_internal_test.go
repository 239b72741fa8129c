package agent

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/metrics/metricstest"
)

var updateMetrics = flag.Bool("update-metrics", false, "write the list of metrics anew")

// TestExports: what is exported is what rules and dashboards may name, and Prometheus has nothing against it.
func TestExports(t *testing.T) {
	var c counts
	c.failed(fleet.CodeRemote)
	c.deployed(fleet.Committed)
	c.stage([]fleet.StageTime{{Stage: fleet.Fetch, Seconds: 0.3}})
	s := fleet.Status{Host: "joker", Version: "1", Phase: fleet.PhaseHeld, Newest: &fleet.ReleaseRef{Number: 7}, Refused: &fleet.Refusal{Failure: fleet.Failure{Code: fleet.CodeUnsigned}},
		Reboot: &fleet.Reboot{Failure: &fleet.Failure{}}, Credentials: []fleet.Credential{{Name: `the hub's "token"`, Ends: time.Unix(1_800_000_000, 0)}, {Name: `the hub's "token"`, Ends: time.Unix(1_900_000_000, 0)}}}
	page := expose(s, true, "2.28", t.TempDir(), &c)
	metricstest.Check(t, page)
	for _, want := range []string{`garrison_credential_end_timestamp_seconds{name="the hub's \"token\""} 1.8e+09`, `garrison_reboot_failed 1`, `garrison_refused{code="unsigned"} 1`} {
		if !strings.Contains(page, "\n"+want+"\n") {
			t.Errorf("there is no %s in\n%s", want, page)
		}
	}
	file := filepath.Join(metricstest.Root(t), "monitoring", "agent-metrics.txt")
	got := metricstest.Families(t, page)
	if *updateMetrics {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || string(want) != got {
		t.Errorf("%s is not what an agent exports (go test ./internal/agent -run TestExports -update-metrics): %v\n%s", file, err, got)
	}
}
