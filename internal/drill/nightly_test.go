package drill

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
	"github.com/garrison-nix/garrison/nix/modulestest"
)

const nightly = "garrison-drill-nightly"

// nightHost is a machine with a systemd that has what services.garrison.drill.nightly makes, with a key for SSH, which pub is the public half of.
func (y *yard) nightHost(t *testing.T, hostKeys map[string]string) (h *sandbox.Host, pub string) {
	t.Helper()
	base, err := sandbox.HostBase(t.Context(), "../../scripts/host-base")
	ok(t, err)
	made, err := modulestest.Eval(t.Context(), []string{"NIX_CONFIG=build-users-group =", "NIX_REMOTE=local?root=" + t.TempDir()}, `{ services.garrison.package = "/nix/store/garrison"; services.garrison.drill.nightly = {
		enable = true; host = "ratched"; repository = "ssh://root@192.0.2.1`+bare+`"; hub = "`+hubURL+`"; hubTokenFile = "/root/drill-token"; sshKeyFile = "/root/drill-key"; only = [ "happy-path" ]; repeat = 1; limit = "1m"; }; }`)
	ok(t, err)
	if len(made.Failed) > 0 {
		t.Fatal(made.Failed)
	}
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "night", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	private, err := os.ReadFile(key)
	ok(t, err)
	public, err := os.ReadFile(key + ".pub")
	ok(t, err)
	known := ""
	for name, key := range hostKeys {
		known += name + " " + key + "\n"
	}
	files := []sandbox.File{
		{Path: "/root/drill-token", Mode: 0o600, Data: []byte(y.token("drill"))}, {Path: "/root/drill-key", Mode: 0o600, Data: private},
		{Path: "/etc/ssh/ssh_known_hosts", Data: []byte(known)},
		{Path: "/etc/systemd/system/" + nightly + ".service", Data: []byte(strings.ReplaceAll(made.Units[nightly].Text(), "/nix/store/garrison/bin/", "/opt/garrison/bin/"))},
		{Path: "/etc/systemd/system/" + nightly + ".timer", Data: []byte(made.Timers[nightly].Text())},
	}
	for name, text := range made.Etc {
		files = append(files, sandbox.File{Path: "/etc/" + name, Data: []byte(text)})
	}
	h, err = y.lan.Start(t.Context(), sandbox.HostOptions{Name: "night", Addr: netip.MustParseAddr("192.0.2.30"), Base: base, Files: files})
	ok(t, err)
	// A NixOS finds dynamic users by libnss-systemd, which the test's host does not have: this one is there before, with that name.
	_, err = h.Run(t.Context(), "sh", "-euc", "echo '"+nightly+":x:990:990::/:/usr/sbin/nologin' >> /etc/passwd; echo '"+nightly+":x:990:' >> /etc/group")
	ok(t, err)
	return h, string(public)
}

// TestNightly runs the unit that the NixOS module makes, on a systemd, against a fleet that is reached by SSH alone: a night that passes, and one in which the
// fleet is not well, which leaves a failed unit.
func TestNightly(t *testing.T) {
	t.Parallel()
	y := someFleet(t, "")
	forge := y.world.hosts["forge"]
	ok(t, os.MkdirAll(forge.Path("/etc/ssh"), 0o755))
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", forge.Path("/etc/ssh/ssh_host_ed25519_key")).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	forgeKey, err := forge.ReadFile("/etc/ssh/ssh_host_ed25519_key.pub")
	ok(t, err)
	night, pub := y.nightHost(t, map[string]string{"ratched": strings.TrimSpace(string(y.key("ratched.pub"))), "192.0.2.1": strings.TrimSpace(string(forgeKey))})
	SSHD(t, forge, pub)
	SSHD(t, y.world.hosts["ratched"], pub)
	y.settings(t, "", y.hosts()...)
	_, tree := y.mainIs(t)
	sh := func(script string) (string, error) { return night.Run(t.Context(), "sh", "-euc", script) }
	kept := func(file string) (r fleet.DrillReport) {
		t.Helper()
		text, err := sh("cat /var/lib/" + nightly + "/" + file)
		ok(t, err)
		ok(t, json.Unmarshal([]byte(text), &r))
		return r
	}

	if out, err := sh("systemctl start " + nightly + ".timer; systemctl show -P NextElapseUSecRealtime " + nightly + ".timer"); err != nil || !strings.Contains(out, "03:30:00") {
		t.Errorf("the timer: %v %s", err, out)
	}
	if out, err := sh("systemctl start " + nightly); err != nil {
		said, _ := sh("journalctl --no-pager -o cat -u " + nightly)
		t.Fatalf("%v %s\n%s", err, out, said)
	}
	passed := kept("last.json")
	if !passed.Passed || passed.Where != "live" || passed.Host != "ratched" || passed.Timing == nil {
		t.Errorf("%+v", passed)
	}
	if _, now := y.mainIs(t); now != tree {
		t.Errorf("main's files are %s, not %s", now, tree)
	}
	var told []fleet.DrillReport
	ok(t, y.get(t.Context(), "/api/v1/drills", &told))
	if len(told) != 1 || told[0].ID != passed.ID {
		t.Errorf("the hub was told %+v", told)
	}

	_, err = y.run(t.Context(), "joker", "garrison", "rollback")
	ok(t, err)
	ok(t, until(t.Context(), patience, lookAgain, func() error { // the hub hears of it
		var s fleet.Status
		err := y.get(t.Context(), "/api/v1/hosts/joker", &s)
		if err == nil && s.Phase != fleet.PhaseOverruled {
			err = errors.New(s.Summary())
		}
		return err
	}))
	if out, err := sh("systemctl start " + nightly); err == nil {
		t.Errorf("a fleet that is not well was drilled: %s", out)
	}
	if out, err := sh("systemctl show -P Result -P ExecMainStatus " + nightly + "; journalctl --no-pager -o cat -u " + nightly); err != nil || !strings.HasPrefix(out, "exit-code\n6\n") || !strings.Contains(out, "joker is by hand") {
		t.Errorf("the unit: %v %s", err, out)
	}
	if refused := kept("last.json"); refused.Passed || !strings.Contains(refused.Error, "joker is by hand") || refused.ID == passed.ID {
		t.Errorf("%+v", refused)
	}
	if out, err := sh("/opt/garrison/bin/garrison drill history --kept /var/lib/" + nightly + "/drills"); err != nil || !strings.Contains(out, "live, ratched: 2 drills, 1 failed") {
		t.Errorf("the history: %v %s", err, out)
	}
	if left, err := sh("ls -A /tmp | grep garrison || true; pgrep -x ssh-agent || true"); err != nil || strings.TrimSpace(left) != "" {
		t.Errorf("left behind: %v %s", err, left)
	}
}
