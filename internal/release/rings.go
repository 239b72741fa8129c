package release

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// RingConfig is one of garrison.toml's [[rings]] (docs/ROLLOUT.md).
type RingConfig struct {
	Name     ringName        `toml:"name"`
	Hosts    []ringHost      `toml:"hosts"`
	Soak     soakTime        `toml:"soak"`
	AtOnce   atOnce          `toml:"atOnce"`
	Failures int             `toml:"failures"`
	Windows  []deploy.Window `toml:"windows"`
	Zone     zone            `toml:"zone"`
	Promote  promotion       `toml:"promote"`
	Drill    int             `toml:"drill"`
	Reboots  int             `toml:"reboots"`
}

// The kinds of values read themselves, so that an error names the line. They are structs, as what is a string or a number besides is taken as it is.
type (
	ringName  struct{ string }
	ringHost  struct{ string } // a host's name, a pattern of path.Match, or tagPrefix and a tag
	soakTime  struct{ time.Duration }
	zone      struct{ string } // as in the IANA's database
	promotion struct{ string } // "", promoteAuto or promoteManual
	// atOnce is how many hosts of a ring get a release at a time: a number, or a part of them; the zero value is all.
	atOnce struct{ hosts, percent int }
)

const (
	tagPrefix     = "tag:"
	promoteAuto   = "auto"
	promoteManual = "manual"
)

// UnmarshalText reads the name of a ring.
func (n *ringName) UnmarshalText(b []byte) error {
	if !fleet.ValidRingName(string(b)) {
		return fmt.Errorf("%q cannot be a ring's name: use small letters, digits and hyphens, the first and the last no hyphen, and no name that ends in -test", b)
	}
	n.string = string(b)
	return nil
}

// UnmarshalText reads what names hosts of a ring.
func (h *ringHost) UnmarshalText(b []byte) error {
	_, err := path.Match(string(b), "")
	if tag, isTag := strings.CutPrefix(string(b), tagPrefix); err != nil || len(b) == 0 || isTag && tag == "" {
		return fmt.Errorf("%q names no hosts: write a host's name, a pattern like \"web-*\", or \"tag:NAME\"", b)
	}
	h.string = string(b)
	return nil
}

// UnmarshalText reads a time, also of days.
func (s *soakTime) UnmarshalText(b []byte) error {
	d, err := tomlfile.ParseDays(string(b))
	if err != nil || d > fleet.MaxRingSoak || d%time.Second != 0 {
		return fmt.Errorf("%q is not a soak time like \"30m\", \"2h\" or \"1d\", of whole seconds and at most %d days", b, fleet.MaxRingSoak/24/time.Hour)
	}
	s.Duration = d
	return nil
}

// UnmarshalText reads a number of hosts, or a percentage.
func (a *atOnce) UnmarshalText(b []byte) error {
	number, isPart := strings.CutSuffix(string(b), "%")
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || isPart && n > 100 {
		return fmt.Errorf("%q is not how many hosts get a release at once: write a number from 1 on, or \"1%%\" to \"100%%\"", b)
	}
	if *a = (atOnce{hosts: n}); isPart {
		*a = atOnce{percent: n}
	}
	return nil
}

// UnmarshalText reads a time zone's name.
func (z *zone) UnmarshalText(b []byte) error {
	if _, err := time.LoadLocation(string(b)); err != nil || len(b) == 0 || string(b) == "Local" {
		return fmt.Errorf("%q is not a time zone like \"Europe/Berlin\" or \"UTC\"", b)
	}
	z.string = string(b)
	return nil
}

// UnmarshalText reads who gives a ring its releases.
func (p *promotion) UnmarshalText(b []byte) error {
	if s := string(b); s != promoteAuto && s != promoteManual {
		return fmt.Errorf("%q is neither %q nor %q", b, promoteAuto, promoteManual)
	}
	p.string = string(b)
	return nil
}

// maxCount bounds numbers of hosts and of days.
const maxCount = 1 << 20

// checkRings says what is wrong with the rings, whatever hosts there are.
func (c Config) checkRings(name string) error {
	bad := func(format string, args ...any) *fleet.Error {
		return fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: %s", name, fmt.Sprintf(format, args...))
	}
	if len(c.Rings) > fleet.MaxRings {
		return bad("there are %d rings, at most %d are allowed", len(c.Rings), fleet.MaxRings)
	}
	seen := map[string]bool{}
	for i, r := range c.Rings {
		switch {
		case r.Name.string == "":
			return bad("rings[%d] has no name", i)
		case seen[r.Name.string]:
			return bad("two rings are called %q", r.Name.string)
		case len(r.Hosts) == 0 && i < len(c.Rings)-1:
			return bad("the ring %s names no hosts", r.Name.string).WithHint("write hosts = [\"…\"]: names, patterns like \"web-*\", or \"tag:NAME\"; only the last ring may do without, and has the rest")
		case r.Zone.string != "" && len(r.Windows) == 0:
			return bad("the ring %s has a zone, but no windows", r.Name.string)
		}
		for key, n := range map[string]int{"failures": r.Failures, "drill": r.Drill, "reboots": r.Reboots} {
			if n < 0 || n > maxCount {
				return bad("%s of the ring %s is %d, and must be from 0 to %d", key, r.Name.string, n, maxCount)
			}
		}
		seen[r.Name.string] = true
	}
	return nil
}

// RingNames are the rings' names, in their order.
func (c Config) RingNames() []string {
	names := make([]string, len(c.Rings))
	for i, r := range c.Rings {
		names[i] = r.Name.string
	}
	return names
}

// place is where a host is in a release's rings.
type place struct {
	ring  string
	batch int
}

// matches says whether an entry of a ring's hosts means a host, and whether it is written as a name.
func (h ringHost) matches(host nix.Host) (ok, isName bool) {
	if tag, isTag := strings.CutPrefix(h.string, tagPrefix); isTag {
		return slices.Contains(host.Tags, tag), false
	}
	ok, _ = path.Match(h.string, host.Name)
	return ok, !strings.ContainsAny(h.string, `*?[\`)
}

// placed puts the hosts that agents deploy into the rings, which it returns as a release says them. The first ring that names a host has it, the last one those
// that none names. In idle are entries that mean no host of followed. Where an older commit is released again (back), it may lack hosts and tags that the rings name, and all
// hosts of a ring.
func (c Config) placed(followed, byHand []nix.Host, back bool) (rings []fleet.Ring, places map[string]place, idle []string, err error) {
	if len(c.Rings) == 0 {
		return nil, nil, nil, nil
	}
	members := make([][]string, len(c.Rings))
	places = map[string]place{}
	for i, r := range c.Rings {
		for _, entry := range r.Hosts {
			meant, known, isName := false, false, false
			for _, h := range followed {
				var ok bool
				ok, isName = entry.matches(h)
				meant = meant || ok
				if _, taken := places[h.Name]; ok && !taken {
					places[h.Name] = place{ring: r.Name.string}
					members[i] = append(members[i], h.Name)
				}
			}
			for _, h := range byHand {
				ok, _ := entry.matches(h)
				known = known || ok
			}
			if !meant && !known && !back && (isName || strings.HasPrefix(entry.string, tagPrefix)) {
				return nil, nil, nil, c.unknownEntry(r, entry, followed, byHand)
			}
			if !meant {
				idle = append(idle, fmt.Sprintf("the ring %s names %q, which no host is that an agent deploys", r.Name.string, entry.string))
			}
		}
	}
	last := len(c.Rings) - 1
	for _, h := range followed {
		if _, taken := places[h.Name]; !taken {
			places[h.Name] = place{ring: c.Rings[last].Name.string}
			members[last] = append(members[last], h.Name)
		}
	}
	steps := 0
	for i, r := range c.Rings {
		if len(members[i]) == 0 && i < last && !back {
			return nil, nil, nil, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: the ring %s has no host: what it names, an earlier ring has, or nobody is", ConfigPath, r.Name.string).
				WithHint("a release would be on no host before the next ring gets it: name hosts, or remove the ring")
		}
		if len(members[i]) == 0 {
			continue // all hosts were named
		}
		ring, size := r.ring(len(members[i]))
		slices.Sort(members[i])
		for k, h := range members[i] {
			places[h] = place{ring: ring.Name, batch: k/size + 1}
		}
		if steps += ring.Batches; ring.Batches > fleet.MaxBatches || steps > maxSteps {
			return nil, nil, nil, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: the ring %s would get a release in %d parts, at most %d of a ring and %d of all are allowed", ConfigPath, r.Name.string, ring.Batches, fleet.MaxBatches, maxSteps).
				WithHint("raise its atOnce")
		}
		rings = append(rings, ring)
	}
	return rings, places, idle, nil
}

// withoutRings says which hosts' agents are of a Garrison that does not know rings: they would take each release at once.
func withoutRings(followed []nix.Host) (told []string) {
	for _, h := range followed {
		if h.Agent.Enable && !h.Agent.Rings {
			told = append(told, fmt.Sprintf("host %s gets an agent that does not know rings, and would take each release at once: update the flake's input for Garrison, and release that first", h.Name))
		}
	}
	return told
}

// maxSteps bounds the batches of all rings: each is a branch, and one push may move them all.
const maxSteps = 4000

// ring is r as a release says it, when it has so many hosts; size is how many of them a batch has.
func (r RingConfig) ring(hosts int) (ring fleet.Ring, size int) {
	size = hosts
	if r.AtOnce.hosts > 0 {
		size = min(size, r.AtOnce.hosts)
	}
	if r.AtOnce.percent > 0 {
		size = max(1, hosts*r.AtOnce.percent/100)
	}
	ring = fleet.Ring{Name: r.Name.string, Batches: (hosts + size - 1) / size, SoakSeconds: int64(r.Soak.Duration / time.Second), Failures: r.Failures,
		Zone: r.Zone.string, Manual: r.Promote.string == promoteManual, DrillDays: r.Drill, Reboots: r.Reboots}
	for _, w := range r.Windows {
		text, _ := w.MarshalText() // it never fails
		ring.Windows = append(ring.Windows, string(text))
	}
	return ring, size
}

// unknownEntry says that a ring names a host or a tag that is not there.
func (c Config) unknownEntry(r RingConfig, entry ringHost, followed, byHand []nix.Host) error {
	var names, tags []string
	for _, h := range slices.Concat(followed, byHand) {
		names = append(names, h.Name)
		tags = append(tags, h.Tags...)
	}
	slices.Sort(names)
	slices.Sort(tags)
	tags = slices.Compact(tags)
	e := fleet.Errorf(fleet.Bad, fleet.CodeNoSuchHost, "%s: the ring %s names %s, which the flake does not have", ConfigPath, r.Name.string, entry.string)
	switch {
	case !strings.HasPrefix(entry.string, tagPrefix):
		return e.WithHint("its nixosConfigurations are: %s", strings.Join(names, ", "))
	case len(tags) == 0:
		return e.WithHint("no host has a tag: set services.garrison.tags = [ \"%s\" ]", strings.TrimPrefix(entry.string, tagPrefix))
	}
	return e.WithHint("its hosts' tags (services.garrison.tags) are: %s", strings.Join(tags, ", "))
}
