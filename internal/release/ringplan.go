package release

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
)

// ringsOf are the rings that a configuration makes of a fleet.
func ringsOf(c Config, systems map[string]nix.Host) ([]RingPlan, error) {
	e := evaluation{hosts: slices.SortedFunc(maps.Values(systems), func(a, b nix.Host) int { return strings.Compare(a.Name, b.Name) })}
	followed, byHand := e.split(c.Hosts.Manual)
	rings, places, _, err := c.placed(followed, byHand, false)
	return ringPlans(rings, places), err
}

// ringsIn are those of a release.
func ringsIn(m *fleet.Manifest) []RingPlan {
	places := map[string]place{}
	for h, e := range m.Hosts {
		places[h] = place{e.Ring, e.Batch}
	}
	return ringPlans(m.Rings, places)
}

func ringPlans(rings []fleet.Ring, places map[string]place) (plans []RingPlan) {
	for _, r := range rings {
		p := RingPlan{Ring: r, Hosts: []string{}}
		for _, h := range slices.Sorted(maps.Keys(places)) {
			if places[h].ring == r.Name {
				p.Hosts = append(p.Hosts, h)
			}
		}
		plans = append(plans, p)
	}
	return plans
}

// ringChanges says what of the rings is another than before.
func ringChanges(before, after []RingPlan) (lines []string) {
	was, is := map[string]RingPlan{}, map[string]RingPlan{}
	from, to := map[string]string{}, map[string]string{}
	order := func(all []RingPlan, by map[string]RingPlan, of map[string]string) (names []string) {
		for _, r := range all {
			by[r.Name] = r
			names = append(names, r.Name)
			for _, h := range r.Hosts {
				of[h] = r.Name
			}
		}
		return names
	}
	then, now := order(before, was, from), order(after, is, to)
	if !slices.Equal(then, now) {
		lines = append(lines, fmt.Sprintf("rings are %s, and were %s", orNone(now), orNone(then)))
	}
	for _, r := range after {
		old, stayed := was[r.Name]
		if a, b := old.String(), r.String(); stayed && a != b {
			lines = append(lines, fmt.Sprintf("ring %s: %s, was %s", r.Name, b, a))
		}
	}
	for _, h := range slices.Sorted(maps.Keys(to)) {
		if from[h] != "" && from[h] != to[h] {
			lines = append(lines, fmt.Sprintf("%s: ring %s, was in %s", h, to[h], from[h]))
		}
	}
	return lines
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// String says what a ring is like, but for its name.
func (r RingPlan) String() string {
	return strings.Join(append([]string{plural(len(r.Hosts), "host")}, r.Asked()...), ", ")
}

// ringLines say which rings a release goes through, and what of that is new.
func (c *Changes) ringLines() []string {
	if len(c.Rings) == 0 && len(c.RingsChanged) == 0 {
		return nil
	}
	var names []string
	for _, r := range c.Rings {
		names = append(names, fmt.Sprintf("%s (%s)", r.Name, r))
	}
	return append([]string{"", "rings: " + orNone(names)}, c.RingsChanged...)
}
