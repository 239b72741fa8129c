package hub_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/sqlite"
)

// BenchmarkMetrics10000 is a page of a hub with 10,000 hosts.
func BenchmarkMetrics10000(b *testing.B) {
	store, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "hub.db"))
	must(b, err)
	defer func() { must(b, store.Close()) }()
	now := time.Now().UTC()
	ref := fleet.ReleaseRef{Number: 7, Commit: fmt.Sprintf("%040d", 7), Tag: fmt.Sprintf("%040d", 8), Source: fleet.Source{Commit: fmt.Sprintf("%040d", 9), Branch: "main", Subject: "A change"}}
	m := &fleet.Manifest{Number: 7, CreatedAt: now, Hosts: map[string]fleet.Entry{}}
	for i := range 10_000 {
		host := fmt.Sprintf("host%05d", i)
		m.Hosts[host] = fleet.Entry{}
		target := fleet.Target{Release: ref, At: now}
		s := fleet.Status{Schema: 1, Host: host, At: now, Phase: fleet.PhaseIdle, Newest: &ref, Active: &target,
			Last: &fleet.Deployment{Host: host, Release: ref, Result: fleet.Committed, Stages: []fleet.StageTime{{Stage: fleet.Fetch}, {Stage: fleet.Activate}}}}
		must(b, store.PutStatus(b.Context(), s))
	}
	h := hub.New(hub.Options{Store: store, Log: slog.New(slog.DiscardHandler)})
	h.SetNewest(m)
	for b.Loop() {
		if page := h.Metrics(b.Context()); len(page) < 1000 {
			b.Fatal(page)
		}
	}
}
