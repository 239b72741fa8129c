package notify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Group makes one condition of those that so many hosts have in common. Hosts that have been told of by themselves stay so, or
// people would be told of them twice; once a group is open, whoever else comes joins it.
func Group(found []Condition, open []fleet.Alert, from int) []Condition {
	isOpen := map[string]bool{}
	for _, a := range open {
		isOpen[a.Key] = true
	}
	common := map[string][]Condition{}
	for _, c := range found {
		if k := c.common(); k != "" {
			common[k] = append(common[k], c)
		}
	}
	var all []Condition
	for _, c := range found {
		k := c.common()
		if k == "" || isOpen[c.Key] || !isOpen[k] && len(common[k]) < from {
			all = append(all, c)
		}
	}
	for k, members := range common {
		if (isOpen[k] || len(members) >= from) && slices.ContainsFunc(members, func(c Condition) bool { return !isOpen[c.Key] }) {
			all = append(all, together(k, members))
		}
	}
	slices.SortFunc(all, func(a, b Condition) int { return strings.Compare(a.Key, b.Key) })
	return all
}

// common is the key of the group that a condition may be in.
func (c Condition) common() string {
	if c.Host == "" || c.Cause == "" {
		return ""
	}
	return key(c.Kind, "*", c.Cause)
}

func together(k string, members []Condition) Condition {
	c := members[0]
	first := c.Host
	var hosts []string
	for _, m := range members {
		hosts = append(hosts, m.Host)
		if m.Since.Before(c.Since) {
			c.Since = m.Since
		}
		if m.Severity == fleet.Critical {
			c.Severity = fleet.Critical
		}
		if m.Release != c.Release {
			c.Release = ""
		}
	}
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	c.Key, c.Host, c.Cause = k, "", ""
	c.What = fmt.Sprintf("%d hosts %s: %s", len(hosts), c.Of, few(hosts))
	if len(hosts) == 1 {
		c.What = "1 host is left of those that " + c.Of + ": " + hosts[0]
	}
	c.Detail = bounded(strings.Join(hosts, ", ") + "\n" + first + ": " + c.Detail)
	return c
}
