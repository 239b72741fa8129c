package agent_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestDoctor has garrison doctor look at a host with a real systemd, an agent by the module's unit and a release, and then breaks one thing after the other.
func TestDoctor(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	const config = "/etc/garrison/agent.toml"
	doctor := func(command string, passes bool, want ...string) {
		t.Helper()
		out, err := b.host.Command(testContext(t), "sh", "-c", "cd /root; "+command).Output()
		if passes != (err == nil) {
			t.Errorf("%s: %v", command, err)
		}
		for _, w := range want {
			if !regexp.MustCompile(`(?m)^` + w).Match(out) {
				t.Errorf("%s does not say %q:\n%s", command, w, out)
			}
		}
	}
	// changed looks with another configuration, made of the host's by sed.
	changed := func(sed string, passes bool, want ...string) {
		t.Helper()
		doctor("sed '"+sed+"' "+config+" > /root/agent.toml; garrison doctor --host --config /root/agent.toml", passes, want...)
	}

	healthy := []string{"ok +agent.toml +host joker", "ok +git ", "(ok|WARNING) +nix ", "ok +agent +release-[0-9]+ active", "ok +unit +it is active, started again", "ok +remote .* answers; it has",
		"ok +signers +[0-9]+ keys? may sign", "ok +cache .*it answers", "(ok|WARNING) +disk of the store ", "(ok|WARNING) +disk of the state ", "(ok|WARNING) +synchronised ", "ok +clock "}
	doctor("garrison doctor", true, healthy...)
	doctor("garrison doctor --host -o json", true, ` +"side": "host"`, ` +"passed": true`)

	doctor("garrison doctor --host --config /nowhere", false, "FAIL +agent.toml +there is no configuration /nowhere")
	changed(`s,^remote.*,remote = "file:///srv/nowhere.git",`, false, "FAIL +remote ")
	changed(`s,^host.*,host = "ursula",`, false, "FAIL +agent +the agent that answers is that of host joker")
	changed(`1i socket = "/run/nobody.sock"`, false, "FAIL +agent +no agent answers", " +→ is it running")
	changed(`s,^allowedSigners.*,allowedSigners = "/dev/null",`, false, "FAIL +signers +/dev/null names no key")
	changed(`s,publicKey = "[^"]*",publicKey = "other:AAAA",`, false, "FAIL +cache .* signs by .*, and other:AAAA is trusted: nothing can be fetched")
	changed(`s,url = "[^"]*",url = "http://127.0.0.1:1/fleet",`, false, "FAIL +cache ", "WARNING +clock ")
	changed(`$a [hub]\nurl = "http://127.0.0.1:1"\ntokenFile = "/root/token"`, false, "FAIL +hub +cannot reach the hub")
	b.must("mkdir /root/small; mount -t tmpfs -o size=1m none /root/small")
	changed(`1i stateDir = "/root/small"`, false, "FAIL +disk of the state +/root/small has room for 0.00 GiB")
	doctor("NIX_CONFIG='sandbox = false' garrison doctor", true, "WARNING +nix .*without a sandbox")

	unit := func(lines, does, want string, passes bool) {
		t.Helper()
		b.must("printf '[Service]\\n" + lines + "' > /etc/systemd/system/garrison-agent.service.d/doctor.conf; systemctl daemon-reload; " + does)
		if does != "systemctl stop garrison-agent" {
			b.await("the agent answers", func(fleet.Status) bool { return true })
		}
		doctor("garrison doctor --host", passes, want)
	}
	unit(`Restart=no\n`, "true", "WARNING +unit +it is active; the unit lacks Restart=always$", true)
	unit(`NoNewPrivileges=yes\nProtectHome=yes\n`, "true", "FAIL +unit .*shut off from what activations and nix need: NoNewPrivileges=yes ProtectHome=yes$", false)
	unit("", "systemctl stop garrison-agent", "FAIL +unit +it is inactive", false)
	b.must("systemctl start garrison-agent")
	b.await("the agent answers", func(fleet.Status) bool { return true })

	b.ended(b.publish("broken"))
	doctor("garrison doctor", false, "FAIL +agent +held: .*gitops-demo.service failed", " +→ garrison explain")
	if strings.Contains(b.must("cd /root; garrison doctor || true"), "PRIVATE") {
		t.Error("it shows a private key")
	}
}
