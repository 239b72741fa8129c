package agent_test

import (
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestFollowsByPollAlone(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{pollOnly: true})
	b.await("a look at the empty origin", func(s fleet.Status) bool { return !s.Remote.LastOK.IsZero() })
	b.says(3, "new: has not seen a release yet")
	b.deploy("good1")
	b.says(0, "idle: runs what the newest release says", "release-1")
	b.deploy("good2")
	if d := b.history(2); len(d) != 1 || d[0].Previous != b.lab.out("good1") || len(d[0].Stages) < 6 {
		t.Errorf("history: %+v", d)
	}
	n := b.publish("good2")
	b.await("an unchanged release is noted", func(s fleet.Status) bool { return s.Newest.Number == n && s.Phase == fleet.PhaseIdle })
	if d := b.history(n); len(d) != 0 {
		t.Errorf("an unchanged release was deployed: %+v", d)
	}
	b.publish("") // a release without this host
	b.await("the host is not in it", func(s fleet.Status) bool { return s.Phase == fleet.PhaseManual })
	b.says(3, "manual: is not in the newest release", "release-4 has no host joker", "nixosConfigurations")
	b.runs("good2")
	b.deploy("good1")
}

func TestActivationFails(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	n := b.publish("fails")
	if s := b.ended(n); s.Last.Result != fleet.RollbackFailed || !strings.Contains(s.Failure.Message, "had no system to go back to") {
		t.Errorf("on a host without a system: %s, %+v", s.Last.Result, s.Failure)
	}
	b.systems("fails", "")
	b.deploy("good1")
	n = b.publish("fails")
	s := b.ended(n)
	if s.Last.Result != fleet.RolledBack || s.Phase != fleet.PhaseHeld || s.Failure.Code != fleet.CodeActivate {
		t.Errorf("%s, phase %s, %+v", s.Last.Result, s.Phase, s.Failure)
	}
	b.runs("good1")
	b.says(3, "held: release-3 is bad for this host", "switch-to-configuration exited with 2 (its activation script failed)", "the valve is stuck", "→ its whole log")
	if out := b.must("garrison history"); !strings.Contains(out, "rolled-back") || !strings.Contains(out, "exited with 2") {
		t.Errorf("history:\n%s", out)
	}
	m := b.publish("fails") // others changed; this system is known to be bad
	b.await("still held", func(s fleet.Status) bool { return s.Newest.Number == m && s.Phase == fleet.PhaseHeld })
	if d := b.history(m); len(d) != 0 {
		t.Errorf("a bad system was tried again: %+v", d)
	}
	b.deploy("good2")
	b.says(0)
}

func TestUnhealthyIsRolledBack(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	if s := b.ended(b.publish("unhealthy")); s.Last.Result != fleet.RolledBack || s.Failure.Code != fleet.CodeCheck || s.Failure.Stage != fleet.Check {
		t.Errorf("%s, %+v", s.Last.Result, s.Failure)
	}
	b.runs("good1")
}

func TestReboot(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	if s := b.ended(b.publish("reboot")); s.Last.Result != fleet.RebootNeeded || s.Phase != fleet.PhaseReboot || s.Drift {
		t.Errorf("%s, phase %s, drift %v, %+v", s.Last.Result, s.Phase, s.Drift, s.Failure)
	}
	b.systems("good1", "reboot")
	b.says(3, "reboot: must be rebooted to run the newest release")
	// A bad release meanwhile leads back to what waits for the reboot.
	if s := b.ended(b.publish("fails")); s.Last.Result != fleet.RolledBack || s.Drift {
		t.Errorf("%s, drift %v", s.Last.Result, s.Drift)
	}
	b.systems("good1", "reboot")
	n := b.publish("reboot")
	b.await("the reboot is waited for again", func(s fleet.Status) bool { return s.Newest.Number == n && s.Phase == fleet.PhaseReboot })
	if err := b.host.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := b.host.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	b.await("idle after the reboot", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && !s.Drift })
	b.runs("reboot")
	b.says(0)
}

func TestLockHeldByAnotherSwitch(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	holder := b.host.Command(testContext(t), "flock", "/run/nixos/switch-to-configuration.lock", "sleep", "60")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	n := b.publish("good2")
	s := b.await("it is tried later", func(s fleet.Status) bool { return s.Phase == fleet.PhaseRetrying })
	if s.Last.Result != fleet.NotActivated || s.Failure.Code != fleet.CodeBusy {
		t.Errorf("%s, %+v", s.Last.Result, s.Failure)
	}
	b.says(3, "retrying: release-2 failed once, and is tried again at ", "another switch is under way")
	b.runs("good1")
	_ = holder.Process.Kill()
	_ = holder.Wait()
	b.must("for p in /proc/[0-9]*; do case $(busybox tr '\\0' ' ' < $p/cmdline 2>/dev/null) in 'sleep 60 ') kill ${p#/proc/};; esac; done")
	b.await("committed", func(s fleet.Status) bool {
		return s.Phase == fleet.PhaseIdle && s.Last.Release.Number == n && s.Last.Result == fleet.Committed
	})
	b.runs("good2")
}

// What somebody switches by hand is told, left alone, and ended by the next release that changes the host.
func TestDrift(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	b.deploy("good2")
	b.must(b.lab.out("good1") + "/bin/switch-to-configuration test")
	b.says(4, "DRIFT")
	b.systems("good1", "good2")
	b.deploy("good3")
	b.says(0)
}
