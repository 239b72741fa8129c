package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// On a host with a real systemd the example fleet brings a unit, which follows the text.
func TestSystemdHost(t *testing.T) {
	base, err := HostBase(testContext(t), "../../scripts/host-base")
	if err != nil {
		t.Fatal(err)
	}
	lan := newTestLAN(t)
	fleet, key := exampleFor(t, t.TempDir())
	begin := time.Now()
	h := startHost(t, lan, HostOptions{
		Name: "ratched", Addr: addr(10), Base: base,
		Files:    []File{{Path: "/etc/ssh/ssh_host_ed25519_key", Mode: 0o600, Data: key}},
		Binds:    []Bind{{Source: fleet, Target: "/root/fleet", Writable: true}},
		Services: []Service{{Name: "greeter", Args: []string{"sh", "-c", `echo "$WHO"; exec sleep 1000`}, Env: []string{`WHO=a "b" $c %d`}, Restart: true}},
	})
	t.Cleanup(func() {
		if log, err := os.ReadFile(filepath.Join(h.opts.Dir, "console.log")); t.Failed() {
			t.Logf("console: %s %v", log, err)
		}
	})
	t.Logf("booted in %v", time.Since(begin))
	other := startHost(t, lan, HostOptions{Name: "joker", Addr: addr(11)})
	run(t, other, "busybox ping -c 1 -w 5 192.0.2.10")
	if log, err := h.ReadFile("/var/log/greeter.log"); err != nil || string(log) != "a \"b\" $c %d\n" {
		t.Errorf("the service wrote %q, %v", log, err)
	}
	if state := run(t, h, "systemctl is-system-running; hostname"); state != "running\nratched" {
		t.Errorf("the system is %s: %s", state, run(t, h, "systemctl --failed"))
	}

	first := buildSystem(t, h, "ratched")
	if got := exitCode(t, h, first+"/bin/switch-to-configuration test"); got != "0" {
		t.Fatalf("exit %s: %s", got, run(t, h, "cat /tmp/stderr"))
	}
	checkActive(t, h, first, "Hello from the first commit.\n")
	unit := func() string {
		return run(t, h, "systemctl is-active gitops-demo; systemctl show -P MainPID gitops-demo; journalctl -q -o cat -u gitops-demo -n 1 | cat")
	}
	before := unit()
	if !strings.HasPrefix(before, "active\n") {
		t.Errorf("gitops-demo.service is %s", before)
	}

	if err := os.WriteFile(filepath.Join(fleet, "gitops-test"), []byte("second\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	second := buildSystem(t, h, "ratched")
	run(t, h, second+"/bin/switch-to-configuration switch")
	checkActive(t, h, second, "second\n")
	if after := unit(); !strings.HasPrefix(after, "active\n") || after == before {
		t.Errorf("gitops-demo.service after the change is %s, before it was %s", after, before)
	}
	if err := os.WriteFile(filepath.Join(fleet, "hosts/ratched/service.sh"), []byte("exit 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	failing := buildSystem(t, h, "ratched")
	if got := exitCode(t, h, failing+"/bin/switch-to-configuration test"); got != "4" {
		t.Errorf("a system whose service fails: exit %s", got)
	}

	// A power cut, and what the boot entry names comes back.
	checkRestarts(t, h, second, unit)
}

func checkRestarts(t *testing.T, h *Host, toplevel string, unit func() string) {
	ctx := testContext(t)
	off := map[string]func() error{"power cut": h.Kill, "shutdown": func() error { return h.Stop(ctx) }}
	for what, f := range off {
		begin := time.Now()
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if err := h.Start(ctx); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%s and boot in %v", what, time.Since(begin))
		checkActive(t, h, toplevel, "second\n")
		if got := unit(); !strings.HasPrefix(got, "active\n") {
			t.Errorf("after a %s, gitops-demo.service is %s", what, got)
		}
	}
	leader := h.leader()
	run(t, h, "systemctl reboot")
	eventually(t, "another systemd", func() bool { return h.leader() != leader && h.leader() != 0 })
	if err := h.AwaitBoot(ctx); err != nil {
		t.Fatal(err)
	}
	checkActive(t, h, toplevel, "second\n")

	before, err := h.ServicePID(ctx, "greeter")
	if err != nil || before == 0 {
		t.Fatalf("the service's pid is %d, %v", before, err)
	}
	if err := h.RestartService(ctx, "greeter"); err != nil {
		t.Fatal(err)
	}
	if after, err := h.ServicePID(ctx, "greeter"); err != nil || after == before {
		t.Errorf("after a restart of the service its pid is %d, as before; %v", after, err)
	}
	if err := h.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, root := range cgroupRoots() {
		if left, _ := filepath.Glob(filepath.Join(root, cgroupName(-1)[:len(cgroupName(-1))-2]+"*")); len(left) > 0 {
			t.Errorf("cgroups left: %v", left)
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), h.opts.Dir) {
		t.Errorf("mounts left: %v", err)
	}
}
