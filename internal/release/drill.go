package release

import (
	"maps"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Drill says how garrison drill --live looks at the fleet. The commands are run where the drill is, by whoever drills.
type Drill struct {
	CacheKey string           `toml:"cacheKey"` // public key that the cache's paths must be signed with
	Hosts    map[string]Probe `toml:"hosts"`
}

// Probe is how a host is looked at by commands.
type Probe struct {
	SSH string   `toml:"ssh"` // root@host
	Via []string `toml:"via"` // in place of ssh: a program and its arguments; the command for the host follows as one more
	// Commands for a shell on the host: what prints the store path of the running system, the text of the drill's marker, and what was said last.
	System string `toml:"system"`
	Marker string `toml:"marker"`
	Log    string `toml:"log"`
}

// DefaultProbe is that of a host which the file does not name.
func DefaultProbe(host string) Probe { return Probe{SSH: "root@" + host}.filled() }

// filled has the defaults for what is not set.
func (p Probe) filled() Probe {
	for _, d := range []struct {
		command *string
		text    string
	}{{&p.System, "readlink -f /run/current-system"}, {&p.Marker, "cat /etc/gitops-test"}, {&p.Log, "journalctl --no-pager --output=cat --lines=300"}} {
		if *d.command == "" {
			*d.command = d.text
		}
	}
	if len(p.Via) == 0 {
		// Nobody is asked anything, no connection outlives the drill, and none of the person's port forwardings is set up.
		p.Via = []string{"ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ControlMaster=no", "-o", "ClearAllForwardings=yes", "--", p.SSH}
	}
	return p
}

// check fills in defaults, and says what is wrong.
func (d *Drill) check(name string) error {
	for _, host := range slices.Sorted(maps.Keys(d.Hosts)) {
		p := d.Hosts[host]
		if p.SSH == "" && len(p.Via) == 0 {
			p.SSH = "root@" + host
		}
		if p.SSH != "" && len(p.Via) > 0 || strings.HasPrefix(p.SSH, "-") || len(p.Via) > 0 && p.Via[0] == "" {
			return fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: drill.hosts.%s takes ssh, a user and host, or via, a program and its arguments, not both", name, host).
				WithHint("write ssh = \"root@%s\"", host)
		}
		d.Hosts[host] = p.filled()
	}
	return nil
}
