package drill

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/examples"
	"github.com/garrison-nix/garrison/internal/fleet"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// someFleet is a fleet that runs, of hosts without a systemd. It stands for somebody's: what drills it is a command on the developer's machine.
func someFleet(t *testing.T) *yard {
	t.Helper()
	exe, err := os.Executable()
	ok(t, err)
	example, err := fs.Sub(examples.Fleet, "fleet")
	ok(t, err)
	s := newSession(DrillOptions{Options: Options{Self: exe, Dir: t.TempDir(), Fleet: example, Out: t.Output(), Log: slog.New(slog.DiscardHandler)}})
	y := &yard{}
	t.Cleanup(func() { ok(t, y.close()) })
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		logs, _ := filepath.Glob(filepath.Join(s.Dir, "hosts/*/var/log/*.log"))
		for _, file := range logs {
			text, _ := os.ReadFile(file)
			t.Logf("%s: %s", file, text[max(0, len(text)-2000):])
		}
	})
	ok(t, s.makeYard(t.Context(), y))
	return y
}

// knock has a host do what it is told on a port, as an SSH server would, and is the probe's "via".
func (y *yard) knock(t *testing.T, host string) string {
	t.Helper()
	ok(t, os.WriteFile(y.world.hosts[host].Path("/etc/knock"), []byte("#!/bin/sh\nread -r line\neval \"$line\"\n"), 0o755))
	cmd := y.world.hosts[host].Command(context.WithoutCancel(t.Context()), "busybox", "nc", "-ll", "-p", "7777", "-e", "/etc/knock")
	ok(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	addr := addresses[host].String()
	return `["sh", "-c", "echo \"$1\" | busybox nc ` + addr + ` 7777", "knock"]`
}

// settings has garrison.toml say more, and waits until the hosts have it.
func (y *yard) settings(t *testing.T, more string, hosts ...string) {
	t.Helper()
	ok(t, y.write("garrison.toml", []byte(y.config+more)))
	ok(t, y.write(markerFile, nil)) // a drill makes its own
	commit, err := y.commit(t.Context(), "Settings")
	ok(t, err)
	_, err = y.git(t.Context(), "push", "--quiet", "origin", "main")
	ok(t, err)
	ok(t, y.convergedOn(t.Context(), commit, hosts))
}

// drillLive is garrison drill --live on the developer's machine.
func (y *yard) drillLive(t *testing.T, host string, args ...string) *exec.Cmd {
	t.Helper()
	ok(t, os.WriteFile(y.world.hosts["developer"].Path("/root/token"), []byte(y.token("demo")), 0o600))
	cmd := y.world.hosts["developer"].Command(t.Context(), "garrison", append([]string{"drill", "--live", host, "--repo", clone, "--hub", hubURL,
		"--token-file", "/root/token", "--repeat", "1", "--limit", "1m", "--report", "json=/root/report.json"}, args...)...)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

func (y *yard) reportOf(t *testing.T) (r fleet.DrillReport) {
	t.Helper()
	b, err := os.ReadFile(y.world.hosts["developer"].Path("/root/report.json"))
	ok(t, err)
	ok(t, json.Unmarshal(b, &r))
	return r
}

// mainIs is the repository's main: its commit, and the files in it.
func (y *yard) mainIs(t *testing.T) (commit, tree string) {
	t.Helper()
	commit, err := y.run(t.Context(), "forge", "git", "-C", bare, "rev-parse", "main")
	ok(t, err)
	tree, err = y.run(t.Context(), "forge", "git", "-C", bare, "rev-parse", "main^{tree}")
	ok(t, err)
	return commit, tree
}

func results(r fleet.DrillReport) map[string]fleet.DrillResult {
	m := map[string]fleet.DrillResult{}
	for _, s := range r.Scenarios {
		m[s.Name] = s.Result
	}
	return m
}

// TestLive drills somebody's fleet: what is harmless, and one thing that is not; interrupts a drill; and has it refuse.
func TestLive(t *testing.T) {
	t.Parallel()
	y := someFleet(t)
	y.settings(t, "[cache]\nurl = \""+cacheURL+"\"\n[drill]\ncacheKey = \""+y.cacheKey+"\"\n[drill.hosts.ratched]\nvia = "+y.knock(t, "ratched")+"\n", y.hosts()...)
	before, tree := y.mainIs(t)
	// Somebody works in the clone meanwhile.
	ok(t, y.write("half-done", []byte("x\n")))
	workTree, err := y.git(t.Context(), "status", "--porcelain")
	ok(t, err)

	out, err := y.drillLive(t, "ratched", "--allow", "activation-fails").CombinedOutput()
	t.Logf("%s", out)
	ok(t, err)
	r := y.reportOf(t)
	got := results(r)
	for name, want := range map[string]fleet.DrillResult{"happy-path": fleet.DrillPass, "check-fails": fleet.DrillPass, "build-fails": fleet.DrillPass,
		"activation-fails": fleet.DrillPass, "network-cut": fleet.DrillSkip, "power-cut": fleet.DrillSkip} {
		if got[name] != want {
			t.Errorf("%s: %s, not %s", name, got[name], want)
		}
	}
	if !r.Passed || r.Where != "live" || r.Host != "ratched" || r.Timing == nil || len(r.Timing.Stages) < 5 {
		t.Errorf("%+v", r)
	}
	after, treeAfter := y.mainIs(t)
	if after == before || treeAfter != tree {
		t.Errorf("main was %s with %s, is %s with %s", before, tree, after, treeAfter)
	}
	if now, err := y.git(t.Context(), "status", "--porcelain"); err != nil || now != workTree {
		t.Errorf("the work tree has %q, %v", now, err)
	}
	ok(t, y.converged(t.Context(), after))

	t.Run("Ctrl-C", func(t *testing.T) { y.interrupted(t, tree) })
	t.Run("moved", func(t *testing.T) { y.moving(t) })
	t.Run("unwell", func(t *testing.T) { y.unwell(t) })
}

// interrupted stops a drill when main is broken by it.
func (y *yard) interrupted(t *testing.T, tree string) {
	cmd := y.drillLive(t, "ratched", "--only", "build-fails")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	ok(t, cmd.Start())
	for { // until main is broken, or the test's time is over
		text, err := y.run(t.Context(), "forge", "git", "-C", bare, "show", "main:"+markerFile)
		if err == nil && strings.Contains(text, `"build"`) {
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatal(said.String())
		case <-time.After(lookAgain):
		}
	}
	ok(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGINT))
	err := cmd.Wait()
	if err == nil {
		t.Errorf("it says that all is well:\n%s", said.String())
	}
	if _, now := y.mainIs(t); now != tree {
		t.Errorf("main's files are %s, not %s:\n%s", now, tree, said.String())
	}
	if left, err := filepath.Glob(y.world.hosts["developer"].Path("/tmp/garrison-drill-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	commit, _ := y.mainIs(t)
	ok(t, y.converged(t.Context(), commit))
}

// moving pushes to main while it is drilled: the drill ends, what it did is undone, and the push stays.
func (y *yard) moving(t *testing.T) {
	_, err := y.git(t.Context(), "pull", "--quiet", "--rebase", "--autostash", "origin", "main")
	ok(t, err)
	cmd := y.drillLive(t, "ratched", "--repeat", "50", "--only", "happy-path")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	ok(t, cmd.Start())
	begun := func() error {
		_, err := y.run(t.Context(), "forge", "git", "-C", bare, "cat-file", "-e", "main:"+markerFile)
		return err
	}
	ok(t, until(t.Context(), patience, lookAgain, begun))
	ok(t, y.write("half-done", []byte("done\n")))
	if _, err := y.commit(t.Context(), "Somebody's work"); err != nil {
		t.Fatal(err)
	}
	ok(t, until(t.Context(), patience, lookAgain, func() error { // against the drill, which pushes too
		_, err := y.git(t.Context(), "pull", "--quiet", "--rebase", "origin", "main")
		if err == nil {
			_, err = y.git(t.Context(), "push", "--quiet", "origin", "main")
		}
		return err
	}))
	if err := cmd.Wait(); err == nil || !strings.Contains(said.String(), "somebody pushed") {
		t.Errorf("%v:\n%s", err, said.String())
	}
	files, err := y.run(t.Context(), "forge", "git", "-C", bare, "ls-tree", "--name-only", "main")
	ok(t, err)
	if !strings.Contains(files, "half-done") || strings.Contains(files, markerFile) {
		t.Errorf("main has %s", files)
	}
	commit, _ := y.mainIs(t)
	ok(t, y.converged(t.Context(), commit))
}

// unwell has the drill refuse a fleet of which a host was switched by hand, and push nothing.
func (y *yard) unwell(t *testing.T) {
	_, err := y.run(t.Context(), "joker", "garrison", "rollback")
	ok(t, err)
	before, _ := y.mainIs(t)
	ok(t, until(t.Context(), patience, lookAgain, func() error { // the hub hears of it
		var s fleet.Status
		err := y.get(t.Context(), "/api/v1/hosts/joker", &s)
		if err == nil && s.Phase != fleet.PhaseOverruled {
			err = errors.New(s.Summary())
		}
		return err
	}))
	out, err := y.drillLive(t, "ratched").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "joker is by hand") {
		t.Errorf("%v:\n%s", err, out)
	}
	if now, _ := y.mainIs(t); now != before {
		t.Errorf("main is %s, was %s", now, before)
	}
}

// follower is how a host may follow releases without our agent: it builds what the release branch says, or fetches it, and switches to it.
const follower = `#!/bin/sh
exec > /var/log/follower.log 2>&1
git init --quiet --bare /root/fleet
while sleep 1; do
  git -C /root/fleet fetch --quiet ` + origin + ` +refs/heads/release:refs/heads/release || continue
  tip=$(git -C /root/fleet rev-parse release)
  [ "$tip" != "$had" ] || continue
  nix --extra-experimental-features 'nix-command flakes' build --out-link /run/system \
    "git+file:///root/fleet?ref=release&rev=$tip#nixosConfigurations.joker.config.system.build.toplevel" || continue
  "$(readlink -f /run/system)/bin/switch-to-configuration" switch && had=$tip
done
`

// TestFollower drills a host that follows releases by a script; the hub knows nothing of it, and commands on it say what it does.
func TestFollower(t *testing.T) {
	t.Parallel()
	y := someFleet(t)
	joker := y.world.hosts["joker"]
	ok(t, joker.StopService(t.Context(), "agent"))
	ok(t, os.WriteFile(joker.Path("/etc/follower"), []byte(follower), 0o755))
	cmd := joker.Command(context.WithoutCancel(t.Context()), "/etc/follower")
	ok(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	y.forget(t, "joker")
	y.settings(t, "[drill.hosts.joker]\nvia = "+y.knock(t, "joker")+"\n", "ratched", "ursula")
	_, tree := y.mainIs(t)

	out, err := y.drillLive(t, "joker", "--allow", "activation-fails").CombinedOutput()
	t.Logf("%s", out)
	ok(t, err)
	r := y.reportOf(t)
	got := results(r)
	for name, want := range map[string]fleet.DrillResult{"happy-path": fleet.DrillPass, "check-fails": fleet.DrillPass, "build-fails": fleet.DrillPass, "activation-fails": fleet.DrillSkip} {
		if got[name] != want {
			t.Errorf("%s: %s, not %s", name, got[name], want)
		}
	}
	if r.Timing == nil || r.Timing.PushToHealthy.Median <= 0 {
		t.Errorf("timing: %+v", r.Timing)
	}
	if _, now := y.mainIs(t); now != tree {
		t.Errorf("main's files are %s, not %s", now, tree)
	}
}

// forget has the hub forget a host, as one that never had an agent.
func (y *yard) forget(t *testing.T, host string) {
	t.Helper()
	forge := y.world.hosts["forge"]
	const file = "/etc/garrison/tokens.toml"
	tokens, err := forge.ReadFile(file)
	ok(t, err)
	entry := fmt.Sprintf("[[token]]\nname = \"operator\"\nsha256 = \"%x\"\nscopes = [\"operate\"]\n", sha256.Sum256([]byte(y.token("operator"))))
	ok(t, os.WriteFile(forge.Path(file), append(tokens, entry...), 0o600))
	ok(t, os.WriteFile(forge.Path("/root/operator"), []byte(y.token("operator")), 0o600))
	ok(t, forge.RestartService(t.Context(), "hub"))
	ok(t, until(t.Context(), patience, lookAgain, func() error {
		_, err := y.run(t.Context(), "forge", "garrison", "hub", "forget", host, "--hub", hubURL, "--token-file", "/root/operator")
		return err
	}))
}
