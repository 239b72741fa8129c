package agent_test

import (
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// byHand does what nixos-rebuild switch does: the profile first, then the switch.
func (b *box) byHand(variant string) {
	b.t.Helper()
	b.must("nix-env --profile /nix/var/nix/profiles/system --set " + b.lab.out(variant) + " && " + b.lab.out(variant) + "/bin/switch-to-configuration switch")
}

// What somebody switches by hand is seen at once, left alone until a release newer than the one overruled brings another system, and over
// when it is switched back.
func TestDriftIsLeftAlone(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true, config: "fetchTime = \"30s\""})
	b.deploy("good1")
	b.deploy("good2")
	// The poll is slow, so that it is not what notices.
	b.must("busybox sed -i 's/^poll.*/poll = \"600s\"/' /etc/garrison/agent.toml")
	b.restartAgent()
	b.phase(fleet.PhaseIdle, "good2")
	b.byHand("good1")
	b.phase(fleet.PhaseOverruled, "good2")
	b.await("both the profile and what runs were seen", func(s fleet.Status) bool {
		return s.Drift && s.Drifted != nil && s.Drifted.Current == b.lab.out("good1")
	})
	b.says(4, "overruled: runs what somebody switched to by hand", "DRIFT", "(since ")
	b.orders(0, "explain", "to which somebody switched it by hand", "→ garrison deploy release-2")
	log, err := b.host.ReadFile("/var/log/agent.log")
	if err != nil || !strings.Contains(string(log), "DRIFT: somebody switched this host by hand") {
		t.Errorf("the log does not say so: %v", err)
	}
	n := b.publish("good2") // others changed
	b.await("seen", func(s fleet.Status) bool { return s.Newest.Number == n })
	b.restartAgent()
	b.phase(fleet.PhaseOverruled, "good2")
	b.runs("good1")
	b.byHand("good2")
	b.phase(fleet.PhaseIdle, "good2")
	b.says(0)
	b.byHand("good1")
	b.phase(fleet.PhaseOverruled, "good2")
	b.deploy("good3")
	b.says(0)
	b.byHand("good1")
	b.phase(fleet.PhaseOverruled, "good3")
	b.orders(0, "rollback", "turning to release-4") // to what was confirmed
	b.phase(fleet.PhaseIdle, "good3")
	b.runs("good3")
	if acts := strings.Join(b.acts(), " "); strings.Count(acts, "switched") < 3 {
		t.Errorf("acts: %s", acts)
	}
	// What is deployed by hand is taken for deployed.
	b.orders(0, "suspend --reason test --for 1h")
	b.publish("good1")
	b.phase(fleet.PhaseWaiting, "good3")
	b.byHand("good1")
	b.phase(fleet.PhaseIdle, "good1")
}

// Where the configuration says so, it is switched back, but not for ever.
func TestDriftIsCorrected(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true, config: "onDrift = \"correct\"\ncorrectAfter = \"1s\""})
	b.deploy("good1")
	b.deploy("good2")
	for range 3 {
		b.byHand("good1")
		b.await("corrected", func(s fleet.Status) bool {
			return s.Phase == fleet.PhaseIdle && s.Systems.Current == b.lab.out("good2") && s.Systems.Profile == b.lab.out("good2")
		})
		b.runs("good2")
	}
	b.byHand("good1")
	b.phase(fleet.PhaseHeld, "good2")
	b.says(3, "somebody switched this host by hand again after it had been corrected three times", "→ find out who does")
	b.runs("good1")
	b.orders(0, "retry")
	b.phase(fleet.PhaseIdle, "good2")
	b.runs("good2")
	b.says(0)

	// Somebody else's switch under way is not disturbed: its lock is respected, and the correction tried again.
	holder := b.host.Command(testContext(t), "flock", "/run/nixos/switch-to-configuration.lock", "sh", "-c", "ln -sfn "+b.lab.out("good1")+" /run/current-system.x; busybox mv -T /run/current-system.x /run/current-system; read x")
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	b.await("tried later", func(s fleet.Status) bool { return s.Phase == fleet.PhaseRetrying && s.Failure.Code == fleet.CodeBusy })
	_ = stdin.Close()
	_ = holder.Wait()
	b.phase(fleet.PhaseIdle, "good2")
	b.runs("good2")
}
