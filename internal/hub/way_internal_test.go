package hub

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestWay: when which ring was given release 7, what stopped it, and how much of its time no host was at it.
func TestWay(t *testing.T) {
	gives := func(release int, ring string, batch, at int) fleet.RolloutAct {
		return fleet.RolloutAct{Act: fleet.RolloutPromoted, Ring: ring, Batch: batch, Release: release, By: "hub", At: minute(at)}
	}
	act := func(act, ring string, release, to, at int) fleet.RolloutAct {
		return fleet.RolloutAct{Act: act, Ring: ring, Release: release, To: to, At: minute(at)}
	}
	has := func(host string, at int) Outcome { return of(host, fleet.Committed, "", at) }
	for _, c := range []struct {
		name     string
		acts     []fleet.RolloutAct
		outcomes []Outcome
		want     string
	}{
		{"no rings", nil, []Outcome{has("a", 2), has("b", 90)}, "waited 0s"},
		{"a soak between two", []fleet.RolloutAct{gives(6, "canary", 1, -9), gives(7, "canary", 1, 0), gives(7, "web", 1, 62)}, []Outcome{has("a", 2), has("b", 63)}, "canary 0 web 62 waited 1h0m0s"},
		{"a window before the first, batches, and a ring that it does not change", []fleet.RolloutAct{gives(7, "canary", 1, 30), gives(7, "web", 1, 32), gives(7, "web", 2, 40), gives(7, "rest", 1, 45)},
			[]Outcome{has("a", 32), has("b", 50)}, "canary 30 web 32-40/2 rest 45 waited 43m0s"},
		{"a host that takes long is no waiting", []fleet.RolloutAct{gives(7, "canary", 1, 0)}, []Outcome{has("a", 2), has("b", 600)}, "canary 0 waited 0s"},
		{"what comes after the last host has it", []fleet.RolloutAct{gives(7, "canary", 1, 0), gives(7, "rest", 1, 100)}, []Outcome{has("a", 2), has("b", 3)}, "canary 0 rest 100 waited 0s"},
		{"clocks differ", []fleet.RolloutAct{gives(7, "canary", 1, -5), gives(7, "web", 1, 1)}, []Outcome{has("a", -7), has("b", 2)}, "canary -5 web 1 waited 1m0s"},
		{"paused by its hosts and by a person, and aborted; others are not it", []fleet.RolloutAct{gives(7, "canary", 1, 0), act(fleet.RolloutPaused, "canary", 7, 0, 2), act(fleet.RolloutPaused, "", 7, 0, 3),
			act(fleet.RolloutPaused, "", 8, 0, 4), act(fleet.RolloutAborted, "", 8, 6, 5), act(fleet.RolloutAborted, "", 9, 7, 6)}, nil, "canary 0; paused at canary 2 paused 3 aborted 5 waited 0s"},
	} {
		v := released{next: &fleet.Published{}, Published: published(7, "a", "b"), outcomes: c.outcomes, acts: c.acts}.view()
		since := func(at time.Time) int { return int(at.Sub(made) / time.Minute) }
		var got strings.Builder
		for _, g := range v.Rings {
			fmt.Fprintf(&got, " %s %d", g.Ring, since(g.At))
			if g.Batches > 1 {
				fmt.Fprintf(&got, "-%d/%d", since(g.Whole), g.Batches)
			}
		}
		if len(v.Stops) > 0 {
			got.WriteString(";")
		}
		for _, a := range v.Stops {
			got.WriteString(" " + a.Act)
			if a.Ring != "" {
				got.WriteString(" at " + a.Ring)
			}
			fmt.Fprintf(&got, " %d", since(a.At))
		}
		fmt.Fprintf(&got, " waited %s", time.Duration(v.WaitedSeconds)*time.Second)
		if text := strings.TrimSpace(got.String()); text != c.want {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
	}
}
