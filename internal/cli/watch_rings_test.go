package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestWatchRings: when a release has come far enough through the rings, and when it goes no further by itself.
func TestWatchRings(t *testing.T) {
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	all := rollouts(at)
	for _, c := range []struct {
		until, rings string
		release      int
		done         bool
		code         fleet.Code
	}{
		{"", "4 stopped", 42, false, ""},
		{"healthy", "2 soaking", 42, false, ""},
		{"converged", "2 soaking", 42, false, ""},
		{"ring:canary", "2 soaking", 42, true, ""}, // its hosts are well: that they soak is for the next ring
		{"ring:canary", "2 soaking", 41, true, ""}, // a newer one
		{"ring:web", "2 soaking", 42, false, ""},
		{"ring:web", "3 rolling", 42, false, ""},
		{"ring:web", "5 asks", 42, true, ""},
		{"ring:rest", "5 asks", 42, false, ""},
		{"healthy", "5 asks", 42, false, ""}, // somebody may say so
		{"converged", "5 asks", 42, true, fleet.CodeNotConverged},
		{"ring:web", "4 stopped", 42, true, fleet.CodeNotConverged},
		{"ring:rest", "4 stopped", 42, true, fleet.CodeNotConverged},
		{"ring:canary", "4 stopped", 42, true, ""},
		{"healthy", "4 stopped", 42, true, fleet.CodeNotConverged},
		{"healthy", "4 stopped", 43, false, ""}, // the newer one mends it
		{"ring:nowhere", "4 stopped", 42, true, fleet.CodeNotFound},
		{"ring:canary", "", 42, true, fleet.CodeNotFound},
		{"healthy", "", 42, false, ""},
		{"healthy", "8 done", 42, false, ""}, // what hosts say is looked at then
	} {
		var out bytes.Buffer
		w := fleetWatcher{app: &app{Stdio: Stdio{Out: &out}}, until: c.until, lines: map[string]string{}, shown: console{to: &out}}
		if v, ok := all[c.rings]; ok {
			w.rings = &v
		}
		done, err := w.tellRings(fleet.ReleaseView{Published: fleet.Published{Release: fleet.ReleaseRef{Number: c.release}}, State: fleet.ReleaseUnderWay})
		if done != c.done || fleet.CodeOf(err) != c.code {
			t.Errorf("--until %s, %s, release-%d: %v, %v", c.until, c.rings, c.release, done, err)
		}
	}
}

// TestWatchRingsSays: each change is a line, a countdown none of its own.
func TestWatchRingsSays(t *testing.T) {
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	v := rollouts(at)["2 soaking"]
	var out bytes.Buffer
	w := fleetWatcher{app: &app{Stdio: Stdio{Out: &out}}, lines: map[string]string{}, shown: console{to: &out}, rings: &v}
	see := func() {
		t.Helper()
		if done, err := w.tellRings(fleet.ReleaseView{}); done || err != nil {
			t.Fatal(done, err)
		}
	}
	see()
	v.Rings[0].Reason = "soaks release-42 until 13:12 UTC (1 h 11 min left)"
	see()
	if n := strings.Count(out.String(), "\n"); n != 3 || strings.Contains(out.String(), "left") {
		t.Errorf("%d lines: %s", n, out.String())
	}
	if got := w.countdown(at.Add(time.Minute)); !strings.HasPrefix(got, "ring canary soaks release-42 until ") || !strings.HasSuffix(got, ": 1 h 11 min left") {
		t.Errorf("the countdown: %q", got)
	}
	v.Freeze = &fleet.RolloutOrder{By: "Ann", At: at, Reason: "holidays", Until: v.Rings[0].SoakUntil}
	see()
	v.Freeze = nil
	see()
	see()
	if text := out.String(); strings.Count(text, "\n") != 5 || !strings.Contains(text, "roll-out: frozen until ") || !strings.HasSuffix(text, "roll-out: release-42 soaks: ring 1 of 3, canary\n") {
		t.Errorf("a freeze, and its end: %s", text)
	}
	out.Reset()
	w.json, w.lines = true, map[string]string{}
	see()
	for line := range strings.Lines(out.String()) {
		var l ringLine
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Kind != "ring" || l.Ring == nil || l.Ring.Name == "" {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// TestOverviewByRing: problems come first, those that are alike ring by ring; and the roll-out is shown.
func TestOverviewByRing(t *testing.T) {
	v := rollouts(time.Now())["2 soaking"]
	host := func(name, ring string, batch int) fleet.Status {
		return fleet.Status{Host: name, At: time.Now(), Phase: fleet.PhaseIdle, Newest: &fleet.ReleaseRef{Number: 41}, Ring: ring, Batch: batch, Ahead: &fleet.Ahead{Release: fleet.ReleaseRef{Number: 42}}}
	}
	held := host("zed", "rest", 1)
	held.Phase, held.Failure = fleet.PhaseHeld, &fleet.Failure{Message: "no"}
	o := overview{Hosts: []fleet.Status{host("b", "web", 2), host("a", "rest", 1), host("d", "web", 1), held}, Counts: map[fleet.Standing]int{}, Rollout: &v, Newest: &fleet.ReleaseView{Published: fleet.Published{Release: fleet.ReleaseRef{Number: 42}}}}
	o.sum()
	var names []string
	for _, h := range o.Hosts {
		names = append(names, h.Host)
	}
	if got := strings.Join(names, " "); got != "zed d b a" {
		t.Errorf("the order is %s", got)
	}
	var out bytes.Buffer
	(&app{Stdio: Stdio{Out: &out}}).tellOverview(o)
	for _, want := range []string{"Roll-out: release-42 soaks: ring 1 of 3, canary", "◔ soaking", " RING ", " web.2 ", "waits for ring web"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it lacks %q:\n%s", want, out.String())
		}
	}
	o.Rollout, out = nil, bytes.Buffer{}
	(&app{Stdio: Stdio{Out: &out}}).tellOverview(o)
	if strings.Contains(out.String(), "RING") || strings.Contains(out.String(), "Roll-out") {
		t.Errorf("a fleet without rings shows some:\n%s", out.String())
	}
}
