package agent_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestDriftOnSystemd switches by hand as nixos-rebuild does, in a transient unit, beside the agent of a host with a systemd, and rolls back
// there, too.
func TestDriftOnSystemd(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good3")
	b.deploy("good1")
	b.deploy("good2")
	service := func() string { return b.must("systemctl show -P ExecStart gitops-demo.service") }
	b.must("nix-env --profile /nix/var/nix/profiles/system --set " + b.lab.out("good3") +
		" && systemd-run --quiet --wait --collect --unit=nixos-rebuild-switch-to-configuration -E PATH=$PATH " + b.lab.out("good3") + "/bin/switch-to-configuration switch")
	b.phase(fleet.PhaseOverruled, "good2")
	b.says(4, "overruled: runs what somebody switched to by hand", "DRIFT")
	b.runs("good3")
	if got := service(); !strings.Contains(got, "good3") {
		t.Errorf("gitops-demo.service: %s", got)
	}
	b.orders(0, "rollback", "turning to release-3")
	b.phase(fleet.PhaseIdle, "good2")
	b.runs("good2")
	b.orders(0, "rollback --reason 'too new'", "turning to release-2")
	b.phase(fleet.PhaseOverruled, "good1")
	b.runs("good1")
	if got := service(); !strings.Contains(got, "good1") {
		t.Errorf("gitops-demo.service: %s", got)
	}
	// A reboot changes nothing of that.
	b.reboot()
	b.phase(fleet.PhaseOverruled, "good1")
	b.runs("good1")
	b.says(4, "(too new)")
	// What was only tested by hand, a reboot takes back.
	b.deploy("good3")
	b.must(b.lab.out("good1") + "/bin/switch-to-configuration test")
	b.phase(fleet.PhaseOverruled, "good3")
	b.reboot()
	b.phase(fleet.PhaseIdle, "good3")
	b.runs("good3")
	b.says(0)
}

func (b *box) reboot() {
	b.t.Helper()
	if err := errors.Join(b.host.Stop(testContext(b.t)), b.host.Start(testContext(b.t))); err != nil {
		b.t.Fatal(err)
	}
}

// A kernel is not switched: that the booted one is another is said, and left to a person where nothing else is configured.
func TestRebootIsNeeded(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("kernel1")
	b.reboot()
	b.phase(fleet.PhaseIdle, "kernel1")
	b.says(0)
	b.deploy("kernel2")
	b.says(0, "REBOOT", "needed; reboot when it suits")
	b.orders(0, "explain", "Its kernel, initrd or kernel modules are not those that were booted", "→ systemctl reboot")
	b.reboot()
	s := b.await("it is no longer needed", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Reboot == nil })
	if s.Systems.Booted != b.lab.out("kernel2") {
		t.Errorf("%+v", s.Systems)
	}
}

// TestRebootInWindow has a release that can only be booted into, and a window that is open: the agent reboots the host, once.
func TestRebootInWindow(t *testing.T) {
	t.Parallel()
	config := "socket = \"/run/garrison/agent.sock\"\n[reboot]\nwhen = \"window\"\nwindows = [\"00:00-24:00\"]\n"
	b := newBox(t, boxOptions{systemd: true, config: config})
	b.deploy("good1")
	boot := func() string {
		return b.must("systemctl show -P UserspaceTimestampMonotonic; cat /proc/1/stat | cut -d' ' -f22")
	}
	before := boot()
	n := b.publish("reboot")
	s := b.awaitFor(60*time.Second, "it was rebooted into the release", func(s fleet.Status) bool {
		return s.Phase == fleet.PhaseIdle && s.Active.Release.Number == n && s.Systems.Current == b.lab.out("reboot")
	})
	if s.Last.Result != fleet.RebootNeeded || s.Systems.Booted != "" && s.Systems.Booted != b.lab.out("reboot") {
		t.Errorf("%+v, %+v", s.Last, s.Systems)
	}
	b.runs("reboot")
	after := boot()
	if after == before {
		t.Errorf("init is the same as before: %s", after)
	}
	if acts := strings.Join(b.acts(), " "); acts != "reboot" {
		t.Errorf("acts: %s", acts)
	}
	b.says(0)
	b.eventually("it says how the host is after that", func() bool {
		log, _ := b.host.ReadFile("/var/log/agent.log")
		return strings.Contains(string(log), "this host is well after its reboot")
	})

	// A new kernel is reason enough; and a unit that does not come up after the boot is told until it does.
	b.publish("kernel1") // which has the other init again
	b.awaitFor(60*time.Second, "it was rebooted into the next release, too", func(s fleet.Status) bool {
		return s.Phase == fleet.PhaseIdle && s.Systems.Booted == b.lab.out("kernel1")
	})
	b.must("printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/sh -c \"test ! -e /etc/sick\"\\n[Install]\\nWantedBy=multi-user.target\\n' > /etc/systemd/system/sickly.service; systemctl daemon-reload; systemctl enable sickly; touch /etc/sick")
	b.publish("kernel2")
	b.awaitFor(60*time.Second, "it was rebooted into the kernel, and is not well", func(s fleet.Status) bool {
		return s.Systems.Booted == b.lab.out("kernel2") && s.Reboot != nil && s.Reboot.Failure != nil
	})
	b.says(3, "sickly.service failed")
	b.must("rm /etc/sick; systemctl start sickly")
	b.await("it is well again", func(s fleet.Status) bool { return s.Reboot == nil })
	b.says(0)
}
