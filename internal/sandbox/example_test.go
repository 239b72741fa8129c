package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The example fleet builds inside a host, activates, and survives a reboot only once
// it is the boot entry.
func TestExampleFleet(t *testing.T) {
	lan := newTestLAN(t)
	work := t.TempDir()
	fleet, key := exampleFor(t, work)
	h := startHost(t, lan, HostOptions{
		Name: "ratched", Addr: addr(10),
		Files: []File{{Path: "/etc/ssh/ssh_host_ed25519_key", Mode: 0o600, Data: key}},
		Binds: []Bind{{Source: fleet, Target: "/root/fleet", Writable: true}},
	})
	toplevel := buildSystem(t, h, "ratched")
	for _, other := range []string{"joker", "ursula", "drhorrible"} {
		buildSystem(t, h, other)
	}
	if got := run(t, h, "nix-store -qR "+toplevel+" | wc -l"); got != "6" {
		t.Errorf("the closure has %s paths", got)
	}

	run(t, h, toplevel+"/bin/switch-to-configuration test")
	checkActive(t, h, toplevel, "Hello from the first commit.\n")

	if err := os.WriteFile(filepath.Join(fleet, "gitops-test"), []byte("second\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	second := buildSystem(t, h, "ratched")
	if got := exitCode(t, h, second+"/bin/switch-to-configuration test"); got != "0" {
		t.Errorf("second system: exit %s", got)
	}
	checkActive(t, h, second, "second\n")

	// Only the boot entry survives a power cut.
	run(t, h, toplevel+"/bin/switch-to-configuration boot")
	checkActive(t, h, second, "second\n")
	if err := h.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	checkActive(t, h, toplevel, "Hello from the first commit.\n")
	if booted, err := h.Readlink("/run/booted-system"); err != nil || booted != toplevel {
		t.Errorf("booted %q, %v", booted, err)
	}
}

func checkActive(t *testing.T, h *Host, toplevel, text string) {
	t.Helper()
	if current, err := h.Readlink("/run/current-system"); err != nil || current != toplevel {
		t.Errorf("the current system is %q, %v; want %s", current, err, toplevel)
	}
	if got, err := h.ReadFile("/etc/gitops-test"); err != nil || string(got) != text {
		t.Errorf("/etc/gitops-test is %q, %v; want %q", got, err, text)
	}
	if got, err := h.ReadFile("/run/agenix/ward-key"); err != nil || string(got) != "the key of the ward" {
		t.Errorf("the secret is %q, %v", got, err)
	}
	if got := run(t, h, "stat -L -c %a /run/agenix /run/agenix/ward-key /run/agenix/lair-wifi; ls /run/agenix.d | wc -l"); got != "751\n400\n440\n1" {
		t.Errorf("modes of secrets, and how many generations: %q", got)
	}
}

func exitCode(t *testing.T, h *Host, command string) string {
	t.Helper()
	out := run(t, h, "code=0; "+command+" >/dev/null 2>/tmp/stderr || code=$?; echo $code")
	return out
}

// switch-to-configuration's exit codes mean what NixOS' do.
func TestExampleExitCodes(t *testing.T) {
	lan := newTestLAN(t)
	fleet, key := exampleFor(t, t.TempDir())
	h := startHost(t, lan, HostOptions{
		Name: "ratched", Addr: addr(10),
		Files: []File{{Path: "/etc/ssh/ssh_host_ed25519_key", Mode: 0o600, Data: key}},
		Binds: []Bind{{Source: fleet, Target: "/root/fleet", Writable: true}},
	})
	good := buildSystem(t, h, "ratched") + "/bin/switch-to-configuration "
	expect := func(want, command string) {
		t.Helper()
		if got := exitCode(t, h, command); got != want {
			t.Errorf("exit %s, want %s: %s: %s", got, want, command, run(t, h, "cat /tmp/stderr"))
		}
	}
	expect("1", good+"dance")
	expect("0", good+"dry-activate")
	if there, err := h.Exists("/run/current-system"); err != nil || there {
		t.Errorf("dry-activate made a current system: %v", err)
	}
	expect("0", good+"switch")
	if got := run(t, h, "cat /boot/garrison-entry"); got+"/bin/switch-to-configuration " != good {
		t.Errorf("the boot entry is %s", got)
	}
	expect("11", "flock /run/nixos/switch-to-configuration.lock "+good+"test")

	write := func(path, text string) string {
		if err := os.WriteFile(filepath.Join(fleet, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(filepath.Join(fleet, path)) })
		return buildSystem(t, h, "ratched") + "/bin/switch-to-configuration "
	}
	expect("2", write("hosts/ratched/activate.sh", "echo no >&2\nfalse\n")+"test")
	expect("2", write("hosts/ratched/activate.sh", "exit 7\n")+"test")
	_ = os.Remove(filepath.Join(fleet, "hosts/ratched/activate.sh"))
	// A secret for somebody else is told, the others are there, the old one is not.
	other := onMachine(t, "not for ratched", "age", "-a", "-r", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p")
	expect("2", write("secrets/ward-key.age", other+"\n")+"test")
	if got := run(t, h, "ls /run/agenix; cat /tmp/stderr"); !strings.HasPrefix(got, "lair-wifi\n") || !strings.Contains(got, "cannot decrypt the secret ward-key") {
		t.Errorf("secrets, and the message: %s", got)
	}
	expect("100", write("hosts/ratched/init-interface", "systemd 2\n")+"switch")
}

// The two ways of breaking the fleet that README.md tells of break what they should.
func TestExampleBreaks(t *testing.T) {
	lan := newTestLAN(t)
	fleet, _ := exampleFor(t, t.TempDir())
	h := startHost(t, lan, HostOptions{
		Name: "ci", Addr: addr(10), Binds: []Bind{{Source: fleet, Target: "/root/fleet", Writable: true}},
	})
	buildSystem(t, h, "joker")
	broken := func(path, text, want string) {
		t.Helper()
		_, err := h.Run(testContext(t), "sh", "-c", `cd /root/fleet; printf '%s\n' "$2" > "$1"; git add -A
			nix build --no-link -L .#nixosConfigurations.joker.config.system.build.toplevel`, "sh", path, text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	broken("hosts/joker/build.sh", `echo 'joker: cannot compile frobnicator' >&2; exit 3`, "joker: cannot compile frobnicator")
	broken("hosts/joker/default.nix", `throw "joker: no such option: frobnicator"`, "no such option: frobnicator")
}
