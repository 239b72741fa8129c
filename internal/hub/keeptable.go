package hub

import (
	"cmp"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// KeepTable is the table [keep] of the hub's file: how long what happened is kept.
type KeepTable struct {
	Events  tomlfile.Duration `toml:"events"`  // and alerts that are over; default 720h
	History tomlfile.Duration `toml:"history"` // deployments, acts, releases, runs, drills; default 9600h
	Logs    int               `toml:"logs"`    // of deployments of a host; default 10
}

// What may be kept: what is not hours old may still be told of, and a log is up to 64 KiB.
const (
	leastKept    = time.Hour
	mostLogsKept = 200
)

func (t *KeepTable) check(path string) error {
	t.Events = tomlfile.Duration(t.Events.Or(30 * 24 * time.Hour))
	t.History = tomlfile.Duration(t.History.Or(400 * 24 * time.Hour))
	t.Logs = cmp.Or(t.Logs, 10)
	for _, d := range []struct {
		name string
		time tomlfile.Duration
	}{{"events", t.Events}, {"history", t.History}} {
		if time.Duration(d.time) < leastKept {
			return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: keep.%s is %v, and cannot be less than %v", path, d.name, time.Duration(d.time), leastKept)
		}
	}
	if t.Logs < 1 || t.Logs > mostLogsKept {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: keep.logs is %d, and must be from 1 to %d", path, t.Logs, mostLogsKept)
	}
	return nil
}

// Keep is what the table says.
func (t KeepTable) Keep() Keep {
	return Keep{Events: time.Duration(t.Events), History: time.Duration(t.History), Logs: t.Logs}
}
