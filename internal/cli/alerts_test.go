package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/notify"
)

// TestAlertsCommands: what people are told to type is a command of ours, with flags that it has.
func TestAlertsCommands(t *testing.T) {
	now := time.Now()
	failure := &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeRollback, Message: "m"}
	long := fleet.Contact{Failure: failure, Since: now.Add(-24 * time.Hour)}
	low := []fleet.Disk{{Of: "store", FreeBytes: 1, TotalBytes: 1 << 40}}
	ends := []fleet.Credential{{Name: "git", Ends: now}}
	all := fleet.Status{Host: "web1", At: now, Phase: fleet.PhaseHeld, Target: &fleet.Target{Release: fleet.ReleaseRef{Number: 412}}, Failure: failure, Drift: true, Reboot: &fleet.Reboot{Failure: failure},
		Refused: &fleet.Refusal{Tip: strings.Repeat("a", 40), Failure: *failure}, Remote: long, Pushing: 1, Push: long, Disks: low, Credentials: ends, Seen: &fleet.Seen{}, ClockOffSeconds: 3600}
	stuck, silent := all, all
	stuck.Phase, stuck.Host, stuck.Attempt = fleet.PhaseRetrying, "web2", 2
	silent.Host, silent.Seen = "web3", &fleet.Seen{Silent: &now}
	limits := notify.Defaults()
	limits.Hub = "https://hub.example.org"
	found := limits.Assess(notify.Facts{Now: now, Hosts: []fleet.Status{all, stuck, silent}, Disks: low, Own: ends, Follower: &long,
		Runs:    []fleet.Run{{ID: 3, State: fleet.RunFailed, EndedAt: &now}, {ID: 2, By: "ci", State: fleet.RunFailed, EndedAt: &now, Source: fleet.Source{Branch: "main"}}},
		Drills:  []fleet.DrillReport{{Where: "sandbox"}},
		Rollout: &fleet.Rollout{At: now, Release: 412, LateSince: &now, Trouble: failure, Rings: []fleet.RolloutRing{{State: fleet.RolloutStopped, Offered: 412, Failed: fleet.Named{Count: 1, Names: []string{"web1"}}}}},
		Pending: []fleet.Delivery{{ID: 1, Sender: "mail", Attempts: 1}}})
	kinds := map[fleet.AlertKind]bool{}
	for _, c := range found {
		kinds[c.Kind] = true
		for _, command := range c.Commands {
			line, _, _ := strings.Cut(command, "  # ")
			words := strings.Fields(line)
			if words[0] != "garrison" {
				continue
			}
			cmd, args, err := (&app{}).root().Find(words[1:])
			if err == nil {
				err = cmd.ParseFlags(args)
			}
			if err == nil && cmd.Args != nil {
				err = cmd.Args(cmd, cmd.Flags().Args())
			}
			if err != nil || !cmd.Runnable() {
				t.Errorf("%s says %q: %v", c.Kind, command, err)
			}
		}
	}
	for _, k := range fleet.AlertKinds() {
		if !kinds[k] {
			t.Errorf("there is no %s among them", k)
		}
	}
}
