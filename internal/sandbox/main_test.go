package sandbox

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ownerMode makes the test binary an owner of hosts that waits to be killed.
const ownerMode = "GARRISON_SANDBOX_TEST_OWNER"

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == InitCommand:
		os.Exit(Init(context.Background(), os.Stdin, os.Stdout, os.Stderr))
	case os.Getenv(ownerMode) != "":
		os.Exit(ownHosts(os.Getenv(ownerMode)))
	}
	os.Exit(m.Run())
}

func addr(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, n}) }

// testContext ends with the test, or after a minute.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func newTestLAN(t testing.TB) *LAN {
	t.Helper()
	lan, err := NewLAN(testContext(t), Options{
		Dir:   t.TempDir(),
		Names: map[string]netip.Addr{"hub": addr(1), "ratched": addr(10), "joker": addr(11)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lan.Close(); err != nil {
			t.Error(err)
		}
	})
	return lan
}

func startHost(t testing.TB, lan *LAN, o HostOptions) *Host {
	t.Helper()
	h, err := lan.Start(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// run runs a shell script in a host and returns what it printed, trimmed.
func run(t testing.TB, h *Host, script string) string {
	t.Helper()
	out, err := h.Run(testContext(t), "sh", "-euc", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// machine runs a program on the machine itself.
func onMachine(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// exampleFor is the example fleet with keys of the test's own for ratched: the folder
// of the fleet and the private key of the host.
func exampleFor(t testing.TB, dir string) (fleet string, hostKey []byte) {
	t.Helper()
	fleet = filepath.Join(dir, "fleet")
	if err := os.CopyFS(fleet, os.DirFS("../../examples/fleet")); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "key")
	onMachine(t, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ratched", "-f", key)
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string]string{
		"hosts/ratched/host.pub": string(pub),
		"secrets/ward-key.age":   onMachine(t, "the key of the ward", "age", "-a", "-R", key+".pub") + "\n",
		"secrets/lair-wifi.age":  onMachine(t, "the wifi of the lair", "age", "-a", "-R", key+".pub") + "\n",
	} {
		if err := os.WriteFile(filepath.Join(fleet, path), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hostKey, err = os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	return fleet, hostKey
}

// buildSystem commits the flake in a host's /root/fleet and builds a host's toplevel there.
func buildSystem(t testing.TB, h *Host, name string) string {
	t.Helper()
	return run(t, h, fmt.Sprintf(`
		cd /root/fleet
		[ -d .git ] || git init -q -b main
		git add -A
		git -c user.name=t -c user.email=t@example.org commit -q --allow-empty -m change
		nix build -o /root/result-%[1]s "git+file:///root/fleet#nixosConfigurations.%[1]s.config.system.build.toplevel"
		readlink /root/result-%[1]s`, name))
}
