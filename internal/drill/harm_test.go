package drill

import (
	"bytes"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// harmful are the scenarios that may disturb a live host, by what of it they break.
var harmful = map[string]breakage{"activation-fails": breakActivate, "unit-fails": breakUnit, "health-check-fails": breakCheck, "network-cut": breakNetwork}

// sshTo has the developer reach a host by SSH, as its root.
func (y *yard) sshTo(t *testing.T, host string) {
	t.Helper()
	SSHD(t, y.world.hosts[host], SSHClient(t, y.world.hosts["developer"], map[string]string{host: string(y.key(host + ".pub"))}))
}

// TestHarm drills what may disturb a host that has a systemd and is reached by SSH, all at once; then each is interrupted in its middle.
func TestHarm(t *testing.T) {
	t.Parallel()
	base, err := sandbox.HostBase(t.Context(), "../../scripts/host-base")
	ok(t, err)
	y := someFleet(t, base)
	y.sshTo(t, drilled)
	y.settings(t, "", y.hosts()...)
	_, tree := y.mainIs(t)
	var names []string
	for name := range harmful {
		names = append(names, name)
	}
	allow := "--allow=" + strings.Join(names, ",")

	out, err := y.drillLive(t, drilled, allow, "--only="+strings.Join(names, ",")).CombinedOutput()
	t.Logf("%s", out)
	ok(t, err)
	r := y.reportOf(t)
	for name := range harmful {
		if got := results(r)[name]; got != fleet.DrillPass {
			t.Errorf("%s: %s", name, got)
		}
		y.sawAlert(t, r, name, fleet.AlertDeployment)
	}
	y.asBefore(t, tree)
	for _, name := range slices.Sorted(slices.Values(names)) {
		t.Run(name, func(t *testing.T) { y.interruptedAt(t, name, tree, allow) })
	}
}

// asBefore wants main to have the files it had, every host to run what it says, and no alert to be open.
func (y *yard) asBefore(t *testing.T, tree string) {
	t.Helper()
	commit, now := y.mainIs(t)
	if now != tree {
		t.Errorf("main's files are %s, not %s", now, tree)
	}
	ok(t, y.converged(t.Context(), commit))
	if text, err := y.host(drilled).marker(t.Context()); err == nil && strings.HasPrefix(text, "garrison drill ") {
		t.Errorf("%s says %q", drilled, text)
	}
	ok(t, until(t.Context(), patience, lookAgain, func() error {
		var open []fleet.Alert
		err := y.get(t.Context(), "/api/v1/alerts", &open)
		if err == nil && len(open) > 0 {
			err = errors.New(open[0].What)
		}
		return err
	}))
}

// interruptedAt has a drill end by Ctrl-C when the host has heard of the release that harms it.
func (y *yard) interruptedAt(t *testing.T, name, tree, allow string) {
	cmd := y.drillLive(t, drilled, allow, "--only="+name)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	ok(t, cmd.Start())
	err := until(t.Context(), patience, lookAgain, func() error {
		text, err := y.run(t.Context(), "forge", "git", "-C", bare, "show", "main:"+markerFile)
		if err != nil || !strings.Contains(text, `"`+string(harmful[name])+`"`) {
			return errors.New("nothing was pushed")
		}
		tip, _ := y.mainIs(t)
		s, err := y.status(t.Context(), drilled)
		if err == nil && (s.Newest == nil || s.Newest.Source.Commit != tip) {
			err = errors.New(s.Summary())
		}
		return err
	})
	ok(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGINT))
	if ended := cmd.Wait(); !errors.As(ended, new(*exec.ExitError)) {
		t.Errorf("it ended with %v", ended)
	}
	if t.Logf("%s", said.String()); err != nil {
		t.Fatal(err)
	}
	y.asBefore(t, tree)
	if left, err := filepath.Glob(y.world.hosts["developer"].Path("/tmp/*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
