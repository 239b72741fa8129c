package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// BenchmarkAlert is the time from a host's report that it holds a release to the request that tells a webhook so, of a hub that is a process of
// its own. Each time it is another host and another release: several hosts with the same would be told of together.
func BenchmarkAlert(b *testing.B) {
	arrived := make(chan time.Time, idleAgents)
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived <- time.Now() }))
	defer receiver.Close()
	dir := b.TempDir()
	garrison := filepath.Join(dir, "garrison")
	if out, err := exec.Command("go", "build", "-o", garrison, "../../cmd/garrison").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	h := startIdleHub(b, garrison, dir, fmt.Sprintf("[[notify.senders]]\nname = \"hook\"\ntype = \"webhook\"\nurl = %q\n", receiver.URL))
	var took []time.Duration
	for b.Loop() {
		n := len(took)
		now := time.Now().UTC()
		doc, err := json.Marshal(fleet.Status{Schema: 1, Host: fmt.Sprint("h", n), At: now, Since: now, NextPoll: now.Add(time.Minute), Phase: fleet.PhaseHeld,
			Target: &fleet.Target{Release: fleet.ReleaseRef{Number: 1000 + n}, At: now}, Failure: &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeCheck, Message: "a check failed"}})
		if err != nil {
			b.Fatal(err)
		}
		req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "http://"+h.address+"/api/v1/reports", bytes.NewReader(doc))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", fmt.Sprint("Bearer secret of h", n))
		began := time.Now()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			b.Fatal(resp.Status)
		}
		select {
		case at := <-arrived:
			took = append(took, at.Sub(began))
		case <-time.After(time.Minute):
			b.Fatal("nobody was told")
		}
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, "ms/p50")
	b.ReportMetric(took[len(took)*95/100].Seconds()*1e3, "ms/p95")
	b.ReportMetric(0, "ns/op")
}
