package agent_test

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
	"github.com/garrison-nix/garrison/nix/modulestest"
)

// moduleHost are the files that the NixOS modules make of a host: in /etc, and units, which nothing starts yet.
func moduleHost(t testing.TB, definitions string) []sandbox.File {
	t.Helper()
	h, err := modulestest.Eval(testContext(t), []string{"NIX_CONFIG=build-users-group =", "NIX_REMOTE=local?root=" + t.TempDir()}, definitions)
	if err != nil || len(h.Failed) > 0 {
		t.Fatalf("%v, %q", err, h.Failed)
	}
	var files []sandbox.File
	add := func(path, text string) {
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		// Where the test host has its binary, which is in no store.
		files = append(files, sandbox.File{Path: path, Mode: mode, Data: []byte(strings.ReplaceAll(text, "/nix/store/garrison/bin/", "/opt/garrison/bin/"))})
	}
	for name, text := range h.Etc {
		add("/etc/"+name, text)
	}
	for name, unit := range h.Units {
		add("/etc/systemd/system/"+name+".service", unit.Text())
	}
	for name, path := range h.Paths {
		add("/etc/systemd/system/"+name+".path", path.Text())
	}
	return files
}

// agentUnit is the agent's unit as the module makes it, which boots with the host; and, for tests, writes to a file, starts again sooner,
// and comes after what the test host boots into.
func (l *lab) agentUnit(t testing.TB, env []string) []sandbox.File {
	t.Helper()
	l.unitOnce.Do(func() {
		for _, f := range moduleHost(t, l.agentModule("")) {
			if f.Path == "/etc/systemd/system/garrison-agent.service" {
				l.unit = f
			}
		}
	})
	dropIn := fmt.Sprintf("[Unit]\nAfter=boot-entry.service\n[Service]\nEnvironment=%s\nRestartSec=100ms\nStandardOutput=append:/var/log/agent.log\nStandardError=append:/var/log/agent.log\n", strings.Join(env, " "))
	return []sandbox.File{l.unit,
		{Path: l.unit.Path + ".d/lab.conf", Data: []byte(dropIn)},
		{Path: "/etc/systemd/system/multi-user.target.d/lab.conf", Data: []byte("[Unit]\nWants=garrison-agent.service\n")}}
}

// agentModule are the options of a box's agent.
func (l *lab) agentModule(more string) string {
	return fmt.Sprintf(`{
		networking.hostName = "joker";
		services.garrison.package = "/nix/store/garrison";
		services.garrison.agent = {
			enable = true;
			remote = "file:///srv/fleet.git";
			allowedSigners = [ %q ];
			caches = [ { url = %q; publicKey = %q; } ];
			poll = "1s";
			checkTime = "20s";
			%s
		};
	}`, strings.TrimSpace(string(l.keyData("release.pub"))), cacheURL, l.cacheKey, more)
}

// TestModule runs the real agent and the real hub by the units that the NixOS modules make, with their options in
// force, on a host with a real systemd.
func TestModule(t *testing.T) {
	t.Parallel()
	l := needLab(t)
	b := newBox(t, boxOptions{systemd: true, noAgent: true, files: append(
		moduleHost(t, strings.TrimSuffix(strings.TrimSpace(l.agentModule(`hub = { url = "`+hubURL+`"; tokenFile = "/etc/garrison/hub-token"; };
			afterDeploy = [ "/bin/sh" "-c" "echo $GARRISON_RESULT > /var/lib/garrison/after" ];`)), "}")+`
			services.garrison.hub = { enable = true; tokensFile = "/etc/hub-tokens"; };
		}`),
		sandbox.File{Path: "/etc/hub-tokens", Mode: 0o600, Data: []byte("[[token]]\nname = \"t\"\nsha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"\nscopes = [\"read\"]\n")})})
	is := func(unit string, want ...string) {
		t.Helper()
		got := "\n" + b.must("systemctl show "+unit) + "\n"
		for _, w := range want {
			if !strings.Contains(got, "\n"+w+"\n") {
				t.Errorf("%s: not %s", unit, w)
			}
		}
	}

	b.must("groupadd -f garrison; systemctl start garrison-agent garrison-hub; systemd-analyze verify garrison-agent.service garrison-hub.service")
	is("garrison-agent", "ActiveState=active", "Type=notify", "Restart=always", "WatchdogUSec=5min", "NRestarts=0", "OOMScoreAdjust=-500")
	if got := b.must("stat -c '%a %G' /run/garrison/agent.sock /var/lib/garrison"); got != "660 garrison\n755 root" {
		t.Errorf("socket and state: %s", got)
	}
	// No capability to load modules, and none that an activation, which is elsewhere, would miss.
	if got := b.must("grep CapBnd /proc/$(systemctl show -P MainPID garrison-agent)/status; grep CapBnd /proc/1/status"); len(strings.Fields(got)) != 4 || strings.Fields(got)[1] == strings.Fields(got)[3] {
		t.Errorf("capabilities of the agent, and of init: %s", got)
	}
	b.deploy("good1")
	b.eventually("afterDeploy has run", func() bool { got, err := b.run("cat /var/lib/garrison/after"); return err == nil && got == "committed" })
	s := b.ended(b.publish("broken"))
	if s.Last.Result != fleet.RolledBack {
		t.Errorf("a broken system: %s", s.Last.Result)
	}
	b.must("systemctl kill -s KILL garrison-agent")
	b.deploy("good2") // systemd started it again
	is("garrison-agent", "ActiveState=active", "NRestarts=1")

	// The hub: a user of its own, its secret from a file that only root can read, and nothing else of the host.
	is("garrison-hub", "ActiveState=active", "NRestarts=0", "DynamicUser=yes")
	if got := b.must("stat -c %A /etc/hub-tokens /var/lib/private/garrison-hub"); got != "-rw-------\ndrwx------" {
		t.Errorf("the hub's files: %s", got)
	}
	pid := b.must("systemctl show -P MainPID garrison-hub")
	if got := b.must("stat -c %u /proc/" + pid + "; grep -E 'NoNewPrivs|CapEff' /proc/" + pid + "/status"); strings.HasPrefix(got, "0\n") || !strings.Contains(got, "CapEff:\t0000000000000000") || !strings.Contains(got, "NoNewPrivs:\t1") {
		t.Errorf("the hub's process: %s", got)
	}
	if got := b.must("garrison cache info fleet"); !strings.Contains(strings.Join(strings.Fields(got), " "), "public key fleet:") {
		t.Errorf("the hub's cache: %s", got)
	}
}
