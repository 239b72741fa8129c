package agent_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// undone checks that a release was rolled back for a reason, is held, and what runs is as before.
func (b *box) undone(number int, runs string, code fleet.Code, why ...string) fleet.Status {
	b.t.Helper()
	s := b.awaitFor(80*time.Second, fmt.Sprintf("release-%d is undone", number), func(s fleet.Status) bool {
		return s.Last != nil && s.Last.Release.Number == number && s.Phase != fleet.PhaseActivating
	})
	if s.Last.Result != fleet.RolledBack || s.Phase != fleet.PhaseHeld || s.Failure.Code != code || s.Failure.Class != fleet.Bad {
		b.t.Errorf("release-%d: %s, phase %s, %+v", number, s.Last.Result, s.Phase, s.Failure)
	}
	for _, w := range why {
		if s.Failure == nil || !strings.Contains(s.Failure.Message, w) {
			b.t.Errorf("release-%d: it does not say %q: %+v", number, w, s.Failure)
		}
	}
	b.runs(runs)
	return s
}

// TestExitCodes takes every way in which switch-to-configuration may end, on both kinds of hosts. That a unit failed before is
// what makes it end with 4 in TestSystemd, and 11 is TestLockHeldByAnotherSwitch's.
func TestExitCodes(t *testing.T) {
	for _, kind := range []string{"sandbox", "systemd"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, boxOptions{systemd: kind == "systemd"})
			b.deploy("good1") // 0
			b.undone(b.publish("refuses"), "good1", fleet.CodeActivate, "exited with 1 before the new system ran", "not today")
			b.undone(b.publish("exits1"), "good1", fleet.CodeActivate, "switch-to-configuration exited with 1")
			b.undone(b.publish("fails"), "good1", fleet.CodeActivate, "exited with 2 (its activation script failed)", "the valve is stuck")
			b.undone(b.publish("exits101"), "good1", fleet.CodeActivate, "exited with 101")
			b.undone(b.publish("dies"), "good1", fleet.CodeActivate, "was killed")
			if kind == "systemd" {
				b.undone(b.publish("broken"), "good1", fleet.CodeCheck, "gitops-demo.service failed in the new system") // 4
				b.lockHeld()
			}
			b.deploy("good2")
			if s := b.ended(b.publish("reboot")); s.Last.Result != fleet.RebootNeeded || s.Phase != fleet.PhaseReboot { // 100
				t.Errorf("%s, phase %s, %+v", s.Last.Result, s.Phase, s.Failure)
			}
			b.systems("good2", "reboot")
		})
	}
}

// lockHeld deploys while another switch is at work: 11. It is tried again when that is over.
func (b *box) lockHeld() {
	b.t.Helper()
	holder := b.host.Command(testContext(b.t), "sh", "-c", "exec 9> /run/nixos/switch-to-configuration.lock; flock 9; : > /run/locked; while [ -e /run/locked ]; do sleep 0.05; done")
	if err := holder.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.eventually("the lock is held", func() bool { there, _ := b.host.Exists("/run/locked"); return there })
	n := b.publish("good3")
	if s := b.ended(n); s.Last.Result != fleet.NotActivated || s.Phase != fleet.PhaseRetrying || s.Failure.Code != fleet.CodeBusy || s.Failure.Class != fleet.Transient {
		b.t.Errorf("%s, phase %s, %+v", s.Last.Result, s.Phase, s.Failure)
	}
	b.must("rm /run/locked")
	_ = holder.Wait()
	b.await("it is tried again", func(s fleet.Status) bool {
		return s.Phase == fleet.PhaseIdle && s.Last.Release.Number == n && s.Last.Result == fleet.Committed
	})
	b.runs("good3")
}

// TestUnits judges units of a real systemd, each in its own way of failing or taking long.
func TestUnits(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	b.undone(b.publish("oneshot"), "good1", fleet.CodeCheck, "gitops-demo.service failed in the new system")
	b.deploy("flaky") // fails once, and is started again
	slow := b.publish("slow")
	s := b.awaitFor(60*time.Second, "the slow unit is waited for", func(s fleet.Status) bool {
		return s.Last.Release.Number == slow && s.Phase == fleet.PhaseIdle
	})
	if s.Last.Result != fleet.Committed {
		t.Errorf("%+v", s.Last)
	}
	b.runs("slow")
	b.undone(b.publish("slowfails"), "slow", fleet.CodeCheck, "slow.service failed in the new system")
}

// TestDeclaredChecks has a host declare checks of each kind, good and bad.
func TestDeclaredChecks(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	b.deploy("checked")
	b.deploy("unitchecked")
	runs := "unitchecked"
	b.undone(b.publish("badcommand"), runs, fleet.CodeCheck, `check "own" failed: /bin/sh: exit status 7`, "the pump is off")
	b.undone(b.publish("badhttp"), runs, fleet.CodeCheck, `check "web" failed: `+hubURL+"/nowhere answers with status 404")
	b.undone(b.publish("badtcp"), runs, fleet.CodeCheck, `check "door" failed: `, "refused")
	b.undone(b.publish("badunit"), runs, fleet.CodeCheck, `check "valve" failed: valve.service is inactive`)
	b.says(3, "held", `check "valve" failed`, "services.garrison.checks")
	b.undone(b.publish("hangs"), runs, fleet.CodeCheck, `check "own" failed: /bin/sh was killed`, "20s for all checks are over")
	if left := b.must("for p in /proc/[0-9]*; do busybox tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep '^sleep 4000' || true; done"); left != "" {
		t.Errorf("the hanging check lives on: %s", left)
	}

	// A helper that died in the middle of the checks: nothing was confirmed.
	s, steps := b.crash("checked", "in-check", b.killHelper)
	if s.Last.Result != fleet.RolledBack || s.Failure.Code != fleet.CodeInterrupted || len(steps) != 3 {
		t.Errorf("%+v: %s, %+v", steps, s.Last.Result, s.Failure)
	}
	b.runs(runs)
}

// TestWedgedSystemd stops systemd itself while the new system is checked: it answers nobody any more. The deadline
// rolls back all the same.
func TestWedgedSystemd(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	b.shut("in-check")
	n := b.publish("checked")
	b.reached("in-check")
	pid, err := strconv.Atoi(strings.Split(b.host.Path("/"), "/")[2])
	if err != nil {
		t.Fatal(err)
	}
	systemd, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := systemd.Signal(stopped); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = systemd.Signal(continued) }()
	b.open("in-check")
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if steps := b.journal(n); len(steps) > 0 && steps[len(steps)-1].Step == "rollback" {
			break
		} else if time.Now().After(end) {
			t.Fatalf("it is not rolled back: %+v", steps)
		}
	}
	if err := systemd.Signal(continued); err != nil {
		t.Fatal(err)
	}
	b.undone(n, "good1", fleet.CodeCheck, "systemd does not answer in the new system")
}

// TestConnectivity cuts a host off by a release, and by what no release did. Only the first is held against one.
func TestConnectivity(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("connected")
	b.undone(b.publish("cutoff"), "connected", fleet.CodeCheck, "does not reach cache "+cacheURL+", which the one before it reached")
	b.says(3, "held", "does not reach cache")

	b.deploy("good2") // which does nothing about the network, as good1
	b.shut("after-test-good1")
	n := b.publish("good1")
	b.reached("after-test-good1")
	b.must("ip link set host0 down")
	b.open("after-test-good1")
	s := b.awaitFor(80*time.Second, "it is tried again", func(s fleet.Status) bool { return s.Last.Release.Number == n && s.Phase == fleet.PhaseIdle })
	first := b.history(n)
	if s.Last.Result != fleet.Committed || len(first) < 2 {
		t.Fatalf("%s after %d tries", s.Last.Result, len(first))
	}
	if f := first[len(first)-1]; f.Result != fleet.RolledBack || f.Failure.Class != fleet.Transient || !strings.Contains(f.Failure.Message, "the network is at fault") {
		t.Errorf("%s, %+v", f.Result, f.Failure)
	}
	b.runs("good1") // what was not reachable before does not count
}
