package drill

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/sandbox"
	"github.com/garrison-nix/garrison/nix/modulestest"
)

// moduleBreaks is what the NixOS module makes of a host that a drill breaks.
func moduleBreaks(t *testing.T, host string, b breakage) modulestest.Host {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, markerFile)
	ok(t, os.WriteFile(file, broken(host, b).bytes(), 0o600))
	h, err := modulestest.Eval(t.Context(), []string{"NIX_CONFIG=build-users-group =", "NIX_REMOTE=local?root=" + filepath.Join(dir, "root")}, fmt.Sprintf(
		`{ services.garrison.package = "/nix/store/00000000000000000000000000000000-garrison"; networking.hostName = %q; services.garrison.drill = { enable = true; file = %s; }; }`, host, file))
	if err != nil || len(h.Failed) > 0 {
		t.Fatalf("%s: %v %q", b, err, h.Failed)
	}
	return h
}

// TestModule has a real systemd run what the NixOS module breaks: the unit for "network" cuts the host off from others and from nothing else, and its
// end lets them in again; the one for "unit" fails, and says why; the texts of activation fail, or do not.
func TestModule(t *testing.T) {
	t.Parallel()
	base, err := sandbox.HostBase(t.Context(), "../../scripts/host-base")
	ok(t, err)
	exe, err := os.Executable()
	ok(t, err)
	lan, err := sandbox.NewLAN(t.Context(), sandbox.Options{Self: exe, Dir: t.TempDir()})
	ok(t, err)
	t.Cleanup(func() { ok(t, lan.Close()) })
	start := func(name string, last byte, base string) *sandbox.Host {
		h, err := lan.Start(t.Context(), sandbox.HostOptions{Name: name, Addr: netip.AddrFrom4([4]byte{192, 0, 2, last}), Base: base})
		ok(t, err)
		return h
	}
	h, other := start("ratched", 11, base), start("joker", 12, "")
	for _, x := range []*sandbox.Host{h, other} {
		l, err := x.Listen("tcp", x.Addr().String()+":80")
		ok(t, err)
		defer l.Close()
	}
	run := func(args ...string) (string, error) {
		out, err := h.Command(t.Context(), args[0], args[1:]...).CombinedOutput()
		return string(out), err
	}
	reaches := func(to *sandbox.Host) bool {
		_, err := run("timeout", "5", "bash", "-c", "exec 3<>/dev/tcp/"+to.Addr().String()+"/80")
		return err == nil
	}
	unit := func(name string, b breakage) {
		u, there := moduleBreaks(t, "ratched", b).Units[name]
		if !there || len(u.WantedBy) != 1 || u.WantedBy[0] != "multi-user.target" {
			t.Fatalf("%s: %+v", name, u)
		}
		ok(t, os.WriteFile(h.Path("/etc/systemd/system/"+name+".service"), []byte(u.Text()), 0o644))
		_, err := run("systemctl", "daemon-reload")
		ok(t, err)
	}

	unit("garrison-drill-network", breakNetwork)
	before, err := run("ip", "rule")
	ok(t, err)
	if !reaches(h) || !reaches(other) {
		t.Fatal("it reaches nobody before")
	}
	if out, err := run("systemctl", "start", "garrison-drill-network"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if reaches(other) || !reaches(h) {
		t.Errorf("cut off, it reaches another host: %v, itself: %v", reaches(other), reaches(h))
	}
	soon, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if c, err := other.DialContext(soon, "tcp", h.Addr().String()+":80"); err == nil {
		_ = c.Close()
		t.Error("cut off, it is reached")
	}
	if out, err := run("systemctl", "stop", "garrison-drill-network"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if after, err := run("ip", "rule"); err != nil || after != before || !reaches(other) {
		t.Errorf("let in again, it reaches another host: %v; its rules are\n%s and were\n%s", reaches(other), after, before)
	}

	unit("garrison-drill", breakUnit)
	if out, err := run("systemctl", "start", "garrison-drill"); err == nil {
		t.Errorf("the unit does not fail: %s", out)
	}
	ok(t, until(t.Context(), patience, lookAgain, func() error {
		log, err := run("journalctl", "--no-pager", "-u", "garrison-drill")
		if err == nil && !strings.Contains(log, breakUnit.complaint()) {
			err = errors.New(log)
		}
		return err
	}))

	for b, fails := range map[breakage]bool{breakActivate: true, breakSlow: false} {
		text := strings.Replace(moduleBreaks(t, "ratched", b).Activation["garrison-drill"], "sleep 10", "sleep 0", 1)
		if out, err := run("sh", "-ec", text); (err != nil) != fails || !strings.Contains(out, b.complaint()) {
			t.Errorf("%s: %v: %s", b, err, out)
		}
	}
}
