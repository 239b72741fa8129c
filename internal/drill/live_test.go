package drill

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/examples"
	"github.com/garrison-nix/garrison/internal/fleet"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// someFleet is a fleet that runs, of hosts with a systemd where there is a base for them. It stands for somebody's: what drills it is a command on the developer's machine.
func someFleet(t *testing.T, base string) *yard {
	t.Helper()
	exe, err := os.Executable()
	ok(t, err)
	example, err := fs.Sub(examples.Fleet, "fleet")
	ok(t, err)
	s := newSession(DrillOptions{Options: Options{Self: exe, Dir: t.TempDir(), Fleet: example, Out: t.Output(), Log: slog.New(slog.DiscardHandler)}})
	y := &yard{base: base}
	t.Cleanup(func() { ok(t, y.close()) })
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		logs, _ := filepath.Glob(filepath.Join(s.Dir, "hosts/*/var/log/*.log"))
		more, _ := filepath.Glob(filepath.Join(s.Dir, "hosts/*/upper/var/log/*.log"))
		logs = append(logs, more...)
		for _, file := range logs {
			text, _ := os.ReadFile(file)
			t.Logf("%s: %s", file, text[max(0, len(text)-2000):])
		}
	})
	ok(t, s.makeYard(t.Context(), y))
	y.grant(t, "drill", "read", "ci")
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
	ok(t, os.WriteFile(y.world.hosts["developer"].Path("/root/token"), []byte(y.token("drill")), 0o600))
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
	y := someFleet(t, "")
	y.settings(t, "[cache]\nurl = \""+y.cacheURL+"\"\n[drill]\ncacheKey = \""+y.cacheKey+"\"\n[drill.hosts.ratched]\nvia = "+y.knock(t, "ratched")+"\n", y.hosts()...)
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
	for name, kind := range map[string]fleet.AlertKind{"check-fails": fleet.AlertRelease, "build-fails": fleet.AlertRelease, "activation-fails": fleet.AlertDeployment} {
		y.sawAlert(t, r, name, kind)
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
	t.Run("told", func(t *testing.T) { y.told(t, r.ID) })
}

// sawAlert wants that a drill saw the alert of a scenario, and who told of it, and that it is over.
func (y *yard) sawAlert(t *testing.T, r fleet.DrillReport, name string, kind fleet.AlertKind) {
	t.Helper()
	s := r.Scenarios[slices.IndexFunc(r.Scenarios, func(s fleet.DrillScenario) bool { return s.Name == name })]
	for check, says := range map[string]string{"the hub has the alert " + string(kind): "", "and its senders have told": "person"} {
		if !slices.ContainsFunc(s.Checks, func(c fleet.DrillCheck) bool {
			return c.Name == check && c.Result == fleet.DrillPass && c.Detail != "" && strings.Contains(c.Detail, says)
		}) {
			t.Errorf("%s has no %q: %+v", name, check, s)
		}
	}
	var open []fleet.Alert
	ok(t, y.get(t.Context(), "/api/v1/alerts", &open))
	if slices.ContainsFunc(open, func(a fleet.Alert) bool { return a.Kind == kind }) {
		t.Errorf("%s: an alert is left: %+v", name, open)
	}
	host := ""
	if kind == fleet.AlertDeployment {
		host = drilled
	}
	if _, err := y.ears.heard(kind, host, r.StartedAt); err != nil {
		t.Error(err)
	}
}

// told has the hub say that a drill passed, that one failed, and that the next one passed again; one that it may not be told of passes too.
func (y *yard) told(t *testing.T, passed string) {
	drills := func() (all []fleet.DrillReport) {
		ok(t, y.get(t.Context(), "/api/v1/drills", &all))
		return all
	}
	if all := drills(); !slices.ContainsFunc(all, func(d fleet.DrillReport) bool { return d.ID == passed && d.Passed && d.Where == "live" }) {
		t.Errorf("the hub does not know of %s: %+v", passed, all)
	}
	out, err := y.drillLive(t, "ratched", "--only", "happy-path", "--limit", "1ms").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "may take 0.001 s") {
		t.Fatalf("%v\n%s", err, out)
	}
	a := y.alert(t, fleet.AlertDrill, true)
	if !strings.Contains(a.What, "the drill of ratched failed: happy-path") || !slices.ContainsFunc(a.Commands, func(c string) bool { return strings.HasPrefix(c, "garrison drill --live ratched") }) {
		t.Errorf("%+v", a)
	}
	if _, err := y.ears.heard(fleet.AlertDrill, "", a.OpenedAt); err != nil {
		t.Error(err)
	}
	before := len(drills())
	ok(t, os.WriteFile(y.world.hosts["developer"].Path("/root/token-read"), []byte(y.token("demo")), 0o600))
	out, err = y.drillLive(t, "ratched", "--only", "happy-path", "--token-file", "/root/token-read").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the hub does not know how this drill ended") || !strings.Contains(string(out), "scope ci") || len(drills()) != before {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = y.drillLive(t, "ratched", "--only", "happy-path").CombinedOutput()
	if err != nil || !strings.Contains(string(out), hubURL+"/-/drills") {
		t.Fatalf("%v\n%s", err, out)
	}
	y.alert(t, fleet.AlertDrill, false)
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
	y.marked(t)
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

// Follower is how a host may follow releases without our agent: it builds what the release branch says, or fetches it, and switches to it.
func Follower(remote, options string) string {
	return `#!/bin/sh
git init --quiet --bare /root/fleet
while sleep 1; do
  git -C /root/fleet fetch --quiet ` + remote + ` +refs/heads/release:refs/heads/release || continue
  tip=$(git -C /root/fleet rev-parse release)
  [ "$tip" != "$had" ] || continue
  nix --extra-experimental-features 'nix-command flakes' build --out-link /run/system ` + options + ` \
    "git+file:///root/fleet?ref=release&rev=$tip#nixosConfigurations.joker.config.system.build.toplevel" || continue
  "$(readlink -f /run/system)/bin/switch-to-configuration" switch && had=$tip
done
`
}

// TestFollower drills a host that follows releases by a script; the hub knows nothing of it, and commands on it say what it does.
func TestFollower(t *testing.T) {
	t.Parallel()
	y := someFleet(t, "")
	joker := y.world.hosts["joker"]
	ok(t, joker.StopService(t.Context(), "agent"))
	ok(t, os.WriteFile(joker.Path("/etc/follower"), []byte(Follower(origin, "")), 0o755))
	cmd := joker.Command(context.WithoutCancel(t.Context()), "sh", "-c", "exec /etc/follower > /var/log/follower.log 2>&1")
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
	y.grant(t, "operator", "operate")
	ok(t, os.WriteFile(y.world.hosts["forge"].Path("/root/operator"), []byte(y.token("operator")), 0o600))
	_, err := y.run(t.Context(), "forge", "garrison", "hub", "forget", host, "--hub", hubURL, "--token-file", "/root/operator")
	ok(t, err)
}

// grant has the hub take a token, and waits until it answers again.
func (y *yard) grant(t *testing.T, who string, scopes ...string) {
	t.Helper()
	const file = "/etc/garrison/tokens.toml"
	tokens, err := y.world.hosts["forge"].ReadFile(file)
	ok(t, err)
	entry := fmt.Sprintf("[[token]]\nname = %q\nsha256 = \"%x\"\nscopes = [\"%s\"]\n", who, sha256.Sum256([]byte(y.token(who))), strings.Join(scopes, `", "`))
	ok(t, os.WriteFile(y.world.hosts["forge"].Path(file), append(tokens, entry...), 0o600))
	y.hubAnew(t)
}

// hubAnew restarts the hub.
func (y *yard) hubAnew(t *testing.T) {
	t.Helper()
	ok(t, y.world.hosts["forge"].RestartService(t.Context(), "hub"))
	ok(t, until(t.Context(), patience, lookAgain, func() error {
		var all []fleet.Status
		return y.get(t.Context(), "/api/v1/hosts", &all)
	}))
}
