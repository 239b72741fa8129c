package notify

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// rollout looks at whether releases go through the rings. What a person paused or froze is as that person wants it.
func (l Limits) rollout(f Facts) (all []Condition) {
	v := f.Rollout
	if v == nil || v.Release == 0 || len(v.Rings) == 0 {
		return nil
	}
	for _, r := range v.Rings {
		if r.State == fleet.RolloutStopped && r.Failed.Count+r.Silent.Count > 0 {
			all = append(all, l.paused(f, r))
		}
	}
	if t := v.Trouble; t != nil && t.Class != fleet.Transient {
		c := Condition{Kind: fleet.AlertRollout, Severity: fleet.Critical, Key: key(fleet.AlertRollout, "hub"), Since: v.At, Detail: detail(t), Commands: l.commands(fleet.AlertRollout, about{})}
		c.What = "the hub gives no ring a release: " + string(t.Code)
		all = append(all, c)
	}
	if v.LateSince != nil {
		c := Condition{Kind: fleet.AlertLate, Severity: fleet.Warning, Release: fleet.TagName(v.Release), Since: *v.LateSince, Commands: l.commands(fleet.AlertLate, about{})}
		c.Key = key(c.Kind, c.Release)
		c.What = fmt.Sprintf("the roll-out of %s %s, since %s", c.Release, fleet.RolloutLate, clock(*v.LateSince))
		var lines []string
		for _, r := range v.Rings {
			if r.State != fleet.RolloutDone {
				lines = append(lines, fmt.Sprintf("ring %s: %s", r.Name, r.Lasting()))
			}
		}
		c.Detail = bounded(strings.Join(lines, "\n"))
		all = append(all, c)
	}
	return all
}

// paused is of a ring that lets a release go no further.
func (l Limits) paused(f Facts, r fleet.RolloutRing) Condition {
	c := Condition{Kind: fleet.AlertRollout, Severity: fleet.Critical, Release: fleet.TagName(r.Offered), Since: f.Rollout.At}
	c.Key = key(c.Kind, r.Name, c.Release)
	var lines []string
	first := ""
	for _, g := range []fleet.Group{{Standing: "failed", Named: r.Failed}, {Standing: "silent", Named: r.Silent}} {
		if g.Count == 0 {
			continue
		}
		lines = append(lines, g.Standing+": "+g.Some(mostNamed))
		if len(g.Names) > 0 {
			first = cmp.Or(first, g.Names[0])
		}
	}
	c.What = fleet.RingStops(c.Release, r.Name) + ": " + strings.Join(lines, "; ")
	if r.Reason != "" {
		lines = append(lines, r.Reason)
	}
	for _, s := range f.Hosts {
		if s.Host == first && s.Failure != nil {
			lines = append(lines, s.Host+": "+detail(s.Failure))
		}
	}
	c.Detail = bounded(strings.Join(lines, "\n"))
	c.Commands = l.commands(c.Kind, about{host: first, release: c.Release})
	return c
}
