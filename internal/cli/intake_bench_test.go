package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	hubpostgres "github.com/garrison-nix/garrison/internal/hub/postgres"
	hubsqlite "github.com/garrison-nix/garrison/internal/hub/sqlite"
	"github.com/garrison-nix/garrison/internal/hub/tables"
	"github.com/garrison-nix/garrison/internal/postgres"
)

// BenchmarkReports has 10,000 agents, each with a token of its own, report their status to a hub in a process of its own and tell it of a
// deployment, 200 of them at a time; then the hub is killed, and what is in its store is counted.
func BenchmarkReports(b *testing.B) {
	garrison := filepath.Join(b.TempDir(), "garrison")
	if out, err := exec.Command("go", "build", "-o", garrison, "../../cmd/garrison").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	b.Run("sqlite", func(b *testing.B) {
		dir := b.TempDir()
		takeReports(b, startIdleHub(b, garrison, dir, ""), func() (*tables.Store, error) {
			return hubsqlite.Open(b.Context(), filepath.Join(dir, "data", "hub.db"))
		})
	})
	b.Run("postgres", func(b *testing.B) {
		var lab cachetest.Lab
		defer lab.Stop()
		url := lab.PostgresURL(b)
		takeReports(b, startIdleHub(b, garrison, b.TempDir(), fmt.Sprintf("[database]\nurl = %q\n", url)), func() (*tables.Store, error) {
			return hubpostgres.Open(b.Context(), postgres.Config{URL: url}, nil)
		})
	})
}

const reporting = 200 // at the same time

func takeReports(b *testing.B, h *idleHub, open func() (*tables.Store, error)) {
	requests := make([][]byte, idleAgents) // of an agent, both
	for n := range requests {
		requests[n] = reportsOf(b, n)
	}
	cpu := h.cpu()
	var next atomic.Int64
	var all sync.WaitGroup
	b.ResetTimer()
	began := time.Now()
	for range reporting {
		all.Go(func() {
			for n := next.Add(1) - 1; n < idleAgents; n = next.Add(1) - 1 {
				if err := h.tell(requests[n]); err != nil {
					b.Errorf("agent %d: %v", n, err)
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	b.ReportMetric(took.Seconds(), "s")
	b.ReportMetric((h.cpu() - cpu).Seconds(), "s/hub's-cpu")
	b.ReportMetric(float64(h.resident())/1e6, "MB/resident")
	b.ReportMetric(float64(len(requests[0])), "B/agent")
	b.ReportMetric(0, "ns/op")
	if err := syscall.Kill(h.pid, syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
	s, err := open()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	statuses, err := s.Statuses(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	deployments, err := s.DeploymentsOf(b.Context(), 412)
	if err != nil {
		b.Fatal(err)
	}
	if len(statuses) != idleAgents || len(deployments) != idleAgents {
		b.Fatalf("%d statuses and %d deployments are in the store", len(statuses), len(deployments))
	}
}

// tell sends requests one after the other on a connection of their own.
func (h *idleHub) tell(requests []byte) error {
	conn, err := net.Dial("tcp", h.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	for request := range bytes.SplitSeq(requests, []byte{0}) {
		if _, err := conn.Write(request); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode >= 300 {
			return fmt.Errorf("%s %s %w", resp.Status, body, err)
		}
	}
	return nil
}

// reportsOf are the requests in which agent n says how it is, and tells of its last deployment with 4 KiB of log.
func reportsOf(b *testing.B, n int) []byte {
	b.Helper()
	host := fmt.Sprint("h", n)
	status, deployment := fullStatus(host, time.Now().UTC())
	var all [][]byte
	for _, r := range []struct {
		path string
		v    any
	}{
		{"reports", status},
		{"deployments", fleet.DeploymentReport{Schema: 1, Deployment: deployment, Log: strings.Repeat("starting the following units: nginx.service\n", 95)}},
	} {
		doc, err := json.Marshal(r.v)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, fmt.Appendf(nil, "POST /api/v1/%s HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer secret of %s\r\nContent-Length: %d\r\n\r\n%s", r.path, host, len(doc), doc))
	}
	return bytes.Join(all, []byte{0})
}

// fullStatus is what an agent that converged says, with all that it knows, and its last deployment.
func fullStatus(host string, at time.Time) (fleet.Status, fleet.Deployment) {
	hash := hub.HashToken(host)
	ref := fleet.ReleaseRef{Number: 412, Commit: hash[:40], Tag: hash[20:60], Source: fleet.Source{Commit: hash[24:], Branch: "main", Subject: "nginx: allow larger uploads", PushedAt: &at}}
	system := fleet.Toplevel{OutPath: "/nix/store/" + hash[:32] + "-nixos-system-" + host + "-26.11.20261123.abcdef0", Built: true}
	var stages []fleet.StageTime
	for i, s := range []fleet.Stage{fleet.Fetch, fleet.Verify, fleet.Staging, fleet.Gate, fleet.Activate, fleet.Check, fleet.Commit} {
		stages = append(stages, fleet.StageTime{Stage: s, StartedAt: at.Add(time.Duration(i) * time.Second), Seconds: 0.987654321, ToolSeconds: 0.87654321})
	}
	d := fleet.Deployment{Schema: 1, Host: host, Release: ref, Toplevel: system, Previous: "/nix/store/" + hash[32:] + "-nixos-system-" + host + "-26.11.20261116.1234567",
		Result: fleet.Committed, Stages: stages, EndedAt: at}
	target := &fleet.Target{Release: ref, Toplevel: system, At: at}
	well := fleet.Contact{LastOK: at, Since: at}
	return fleet.Status{Schema: 1, Host: host, At: at, Version: "1.0.0", Phase: fleet.PhaseIdle, Since: at, Newest: &ref, Active: target,
		Systems: fleet.Systems{Current: system.OutPath, Profile: system.OutPath, Booted: d.Previous},
		Remote:  well, Hub: well, Push: well, Last: &d, NextPoll: at.Add(time.Minute),
		Remotes: []fleet.Remote{
			{Name: "git.example.org", URL: "https://git.example.org/ops/fleet.git", Contact: well, Tip: ref.Commit, NextLook: at},
			{Name: "mirror.example.net", URL: "https://mirror.example.net/ops/fleet.git", Contact: well, Tip: ref.Commit, NextLook: at}},
		Disks:       []fleet.Disk{{Of: "store", FreeBytes: 1 << 37, TotalBytes: 1 << 39}, {Of: "state", FreeBytes: 1 << 37, TotalBytes: 1 << 39}, {Of: "boot", FreeBytes: 1 << 28, TotalBytes: 1 << 29}},
		Credentials: []fleet.Credential{{Name: "the hub's token", Ends: at.AddDate(1, 0, 0)}},
	}, d
}
