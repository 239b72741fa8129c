package agent_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestGitOnSystemd: on a host with a systemd the agent follows a forge that asks for a credential, beside a mirror that lags and a remote
// that is dead, through what befalls git: credentials that are missing, expire and are renewed, a remote that lies, and with it
// all that the agent remembers.
func TestGitOnSystemd(t *testing.T) {
	t.Parallel()
	l := needLab(t)
	dir := t.TempDir()
	origin := l.origin(t, dir)
	listener, err := l.forge.Listen("tcp", l.forge.Addr().String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	forge := newForge(t, dir, listener)
	forge.lock("t0ken-1")
	hub, hubAt := l.mirror(t)
	t.Cleanup(func() {
		if err := hub.Kill(); err != nil {
			t.Error(err)
		}
	})
	config := "socket = \"/run/garrison/agent.sock\"\n"
	for name, url := range map[string]string{"forge": forge.url(), "mirror": forge.URL + "/mirror.git", "dead": "http://192.0.2.250/fleet.git"} {
		config += fmt.Sprintf("[[remotes]]\nname = %q\nurl = %q\ncredentialsFile = \"/etc/garrison/git-token\"\n", name, url)
	}
	b := newBox(t, boxOptions{systemd: true, origin: origin, remotes: true, config: config + fmt.Sprintf("[hub]\nurl = %q\ntokenFile = \"/etc/garrison/hub-token\"\n", hubAt)})
	remote := func(s fleet.Status, name string) fleet.Remote {
		for _, r := range s.Remotes {
			if r.Name == name {
				return r
			}
		}
		t.Fatalf("no remote %s: %+v", name, s.Remotes)
		return fleet.Remote{}
	}
	// cannot waits until the forge cannot be used, for a reason that is an alarm: in the status, and counted.
	cannot := func(code fleet.Code, says ...string) {
		t.Helper()
		b.await("the forge cannot be used: "+string(code), func(s fleet.Status) bool {
			f := remote(s, "forge").Failure
			return f != nil && f.Code == code && s.Remote.Failure != nil
		})
		out, _ := b.run("garrison status")
		for _, w := range append(says, "UNREACHABLE", "→ ") {
			if !strings.Contains(out, w) {
				t.Errorf("the status does not say %q:\n%s", w, out)
			}
		}
		if text := b.metrics(); !strings.Contains(text, `garrison_failures_total{code="`+string(code)+`"}`) {
			t.Errorf("%s is not counted:\n%s", code, text)
		}
	}
	token := func(text string) { t.Helper(); b.must("umask 077; printf %s " + text + " > /etc/garrison/git-token") }

	n := b.publish("good1")
	cannot(fleet.CodeKey, "/etc/garrison/git-token")
	token("t0ken-1") // a mirror there is not yet: it and the dead remote delay nothing
	if s := b.ended(n); s.Last.Result != fleet.Committed || remote(s, "forge").Failure != nil {
		t.Fatalf("%+v, %+v", s.Last, s.Remotes)
	}
	if err := command(dir, "git", "clone", "--quiet", "--mirror", origin.Dir, filepath.Join(dir, "mirror.git")); err != nil {
		t.Fatal(err)
	}
	first := b.tip
	b.deploy("good2")
	b.await("what each remote is", func(s fleet.Status) bool {
		return remote(s, "mirror").Behind && remote(s, "dead").Failure != nil && remote(s, "forge").Tip == b.tip && s.Remote.Failure == nil && s.Refused == nil
	})
	b.says(0, "behind, at "+first[:12], "UNREACHABLE")
	// Nor does the dead one delay a switch: only what answers is looked for before and after.
	b.deploy("good1")
	b.deploy("good2")
	if asked := b.must("cat " + stateDir + "/activation/request.json"); strings.Contains(asked, "192.0.2.250") || !strings.Contains(asked, forge.url()+"/info/refs") || !strings.Contains(asked, "/nix-cache-info") {
		t.Errorf("the activation looks at %s", asked)
	}

	forge.lock("t0ken-2")
	n = b.publish("good3")
	cannot(fleet.CodeUnauthorized, "renew /etc/garrison/git-token")
	b.runs("good2")
	token("anybody:t0ken-2")
	b.ended(n)
	b.runs("good3")
	if out, err := b.run("grep -rlF t0ken " + stateDir + " /var/log/agent.log"); err == nil {
		t.Errorf("the token stands in %s", out)
	}

	// The mirror catches up, and the forge goes back: that is the forge's alarm alone, and no host's.
	if err := command(dir, "git", "--git-dir", "mirror.git", "fetch", "--quiet", "--prune", "origin"); err != nil {
		t.Fatal(err)
	}
	third := b.tip
	b.await("the mirror caught up", func(s fleet.Status) bool { return remote(s, "mirror").Tip == third })
	b.point(first)
	s := b.await("the forge is refused", func(s fleet.Status) bool { return remote(s, "forge").Refused != nil })
	if r := remote(s, "forge").Refused; r.Failure.Code != fleet.CodeForcePushed || s.Refused != nil {
		t.Errorf("%+v, and of the host %+v", r, s.Refused)
	}
	// Alone, its word is all there is: the host says so, here and to the hub, and an operator can let it in.
	if err := os.Rename(filepath.Join(dir, "mirror.git"), filepath.Join(dir, "away.git")); err != nil {
		t.Fatal(err)
	}
	b.await("the host says so", func(s fleet.Status) bool { return s.Refused != nil && s.Refused.Tip == first })
	b.must("printf read-token > /etc/garrison/read-token")
	b.eventually("the hub is told", func() bool {
		out, _ := b.run("garrison status --hub " + hubAt + " --host joker --token-file /etc/garrison/read-token")
		return strings.Contains(out, "REFUSED") && strings.Contains(out, "was force-pushed")
	})
	b.says(3, "REFUSED", "garrison agent accept "+first)
	b.runs("good3")
	b.orders(1, "agent accept "+third, "is not the commit that is refused")
	b.orders(0, "agent accept "+first[:10])
	s = b.await("gone back", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Newest.Number == 1 })
	b.runs("good1")
	b.says(0)
	b.point(third)
	b.await("and forth", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Newest.Number == n })
	b.runs("good3")

	// All that the agent knew is deleted: it finds what runs, and does not go back for a branch that does. Then it is damaged.
	last := "good3"
	for what, script := range map[string]string{
		"deleted": "rm -rf " + stateDir + "/* " + stateDir + "/.[a-z]*",
		"damaged": "cd " + stateDir + " && for f in *.json *.jsonl; do truncate -s 20 $f; done; find repo.git/objects -type f -exec chmod u+w {} + -exec truncate -s 30 {} +",
	} {
		before := b.must("systemctl show -P InvocationID gitops-demo; ls /nix/var/nix/profiles")
		b.stopped(func() { b.must(script) })
		b.await(what+": it finds back to what runs", func(s fleet.Status) bool {
			return s.Phase == fleet.PhaseIdle && s.Active != nil && s.Active.OutPath == b.lab.out(last) && s.Refused == nil
		})
		b.runs(last)
		if after := b.must("systemctl show -P InvocationID gitops-demo; ls /nix/var/nix/profiles"); after != before {
			t.Errorf("%s: the host was changed: %s, before it %s", what, after, before)
		}
		last = map[string]string{"good3": "good1", "good1": "good3"}[last]
		b.deploy(last)
		b.says(0)
	}
}

// metrics is what the agent exposes on its socket.
func (b *box) metrics() string {
	b.t.Helper()
	resp, err := b.client().Get("http://agent/metrics")
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}
