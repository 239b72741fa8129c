package agent_test

import (
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// pull follows the branch release as comin does, without a word of ours: it looks at the branch, evaluates and builds the
// host's system of its tip on the host, sets the profile, switches. A commit's subject says which of the fleet's hosts is meant.
const pull = `#!/bin/sh
set -eu
nix="nix --extra-experimental-features nix-command --extra-experimental-features flakes"
seen=$(cat /var/lib/pull/seen 2>/dev/null || true)
while sleep 0.2; do
  tip=$(git ls-remote file:///srv/fleet.git refs/heads/release | cut -f 1)
  [ -n "$tip" ] && [ "$tip" != "$seen" ] || continue
  git --git-dir /var/lib/pull/repo.git fetch --quiet file:///srv/fleet.git +refs/heads/release:refs/heads/release
  subject=$(git --git-dir /var/lib/pull/repo.git log -1 --format=%s "$tip")
  out=$($nix build --no-link --json "git+file:///var/lib/pull/repo.git?ref=release&rev=$tip#nixosConfigurations.${subject##* }.config.system.build.toplevel" |
    sed 's/.*"out":"\([^"]*\)".*/\1/')
  nix-env --profile /nix/var/nix/profiles/system --set "$out"
  "$out/bin/switch-to-configuration" switch || [ $? = 4 ]
  seen=$tip
  echo "$seen" > /var/lib/pull/seen
done
`

// TestMigration takes a host from a pulling script to Garrison, back, and to Garrison again, on a host with a real systemd: it is
// never rebooted, and nothing is deployed or restarted because of it.
func TestMigration(t *testing.T) {
	t.Parallel()
	l := needLab(t)
	b := newBox(t, boxOptions{systemd: true, noAgent: true, files: append(moduleHost(t, l.agentModule("")),
		sandbox.File{Path: "/opt/pull", Mode: 0o755, Data: []byte(pull)},
		sandbox.File{Path: "/etc/systemd/system/pull.service", Data: []byte("[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/opt/pull\nRestart=always\nRestartSec=1\nX-RestartIfChanged=false\n")})})
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := b.run("journalctl --no-pager -u pull -u garrison-agent | tail -80")
			t.Log(log)
		}
	})
	b.must("groupadd -f garrison; mkdir -p /var/lib/pull; git init --quiet --bare /var/lib/pull/repo.git; systemctl start pull")
	pulled := func(variant string) {
		t.Helper()
		b.publish(variant)
		b.eventually("the script has deployed "+variant, func() bool {
			seen, err := b.run("cat /var/lib/pull/seen")
			return err == nil && seen == b.tip
		})
		b.runs(variant)
	}
	// same is what neither a reboot nor a deployment leaves as it is.
	same := func() string {
		t.Helper()
		return b.must("cat /proc/sys/kernel/random/boot_id /run/booted; systemctl show -P InvocationID gitops-demo; ls /nix/var/nix/profiles; cat /proc/$(systemctl show -P MainPID gitops-demo)/stat | cut -d ' ' -f 22")
	}
	takesOver := func(deployed int) {
		t.Helper()
		before := same()
		b.must("systemctl stop pull; systemctl start garrison-agent")
		s := b.await("the agent knows the newest release", func(s fleet.Status) bool {
			return s.Newest != nil && s.Newest.Number == b.number && s.Phase == fleet.PhaseIdle
		})
		if s.Drift || s.Failure != nil || s.Active == nil || s.Active.OutPath != s.Systems.Current || s.Systems.Profile != s.Systems.Current {
			t.Errorf("after it took over: %+v", s)
		}
		b.says(0)
		if got := b.must("garrison history -o json | grep -c '\"result\"' || true"); got != string(rune('0'+deployed)) {
			t.Errorf("deployments in the history: %s, not %d\n%s", got, deployed, b.must("garrison history; journalctl --no-pager -u garrison-agent | tail -40"))
		}
		if after := same(); after != before {
			t.Errorf("taking over changed\n%s\nto\n%s", before, after)
		}
	}

	b.must("echo here > /run/booted") // gone after a reboot
	booted := b.must("cat /proc/sys/kernel/random/boot_id")
	pulled("good1")
	pulled("good2")

	takesOver(0)
	b.deploy("good3")
	if s := b.ended(b.publish("broken")); s.Last.Result != fleet.RolledBack {
		t.Errorf("a broken release: %s", s.Last.Result)
	}
	b.deploy("good1")

	// Back: the script begins with what it had seen last, finds a newer commit, and switches to what runs already.
	before := same()
	b.must("systemctl stop garrison-agent; systemctl start pull")
	b.eventually("the script has seen the release", func() bool { seen, err := b.run("cat /var/lib/pull/seen"); return err == nil && seen == b.tip })
	b.runs("good1")
	if after := same(); after != before {
		t.Errorf("going back changed\n%s\nto\n%s", before, after)
	}
	pulled("good2")

	takesOver(3)
	b.deploy("good3")
	if got := b.must("cat /proc/sys/kernel/random/boot_id /run/booted; systemctl is-active pull || true"); strings.Join(strings.Fields(got), " ") != booted+" here inactive" {
		t.Errorf("the host was rebooted, or the script runs: %s", got)
	}
}
