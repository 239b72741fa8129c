package drill_test

import (
	"math"
	"slices"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// checkTiming wants what a real drill measured to add up: each change's spans are the whole, without a hole or an overlap, and so are its parts.
func checkTiming(t *testing.T, d *fleet.DrillTiming, repeat int, stages ...string) {
	t.Helper()
	if d == nil || d.Repeat != repeat || len(d.Changes) != repeat {
		t.Fatalf("there are no figures of %d changes: %+v", repeat, d)
	}
	same := func(a, b float64) bool { return math.Abs(a-b) < 1e-6 }
	var whole, own []float64
	for _, c := range d.Changes {
		at, ours := 0.0, 0.0
		for _, s := range c.Spans {
			if !same(s.Began, at) || s.Ended < s.Began || s.PartSeconds < 0 || s.PartSeconds > s.Ended-s.Began+1e-6 {
				t.Errorf("%s, after %v s: %+v", c.Commit, at, s)
			}
			if at = s.Ended; s.Part == fleet.PartOwn {
				ours += s.Ended - s.Began
			} else {
				ours += s.Ended - s.Began - s.PartSeconds
			}
		}
		if !same(at, c.Seconds) || len(c.Commit) != 40 || c.PushedAt.IsZero() {
			t.Errorf("the spans end after %v s, the change after %v s: %+v", at, c.Seconds, c)
		}
		whole, own = append(whole, c.Seconds), append(own, ours)
	}
	for name, x := range map[string]struct {
		list []float64
		fleet.Spread
	}{"whole": {whole, d.PushToHealthy}, "own": {own, d.Own}} {
		slices.Sort(x.list)
		n := len(x.list)
		if x.Count != n || !same(x.Median, x.list[(n-1)/2]) || !same(x.P95, x.list[int(math.Ceil(0.95*float64(n)))-1]) || !same(x.Most, x.list[n-1]) {
			t.Errorf("%s: %+v of %v", name, x.Spread, x.list)
		}
	}
	parts := 0.0
	for _, p := range []fleet.Spread{d.Own, d.Git, d.Nix, d.Transfer, d.Switch, d.Waiting} {
		if p.Count != repeat || p.Median < 0 {
			t.Errorf("a part has %+v", p)
		}
		parts += p.Median
	}
	if repeat == 1 && !same(parts, d.PushToHealthy.Median) {
		t.Errorf("the parts are together %v s of %v s", parts, d.PushToHealthy.Median)
	}
	if sums := d.CI.Most + d.Notice.Most + d.Staging.Most + d.Activation.Most; repeat == 1 && sums > d.PushToHealthy.Most {
		t.Errorf("CI, notice, staging and activation are together %v s of %v s", sums, d.PushToHealthy.Most)
	}
	for _, name := range stages {
		if !slices.ContainsFunc(d.Stages, func(s fleet.DrillStage) bool { return s.Stage == name && s.Count > 0 && s.What != "" }) {
			t.Errorf("no stage %s in %+v", name, d.Stages)
		}
	}
}
