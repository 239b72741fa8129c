package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestBoot(t *testing.T) {
	lan := newTestLAN(t)
	begin := time.Now()
	h := startHost(t, lan, HostOptions{
		Name: "ratched", Addr: addr(10), Env: []string{"GREETING=hello"},
		Files:    []File{{Path: "/etc/ssh/ssh_host_ed25519_key", Mode: 0o600, Data: []byte("key")}},
		Services: []Service{{Name: "greeter", Args: []string{"sh", "-c", "echo $GREETING $WHO; sleep 1000"}, Env: []string{"WHO=world"}}},
	})
	t.Logf("started in %v", time.Since(begin))
	if got := run(t, h, "hostname 2>/dev/null || cat /proc/sys/kernel/hostname"); got != "ratched" {
		t.Errorf("hostname is %q", got)
	}
	if got := run(t, h, "cat /proc/1/cmdline | tr '\\0' ' '"); !strings.HasSuffix(got, InitCommand) {
		t.Errorf("PID 1 is %q", got)
	}
	if got := run(t, h, "stat -c '%a %s' /etc/ssh/ssh_host_ed25519_key"); got != "600 3" {
		t.Errorf("the key's mode and size are %q", got)
	}
	eventually(t, "the service's output in its log", func() bool {
		log, err := h.ReadFile("/var/log/greeter.log")
		return err == nil && string(log) == "hello world\n"
	})
	if got := run(t, h, "touch /usr/x 2>/dev/null || echo read-only; echo > /dev/null; ls /dev/pts/ptmx"); got != "read-only\n/dev/pts/ptmx" {
		t.Errorf("/usr and /dev: %q", got)
	}
	if got := run(t, h, "for t in nix git age ssh-keygen garrison; do command -v $t >/dev/null || echo $t; done"); got != "" {
		t.Errorf("programs missing in the host: %s", got)
	}
}

// A host sees nothing of the machine's state: no store, no home, no mounts.
func TestIsolation(t *testing.T) {
	lan := newTestLAN(t)
	a := startHost(t, lan, HostOptions{Name: "a", Addr: addr(10)})
	b := startHost(t, lan, HostOptions{Name: "b", Addr: addr(11)})
	path := run(t, a, "echo 'only on a' > /tmp/f; nix store add-path --name f /tmp/f")
	if there, err := b.Exists(path); err != nil || there {
		t.Errorf("b sees a's %s: %v %v", path, there, err)
	}
	if there, err := a.Exists(path); err != nil || !there {
		t.Errorf("a does not see its %s: %v %v", path, there, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the machine has %s: %v", path, err)
	}
	if _, err := b.Run(testContext(t), "nix-store", "--check-validity", path); err == nil {
		t.Errorf("b's store says that %s is valid", path)
	}
	wd, _ := os.Getwd()
	if there, err := a.Exists(wd); err != nil || there {
		t.Errorf("a host sees the machine's %s: %v", wd, err)
	}
	if got := run(t, a, "cut -d' ' -f5 /proc/self/mountinfo"); strings.Contains(got, t.TempDir()) {
		t.Errorf("mounts of the machine in a host: %s", got)
	}
	if got := run(t, a, "ls -d /proc/[0-9]* | wc -l"); len(got) > 1 {
		t.Errorf("a host sees %s processes", got)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), lan.opts.Dir) {
		t.Errorf("mounts of a host on the machine: %v", err)
	}
}

func TestNetwork(t *testing.T) {
	lan := newTestLAN(t)
	server := startHost(t, lan, HostOptions{Name: "hub", Addr: addr(1), Services: []Service{{
		Name: "echo", Restart: true, Args: []string{"busybox", "nc", "-ll", "-p", "80", "-e", "echo", "hi"},
	}}})
	client := startHost(t, lan, HostOptions{Name: "joker", Addr: addr(11)})
	reach := func(to string) bool {
		out, err := client.Run(testContext(t), "busybox", "nc", "-w", "1", to, "80")
		return err == nil && out == "hi\n"
	}
	eventually(t, "the server is reached by name", func() bool { return reach("hub") })
	conn, err := client.DialContext(testContext(t), "tcp", "192.0.2.1:80")
	if err != nil {
		t.Fatalf("the owner cannot connect from inside: %v", err)
	}
	_ = conn.Close()
	if got := run(t, client, "ip route show default"); got != "" {
		t.Errorf("there is a way out: %s", got)
	}
	if _, err := client.Run(testContext(t), "busybox", "nc", "-w", "1", "198.51.100.1", "80"); err == nil {
		t.Error("an address outside answers")
	}
	if err := server.CutLink(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if reach("192.0.2.1") {
		t.Error("the server is reached with its cable out")
	}
	if err := server.RestoreLink(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server is reached again", func() bool { return reach("192.0.2.1") })

	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	eventually(t, "the rebooted server is reached", func() bool { return reach("192.0.2.1") })
	t.Logf("reached again after %v", time.Since(begin))
}

func TestReboot(t *testing.T) {
	lan := newTestLAN(t)
	h := startHost(t, lan, HostOptions{Name: "ratched", Addr: addr(10), Services: []Service{
		{Name: "daemon", Args: []string{"sleep", "1000"}},
	}})
	write := "for d in run tmp var etc nix boot root; do echo kept > /$d/f; done"
	run(t, h, write)
	for _, off := range []func() error{h.Kill, func() error { return h.Stop(testContext(t)) }} {
		if err := off(); err != nil {
			t.Fatal(err)
		}
		if h.Running() {
			t.Error("a host that was switched off runs")
		}
		if _, err := h.Run(testContext(t), "true"); fleet.CodeOf(err) != fleet.CodeInternal || !strings.Contains(err.Error(), "is off") {
			t.Errorf("a command on a host that is off: %v", err)
		}
		if data, err := h.ReadFile("/etc/f"); err != nil || string(data) != "kept\n" {
			t.Errorf("the disk of a host that is off: %q %v", data, err)
		}
		if err := h.Start(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if got := run(t, h, "cd /; ls -d */f | tr '\\n' ' '"); got != "boot/f etc/f nix/f root/f var/f" {
			t.Errorf("after the reboot there are: %s", got)
		}
		if pid, err := h.ServicePID(testContext(t), "daemon"); err != nil || pid == 0 {
			t.Errorf("after the reboot the service's pid is %d, %v", pid, err)
		}
		run(t, h, write)
	}
}

// TestStopped: a program that is stopped, as by a systemd that shuts down, goes on, and how it ends is known.
func TestStopped(t *testing.T) {
	h := startHost(t, newTestLAN(t), HostOptions{Name: "ratched", Addr: addr(10)})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if out, err := h.Run(ctx, "sh", "-c", "kill -STOP $$; echo on"); err != nil || out != "on\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := h.Run(ctx, "sh", "-c", "kill -STOP $$; echo why >&2; exit 3"); err == nil || !strings.Contains(err.Error(), ": why") {
		t.Errorf("%v", err)
	}
}

func TestServices(t *testing.T) {
	lan := newTestLAN(t)
	ctx := testContext(t)
	h := startHost(t, lan, HostOptions{Name: "h", Addr: addr(10), Services: []Service{
		{Name: "mortal", Args: []string{"sleep", "1000"}},
		{Name: "phoenix", Args: []string{"sleep", "1000"}, Restart: true},
		{Name: "stubborn", Args: []string{"sh", "-c", "trap '' TERM; while :; do sleep 1; done"}},
	}})
	pid := func(name string) int {
		p, err := h.ServicePID(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, name := range []string{"mortal", "phoenix"} {
		before := pid(name)
		if err := h.SignalService(ctx, name, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, name+" is dead", func() bool { return pid(name) != before })
	}
	eventually(t, "phoenix runs again", func() bool { return pid("phoenix") != 0 })
	if pid("mortal") != 0 {
		t.Error("mortal was restarted")
	}
	for range 2 { // stopping what is stopped is fine
		if err := h.StopService(ctx, "phoenix"); err != nil || pid("phoenix") != 0 {
			t.Errorf("stop: %v, pid %d", err, pid("phoenix"))
		}
	}
	time.Sleep(3 * restartDelay)
	if pid("phoenix") != 0 {
		t.Error("a service that was stopped came back")
	}
	if err := h.RestartService(ctx, "phoenix"); err != nil || pid("phoenix") == 0 {
		t.Errorf("restart: %v, pid %d", err, pid("phoenix"))
	}
	if err := h.StopService(ctx, "stubborn"); err != nil || pid("stubborn") != 0 {
		t.Errorf("a service that ignores SIGTERM: %v, pid %d", err, pid("stubborn"))
	}
	if err := h.StartService(ctx, "nobody"); err == nil || !strings.Contains(err.Error(), `no service "nobody"`) {
		t.Errorf("an unknown service: %v", err)
	}
}

func TestReapsOrphans(t *testing.T) {
	lan := newTestLAN(t)
	h := startHost(t, lan, HostOptions{Name: "h", Addr: addr(10)})
	run(t, h, "for i in 1 2 3 4 5 6 7 8 9 10; do (setsid sleep 0.05 &) ; done")
	eventually(t, "no orphan and no zombie is left", func() bool {
		return run(t, h, "cat /proc/[0-9]*/stat 2>/dev/null | grep -c -e ' Z ' -e '(sleep)' || true") == "0"
	})
}

func TestCommandEndsWithContext(t *testing.T) {
	lan := newTestLAN(t)
	h := startHost(t, lan, HostOptions{Name: "h", Addr: addr(10)})
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := h.Run(ctx, "sh", "-c", "sleep 4711; true"); err == nil {
		t.Error("the command outlived its context")
	}
	eventually(t, "the command's children are gone", func() bool {
		return run(t, h, "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -cx 4711 || true") == "0"
	})
}

// A host's links lead to the host's files, also seen from outside.
func TestLooksInsideRoot(t *testing.T) {
	lan := newTestLAN(t)
	h := startHost(t, lan, HostOptions{Name: "h", Addr: addr(10)})
	run(t, h, "echo inside > /etc/real; ln -s /etc/real /etc/link; ln -s /run/f /etc/torun; echo there > /run/f; ln -s /../../etc/hostname /etc/up")
	for path, want := range map[string]string{"/etc/link": "inside\n", "/etc/torun": "there\n", "/etc/up": "h\n"} {
		if data, err := h.ReadFile(path); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", path, data, err)
		}
	}
	if text, err := h.Readlink("/etc/link"); err != nil || text != "/etc/real" {
		t.Errorf("link: %q, %v", text, err)
	}
	if _, err := h.ReadFile("/etc/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	for _, path := range []string{"/etc/real", "/run/f"} {
		if _, err := os.Stat(h.Path(path)); err != nil {
			t.Error(err)
		}
	}
}

func TestErrors(t *testing.T) {
	lan := newTestLAN(t)
	ctx := testContext(t)
	startHost(t, lan, HostOptions{Name: "h", Addr: addr(10)})
	for what, o := range map[string]HostOptions{
		"cannot name a host":    {Name: "../etc", Addr: addr(11)},
		"is not an address":     {Name: "x"},
		"is taken":              {Name: "h", Addr: addr(12)},
		"nothing to bind at /x": {Name: "y", Addr: addr(13), Binds: []Bind{{Source: "/does/not/exist", Target: "/x"}}},
		"executable file not":   {Name: "z", Addr: addr(14), Services: []Service{{Name: "s", Args: []string{"no-such-program"}}}},
	} {
		if _, err := lan.Start(ctx, o); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	closed := newTestLAN(t)
	h := startHost(t, closed, HostOptions{Name: "h", Addr: addr(10)})
	if err := closed.Close(); err != nil || h.Running() {
		t.Errorf("close: %v, its host runs: %v", err, h.Running())
	}
	if err := h.Start(ctx); err == nil || !strings.Contains(err.Error(), "LAN is closed") {
		t.Errorf("a start on a closed LAN: %v", err)
	}
	if n := len(lan.Hosts()); n != 1 {
		t.Errorf("%d hosts after failed starts", n)
	}
	if _, err := FindToolchain([]string{"sh", "no-such-a", "no-such-b"}); fleet.CodeOf(err) != fleet.CodeMissingTool ||
		!strings.Contains(err.Error(), "no-such-a, no-such-b") {
		t.Errorf("missing programs: %v", err)
	}
}

func TestStartIsQuick(t *testing.T) {
	lan := newTestLAN(t)
	const n = 5
	begin := time.Now()
	for i := range byte(n) {
		startHost(t, lan, HostOptions{Name: fmt.Sprintf("h%d", i), Addr: addr(10 + i)})
	}
	each := time.Since(begin) / n
	t.Logf("%v for each host", each)
	if each > time.Second {
		t.Errorf("a host takes %v to start", each)
	}
	for _, h := range lan.Hosts() {
		if _, err := os.Stat(filepath.Join(lan.opts.Dir, h.Name(), "etc/hosts")); err != nil {
			t.Error(err)
		}
	}
}
