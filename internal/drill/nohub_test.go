package drill_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/garrison-nix/garrison/internal/drill"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// TestNoHub drills a fleet that has nothing of Garrison's but its CI command and its cache: a forge whose Actions release it, and a host with a systemd
// that follows the release branch by a script. The forge says what CI does, SSH what the host runs, and narinfo what the cache has.
func TestNoHub(t *testing.T) {
	t.Parallel()
	base, err := sandbox.HostBase(t.Context(), "../../scripts/host-base")
	must(t, err)
	w := newForge(t)
	w.startHub("")
	w.writeFleet()
	w.write("garrison.toml", string(w.file("fleet/garrison.toml"))+fmt.Sprintf("[drill]\ncacheKey = %q\n", w.cacheKey))
	w.initialize(nil)
	script := drill.Follower(forgeThen+"/"+w.repo.Full()+".git", "--option substituters "+hubThen+"/fleet --option trusted-public-keys "+w.cacheKey)
	w.joker, err = w.lan.Start(t.Context(), sandbox.HostOptions{Name: "joker", Addr: netip.AddrFrom4([4]byte{192, 0, 2, 2}), Base: base, Files: []sandbox.File{
		{Path: "/etc/follower", Mode: 0o755, Data: []byte(script)},
		{Path: "/etc/ssh/ssh_host_ed25519_key", Mode: 0o600, Data: w.file("joker")},
		{Path: "/etc/ssh/ssh_host_ed25519_key.pub", Data: w.file("joker.pub")},
	}, Services: []sandbox.Service{{Name: "follower", Args: []string{"/bin/sh", "/etc/follower"}, Restart: true}}})
	must(t, err)
	t.Cleanup(func() {
		if log, err := w.joker.ReadFile("/var/log/follower.log"); t.Failed() {
			t.Logf("the follower: %v\n%.8000s", err, log)
		}
	})
	w.ends("push", w.change("first"), "success")
	w.says("first")
	p := w.person()
	tree := p.git("rev-parse", "origin/main^{tree}")

	out, code := p.drill("--repeat", "2", "--allow", "activation-fails", "--report", "json=/root/report.json")
	t.Logf("%s", out)
	var r fleet.DrillReport
	text, err := p.machine.ReadFile("/root/report.json")
	must(t, err)
	must(t, json.Unmarshal(text, &r))
	if code != 0 || !r.Passed || r.Timing == nil || r.Timing.PushToHealthy.Count != 2 {
		t.Errorf("exit code %d, %+v", code, r)
	}
	for name, want := range map[string]fleet.DrillResult{"happy-path": "pass", "check-fails": "pass", "build-fails": "pass", "activation-fails": "skip", "power-cut": "skip"} {
		i := slices.IndexFunc(r.Scenarios, func(s fleet.DrillScenario) bool { return s.Name == name })
		if got := r.Scenarios[i].Result; got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
	if !strings.Contains(out, "ok   the system's closure is in the cache, whole and signed") {
		t.Error("the cache was not looked at")
	}
	w.says("first")
	p.git("fetch", "--quiet")
	if now := p.git("rev-parse", "origin/main^{tree}"); now != tree {
		t.Errorf("main has\n%s", p.git("ls-tree", "origin/main"))
	}
	p.cannotLook()
	w.git("pull", "--quiet", "--rebase", "origin", "main")
	w.write("broken", "")
	w.ends("push", w.change("broken"), "failure")
	p.refused("CI failed", "which the fleet does not run")
}

// person is somebody who may push, at a machine of their own.
type person struct {
	*town
	machine *sandbox.Host
}

func (w *town) person() person {
	w.t.Helper()
	m, err := w.lan.Start(w.t.Context(), sandbox.HostOptions{Name: "laptop", Addr: netip.AddrFrom4([4]byte{192, 0, 2, 3}), Env: []string{"GORACE=atexit_sleep_ms=0"},
		Files: []sandbox.File{{Path: "/root/.gitconfig", Data: []byte("[user]\n\tname = Somebody\n\temail = somebody@example.org\n")}}})
	must(w.t, err)
	// The cache is at the address that garrison.toml has for CI.
	l, err := m.Listen("tcp", strings.TrimPrefix(w.hubURL, "http://"))
	must(w.t, err)
	forward(w.t, l, func(ctx context.Context) (net.Conn, error) {
		return w.hub.DialContext(ctx, "tcp", net.JoinHostPort(hubAddr, hubPort))
	})
	p := person{w, m}
	_, err = m.Run(w.t.Context(), "git", "clone", "--quiet", strings.Replace(w.repo.Push, strings.TrimPrefix(w.forge.URL, "http://"), hubAddr+":"+forgePort, 1), "/root/fleet")
	must(w.t, err)
	drill.SSHD(w.t, w.joker, drill.SSHClient(w.t, m, map[string]string{"joker": string(w.file("joker.pub"))}))
	return p
}

func (p person) git(args ...string) string {
	p.t.Helper()
	out, err := p.machine.Run(p.t.Context(), "git", append([]string{"-C", "/root/fleet"}, args...)...)
	must(p.t, err)
	return strings.TrimSpace(out)
}

// drill runs garrison drill --live.
func (p person) drill(args ...string) (said string, code int) {
	p.t.Helper()
	cmd := p.machine.Command(p.t.Context(), "garrison", append([]string{"drill", "--live", "joker", "--repo", "/root/fleet", "--limit", "2m"}, args...)...)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run()
	return out.String(), cmd.ProcessState.ExitCode()
}

// refused wants a drill not to begin, to say why, and main to stay.
func (p person) refused(says ...string) {
	p.t.Helper()
	p.git("fetch", "--quiet")
	before := p.git("rev-parse", "origin/main")
	out, code := p.drill()
	for _, what := range append(says, "nothing was drilled") {
		if code != 6 || !strings.Contains(out, what) {
			p.t.Errorf("exit code %d, without %q:\n%s", code, what, out)
		}
	}
	p.git("fetch", "--quiet")
	if now := p.git("rev-parse", "origin/main"); now != before {
		p.t.Errorf("main was %s, is %s", before, now)
	}
}

// cannotLook has SSH not come to the host, for one reason after the other.
func (p person) cannotLook() {
	known, key := p.machine.Path("/root/.ssh/known_hosts"), p.machine.Path("/root/.ssh/drill-key")
	for _, x := range []struct{ file, text, says string }{
		{known, "joker " + string(p.file("ursula.pub")), "the host has another key than known_hosts says"},
		{known, "", "its host key is not known here: ssh root@joker once by hand"},
		{key, string(p.file("editor")), "it takes no key of yours"},
	} {
		good, err := os.ReadFile(x.file)
		must(p.t, err)
		must(p.t, os.WriteFile(x.file, []byte(x.text), 0o600))
		p.refused("ssh does not get to root@joker", x.says, "[drill.hosts.joker] in garrison.toml says how")
		must(p.t, os.WriteFile(x.file, good, 0o600))
	}
	must(p.t, p.joker.CutLink(p.t.Context()))
	p.refused("ssh does not get to root@joker", "it does not answer")
	must(p.t, p.joker.RestoreLink(p.t.Context()))
	out, _ := p.drill("--live", "nobody")
	if !strings.Contains(out, "nothing knows that name") {
		p.t.Errorf("of a host that is none:\n%s", out)
	}
}
