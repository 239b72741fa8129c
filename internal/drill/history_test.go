package drill

import (
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestHistoryOf: drills of two hosts are held apart, each against the median of those before it, whatever order they are read in.
func TestHistoryOf(t *testing.T) {
	at := func(day int) time.Time { return time.Date(2026, 1, day, 3, 0, 0, 0, time.UTC) }
	drilled := func(id string, day int, host string, seconds float64) fleet.DrillReport {
		r := fleet.DrillReport{Schema: 1, ID: id, StartedAt: at(day), EndedAt: at(day).Add(time.Minute), Where: "live", Host: host, Passed: seconds > 0,
			Scenarios: []fleet.DrillScenario{{Name: "happy-path", Result: fleet.DrillPass}, {Name: "power-cut", Result: fleet.DrillSkip}}}
		if seconds <= 0 { // it did not arrive
			r.Scenarios[0].Result = fleet.DrillFail
			return r
		}
		x := fleet.Spread{Count: 1, Median: seconds, P95: seconds, Most: seconds}
		r.Timing = &fleet.DrillTiming{PushToHealthy: x, Own: x, CI: x, Notice: x, Staging: x, Activation: x}
		return r
	}
	all := []fleet.DrillReport{drilled("e", 5, "a", 8), drilled("b", 2, "a", 2), drilled("a", 1, "a", 1), drilled("x", 1, "b", 9), drilled("d", 4, "a", 0), drilled("c", 3, "a", 3), drilled("c", 3, "a", 3), drilled("f", 6, "a", 1)}
	h := HistoryOf(all, nil)
	if len(h.Fleets) != 2 || h.Unread == nil || h.Fleets[0].Host != "a" || len(h.Fleets[0].Drills) != 6 || len(h.Fleets[1].Drills) != 1 {
		t.Fatalf("%+v", h)
	}
	a := h.Fleets[0]
	for i, want := range []struct {
		id        string
		before    float64
		direction int
	}{{"f", 2, -1}, {"e", 2, 1}, {"d", 0, 0}, {"c", 1, 1}, {"b", 1, 1}, {"a", 0, 0}} {
		d := a.Drills[i]
		if d.ID != want.id || (d.Figures == nil) != (want.id == "d") {
			t.Fatalf("%d: %+v", i, d)
		}
		if d.Figures == nil {
			continue
		}
		f := d.Figures[0]
		if (f.Before == nil) != (want.before == 0) || f.Before != nil && *f.Before != want.before || f.Direction() != want.direction {
			t.Errorf("%s: %+v %v", d.ID, f, f.Direction())
		}
	}
	if got := a.Line(20); got != "▂▃▄·█▂" {
		t.Errorf("the line is %s", got)
	}
	if s := a.Scenarios[0]; s.Passed != 5 || s.Failed != 1 || s.LastFailed == nil || !s.LastFailed.Equal(at(4)) {
		t.Errorf("%+v", s)
	}
	if s := a.Scenarios[1]; s.Skipped != 6 || s.LastFailed != nil {
		t.Errorf("%+v", s)
	}
	if same := (Trend{Spread: fleet.Spread{Median: 2.1}, Before: new(float64)}); same.Direction() != 1 {
		t.Errorf("from nothing to %v is %d", same.Median, same.Direction())
	}
}
