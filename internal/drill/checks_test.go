package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/examples"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestChecksFail breaks one thing after the other in a world in which all is well, and wants the
// check that looks at it to fail: a check that cannot fail proves nothing.
func TestChecksFail(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	d, c := released(ctx, t)
	w := d.world
	sh := func(host, script string) func() error {
		return func() error {
			_, err := w.run(ctx, host, "sh", "-euc", script)
			return err
		}
	}
	look := func(f func() (string, error)) func() error {
		return func() error { _, err := f(); return err }
	}
	var before string
	for _, x := range []struct {
		name         string
		check        func() error
		breakIt, fix func() error
		says         string
	}{
		{
			"another text", look(func() (string, error) { return w.seeText("first release\n") }),
			sh("joker", "mv /etc/gitops-test /root/kept; echo else > /etc/gitops-test"), sh("joker", "mv /root/kept /etc/gitops-test"), `joker says "else\n"`,
		},
		{
			"another secret", look(w.seeSecrets),
			sh("joker", "cp /run/agenix/punchline /root/kept; echo else > /run/agenix/punchline"), sh("joker", "cat /root/kept > /run/agenix/punchline"), "punchline on joker",
		},
		{
			"a host with another host's key", look(func() (string, error) { return w.seeNoOtherSecrets(ctx) }),
			func() error {
				return os.WriteFile(w.hosts["joker"].Path("/etc/ssh/ssh_host_ed25519_key"), w.key("ratched"), 0o600)
			},
			func() error {
				return os.WriteFile(w.hosts["joker"].Path("/etc/ssh/ssh_host_ed25519_key"), w.key("joker"), 0o600)
			}, "joker can decrypt ward-key, which is not for it",
		},
		{
			"the profile is another's", look(func() (string, error) { return w.seeSystems(c) }),
			sh("ursula", "cd /nix/var/nix/profiles; readlink system > /root/kept; ln -sfn /tmp system"), sh("ursula", "ln -sfn $(cat /root/kept) /nix/var/nix/profiles/system"), "profile /tmp",
		},
		{
			"the boot entry is missing", look(func() (string, error) { return w.seeSystems(c) }),
			sh("ursula", "mv /boot/garrison-entry /root/kept"), sh("ursula", "mv /root/kept /boot/garrison-entry"), "garrison-entry",
		},
		{
			"a NAR is truncated", look(func() (string, error) { return w.seeCache(ctx, c) }),
			sh("forge", "cd /var/lib/garrison-hub/cache; mkdir /root/kept; for f in $(find . -name '*.nar*' -o -size +100c -type f | grep -v key); do cp --parents $f /root/kept; echo > $f; done"),
			sh("forge", "cp -r /root/kept/. /var/lib/garrison-hub/cache"), "/nix/store/",
		},
		{
			"the tag is unsigned", look(func() (string, error) { return w.seeSignature(ctx, 1) }),
			func() error {
				_, err := w.git(ctx, "tag", "--delete", "release-1")
				return errors.Join(err, sh("forge", "cd /srv/git/fleet.git; cp -r refs /root/refs; git -c user.name=x -c user.email=x tag -f -a -m release-1 release-1 main")())
			},
			sh("forge", "cd /srv/git/fleet.git; cp /root/refs/tags/release-1 refs/tags/release-1"), "verify-tag",
		},
		{
			"a path that the host made", look(func() (string, error) { return w.seeFetched(ctx, c) }),
			func() error {
				path, err := w.run(ctx, "joker", "nix", "--extra-experimental-features", "nix-command", "store", "add-path", "/etc/gitops-test")
				return c.runs("joker", path, err)
			},
			func() error { return c.runs("joker", "", nil) }, "was not fetched from the cache",
		},
		{
			"somebody touched the manual host", look(func() (string, error) { return w.seeManual(ctx, 1) }),
			sh(manual, "echo else > /etc/gitops-test"), sh(manual, "printf '"+strings.ReplaceAll(byHand, "\n", `\n`)+"' > /etc/gitops-test"), "says \"else\\n\"",
		},
		{
			"the release branch moved", func() error {
				after, err := w.snapshot(ctx)
				if err == nil && after != before {
					err = fmt.Errorf("it differs")
				}
				return err
			},
			func() error {
				var err error
				if before, err = w.snapshot(ctx); err != nil {
					return err
				}
				return sh("forge", "git -C /srv/git/fleet.git tag other main")()
			}, sh("forge", "git -C /srv/git/fleet.git tag -d other"), "it differs",
		},
		{
			"a host failed", look(func() (string, error) { return w.allCommitted(c) }),
			func() error { return c.endsAs("joker", fleet.RolledBack) }, func() error { return c.endsAs("joker", fleet.Committed) }, "joker: \"rolled-back\"",
		},
	} {
		if x.name != "the release branch moved" {
			if err := x.check(); err != nil {
				t.Errorf("%s: before anything is broken: %v", x.name, err)
				continue
			}
		}
		if err := x.breakIt(); err != nil {
			t.Errorf("%s: cannot break it: %v", x.name, err)
			continue
		}
		if err := x.check(); err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: the check says %v", x.name, err)
		}
		if err := x.fix(); err != nil {
			t.Errorf("%s: cannot mend it: %v", x.name, err)
		}
	}
	checkRuns(ctx, t, w, c)
}

// checkRuns wants those checks to fail that look at runs of CI.
func checkRuns(ctx context.Context, t *testing.T, w *world, c *change) {
	t.Helper()
	if _, err := c.released(2); err == nil {
		t.Error("release-1 passes for release-2")
	}
	if _, err := c.failed("joker"); err == nil {
		t.Error("a run that released passes for one that failed")
	}
	if _, err := w.seeLog(ctx, c, "joker: cannot compile frobnicator"); err == nil {
		t.Error("a complaint is found in a log that has none")
	}
	c.run.State, c.run.Failure = fleet.RunFailed, &fleet.Failure{Message: "ursula does not build"}
	if _, err := c.failed("joker"); err == nil {
		t.Error("a failure that names another host passes")
	}
}

// released is a world with a first release on every host, and that change.
func released(ctx context.Context, t *testing.T) (*demo, *change) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	files, err := fs.Sub(examples.Fleet, "fleet")
	if err != nil {
		t.Fatal(err)
	}
	d := newDemo(Options{Self: self, Dir: filepath.Join(t.TempDir(), "demo"), Fleet: files, Out: io.Discard})
	t.Cleanup(func() {
		if err := d.end(); err != nil {
			t.Error(err)
		}
	})
	if err := d.build(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.world.write("gitops-test", []byte("first release\n")); err != nil {
		t.Fatal(err)
	}
	commit, err := d.world.commit(ctx, "The fleet")
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.push(ctx, commit, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.world.git(ctx, "fetch", "--quiet", "--tags", "origin"); err != nil {
		t.Fatal(err)
	}
	return d, c
}

// runs has the change say that a host runs a path; "" is what it does run.
func (c *change) runs(host, path string, err error) error {
	d := c.hosts[host]
	if path == "" {
		path = d.Previous
	}
	d.Previous, d.OutPath = d.OutPath, path
	c.hosts[host] = d
	return err
}

// endsAs has the change say how a host's deployment ended.
func (c *change) endsAs(host string, r fleet.Result) error {
	d := c.hosts[host]
	d.Result = r
	c.hosts[host] = d
	return nil
}
