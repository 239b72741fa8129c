package notify

import (
	"fmt"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// about is what commands are about.
type about struct {
	host, release, tip string
	failed             *fleet.Failure
	run                int64
	by                 string // who ran CI, if not the hub
	where              string // a drill was
	sender             string
}

// inClone is where orders about the roll-out are typed.
const inClone = "  # in a clone, or on the hub's page"

// commands are the next to type for somebody who is told of an alert of that kind: the one catalogue of them. What stands after # says where.
func (l Limits) commands(kind fleet.AlertKind, a about) []string {
	hub := ""
	if l.Hub != "" {
		hub = " --hub " + l.Hub
	}
	ask := func(command string) string { return fmt.Sprintf("garrison %s --host %s%s", command, a.host, hub) }
	there := func(command string) string { return command + "  # on " + a.host }
	onHub := func(command string) string { return command + "  # on the hub" }
	number, isRelease := fleet.TagNumber(a.release)
	logs := "logs"
	if isRelease {
		logs = fmt.Sprint("logs ", number)
	}
	switch kind {
	case fleet.AlertRelease:
		if a.by == "" && a.run > 0 {
			return []string{fmt.Sprintf("garrison hub log %d%s", a.run, hub), "garrison check  # in a checkout of that commit"}
		}
		return []string{"garrison hub runs" + hub, "garrison check  # in a checkout of that commit"}
	case fleet.AlertDeployment:
		list := []string{ask("explain"), ask(logs)}
		if a.failed != nil && a.failed.Code == fleet.CodeRollback {
			return append(list, there("garrison rollback"))
		}
		return append(list, there("garrison retry"))
	case fleet.AlertRetrying:
		return []string{ask("explain"), ask(logs), there("garrison retry")}
	case fleet.AlertRefused:
		return []string{ask("explain"), "git log --show-signature -3 " + a.tip, there("garrison agent accept " + a.tip)}
	case fleet.AlertSilent:
		return []string{ask("status"), there("systemctl status garrison-agent"), there("journalctl -u garrison-agent -n 50")}
	case fleet.AlertFetch, fleet.AlertPush:
		return []string{ask("explain"), there("garrison doctor")}
	case fleet.AlertDrift:
		return []string{ask("explain"), ask("diff"), there("garrison deploy release-N")}
	case fleet.AlertReboot:
		return []string{ask("explain"), there("journalctl -b -p err")}
	case fleet.AlertCredential:
		if a.host == "" {
			return []string{onHub("journalctl -u garrison-hub -p warning -n 50"), onHub("systemctl restart garrison-hub")}
		}
		return []string{ask("explain"), there("garrison doctor")}
	case fleet.AlertDisk:
		if a.host == "" {
			return []string{onHub("df -h"), "garrison cache list"}
		}
		return []string{there("df -h"), there("nix-collect-garbage --delete-older-than 30d")}
	case fleet.AlertClock:
		return []string{ask("explain"), there("timedatectl set-ntp true")}
	case fleet.AlertDrill:
		if a.where != "live" {
			return []string{"garrison drill"}
		}
		const here = "  # in a clone of the fleet's repository"
		drill := "garrison drill --live " + a.host
		return []string{ask("explain"), drill + hub + here, drill + " --revert" + here}
	case fleet.AlertRollout:
		if a.host == "" {
			return []string{"garrison status" + hub, onHub("journalctl -u garrison-hub -p warning -n 50")}
		}
		return []string{ask("explain"), ask(logs), "garrison rollout resume --reason WHY" + inClone, "garrison rollout abort --reason WHY" + inClone}
	case fleet.AlertLate:
		return []string{"garrison status" + hub}
	case fleet.AlertFollow:
		return []string{onHub("journalctl -u garrison-hub -p warning -n 50")}
	case fleet.AlertDelivery:
		return []string{"garrison notify test " + a.sender + hub}
	}
	return nil
}
