package hub

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestDrilledAt: a gate opens for the last drill of the fleet's own hosts, and not while the last one of any of them failed.
func TestDrilledAt(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 11, n, 4, 0, 0, 0, time.UTC) }
	drill := func(n int, where, host string, passed bool) fleet.DrillReport {
		return fleet.DrillReport{Where: where, Host: host, Passed: passed, EndedAt: day(n)}
	}
	m := &fleet.Manifest{Hosts: map[string]fleet.Entry{"joker": {}, "ratched": {}}}
	for name, c := range map[string]struct {
		newestFirst []fleet.DrillReport
		want        int // day; 0: not drilled
	}{
		"never":                              {nil, 0},
		"the newest":                         {[]fleet.DrillReport{drill(3, "live", "joker", true), drill(2, "live", "ratched", true)}, 3},
		"in a sandbox, in a demo":            {[]fleet.DrillReport{drill(3, "sandbox", "joker", true), drill(2, "demo", "joker", true)}, 0},
		"a host of nobody's":                 {[]fleet.DrillReport{drill(3, "live", "stranger", true)}, 0},
		"one that is gone failed":            {[]fleet.DrillReport{drill(3, "live", "gone", false), drill(2, "live", "joker", true)}, 2},
		"failed":                             {[]fleet.DrillReport{drill(3, "live", "joker", false), drill(2, "live", "joker", true)}, 0},
		"another host failed before":         {[]fleet.DrillReport{drill(3, "live", "joker", true), drill(2, "live", "ratched", false)}, 0},
		"that has passed since":              {[]fleet.DrillReport{drill(4, "live", "ratched", true), drill(3, "live", "joker", true), drill(2, "live", "ratched", false)}, 4},
		"a sandbox failed after that passed": {[]fleet.DrillReport{drill(4, "sandbox", "joker", false), drill(3, "live", "joker", true)}, 3},
	} {
		var want time.Time
		if c.want > 0 {
			want = day(c.want)
		}
		if got := drilledAt(c.newestFirst, m); !got.Equal(want) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if got := drilledAt([]fleet.DrillReport{drill(3, "live", "joker", true)}, nil); !got.IsZero() {
		t.Errorf("without a release: %s", got)
	}
}

// asked is a store that has one outcome of each release, and knows which it was asked for; newer releases ended earlier.
type asked struct {
	Store
	ranges [][2]int
}

func (a *asked) Outcomes(_ context.Context, _ time.Time, first, last int) (list []Outcome, _ error) {
	a.ranges = append(a.ranges, [2]int{first, last})
	for n := last; n >= first; n-- {
		list = append(list, Outcome{Release: n, EndedAt: time.Unix(int64(1000-n), 0)})
	}
	return list, nil
}

// TestOutcomesOfReleases: those between the releases that are looked at are not read.
func TestOutcomesOfReleases(t *testing.T) {
	for _, c := range []struct {
		releases []int
		ranges   [][2]int
	}{
		{nil, nil},
		{[]int{7}, [][2]int{{7, 7}}},
		{[]int{2, 500, 501, 502, 600}, [][2]int{{2, 2}, {500, 502}, {600, 600}}},
	} {
		store := &asked{}
		list, err := (&Controller{ControllerOptions: ControllerOptions{Hub: &Hub{Options: Options{Store: store}}}}).outcomes(t.Context(), c.releases)
		if err != nil || !slices.Equal(store.ranges, c.ranges) {
			t.Errorf("%v: asked for %v, %v", c.releases, store.ranges, err)
		}
		var got []int
		for _, o := range slices.Backward(list) { // as they ended
			got = append(got, o.Release)
		}
		if !slices.Equal(got, c.releases) {
			t.Errorf("%v: %v", c.releases, got)
		}
	}
}
