package agent_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/sandbox"
)

// pushHost is a host with a real systemd, Nix's daemon, and the units by which the NixOS module has what comes into its store pushed to c.
// They have the test's PATH, and start again sooner after a failure.
func pushHost(t *testing.T, c *store, what string) *box {
	t.Helper()
	l := needLab(t)
	conf := l.lan.NixConf(nil, nil)
	if what == "built" {
		conf += "post-build-hook = /etc/garrison/post-build-hook\n" // what the module says in nix.settings: nix/testdata
	}
	path := fmt.Sprintf("[Service]\nEnvironment=PATH=%s\nRestartSec=100ms\n", l.lan.Path())
	b := newBox(t, boxOptions{systemd: true, noAgent: true, files: append(moduleHost(t, fmt.Sprintf(`{
			networking.hostName = "joker";
			services.garrison.package = "/nix/store/garrison";
			services.garrison.push = { enable = true; url = %q; tokenFile = "/etc/garrison/push-token"; what = %q; };
		}`, c.url, what)),
		sandbox.File{Path: "/etc/nix/nix.conf", Data: []byte(conf)},
		sandbox.File{Path: "/etc/systemd/system/nix-daemon.service", Data: []byte("[Service]\nExecStart=/bin/sh -c 'exec nix-daemon'\n" + strings.TrimPrefix(path, "[Service]\n"))},
		sandbox.File{Path: "/etc/systemd/system/garrison-push.service.d/lab.conf", Data: []byte(path)},
	)})
	// NixOS makes the folder of the roots when it boots.
	b.must("mkdir -p /nix/var/nix/gcroots; systemctl start nix-daemon; until [ -S /nix/var/nix/daemon-socket/socket ]; do sleep 0.1; done")
	return b
}

// TestPushModule has what a host builds go to a cache by the units that the NixOS module makes, with their options in force.
func TestPushModule(t *testing.T) {
	t.Parallel()
	c := needLab(t).cacheHost(t)
	b := pushHost(t, c, "built")
	b.must("systemd-analyze verify garrison-push.service garrison-push.path; systemctl start garrison-push.path")
	build := func(name string) string {
		t.Helper()
		return b.must("NIX_REMOTE=daemon nix-build --no-out-link -E 'derivation { name = \"" + name + "\"; system = builtins.currentSystem; builder = \"/bin/sh\"; args = [ \"-c\" \"echo " + name + " > $out\" ]; }'")
	}
	pushed := func(path string) {
		t.Helper()
		b.eventually(path+" is in the cache, and the queue empty", func() bool {
			have, missing, err := c.client().Closure(testContext(t), []string{path})
			return err == nil && len(missing) == 0 && len(have) == 1 && b.must("ls /nix/var/nix/gcroots/garrison-built") == ""
		})
	}

	pushed(build("first"))
	b.eventually("the unit has ended well, and its path is watched", func() bool {
		return b.must("systemctl is-active garrison-push.path garrison-push || :; systemctl show -P Result garrison-push") == "active\ninactive\nsuccess"
	})

	// While the cache is down nothing is slower or fails; then it is pushed, without anybody's doing.
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	second := build("second")
	b.eventuallyFor(2*time.Minute, "the push failed", func() bool { return b.must("systemctl show -P NRestarts garrison-push") != "0" })
	if got := b.must("ls /nix/var/nix/gcroots/garrison-built | wc -l"); got != "1" {
		t.Errorf("%s paths are queued", got)
	}
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	pushed(second)
}

// TestWatchStoreModule has whatever comes into a host's store go to a cache.
func TestWatchStoreModule(t *testing.T) {
	t.Parallel()
	c := needLab(t).cacheHost(t)
	b := pushHost(t, c, "all")
	b.must("systemd-analyze verify garrison-push.service; systemctl start garrison-push")
	add := func(name string) string {
		t.Helper()
		return b.must("echo " + name + " > /tmp/" + name + "; NIX_REMOTE=daemon nix-store --add /tmp/" + name)
	}
	there := func(path string) {
		t.Helper()
		b.eventually(path+" is in the cache", func() bool {
			have, missing, err := c.client().Closure(testContext(t), []string{path})
			return err == nil && len(missing) == 0 && len(have) == 1
		})
	}
	watches := func(times string) { // what comes while none runs is not seen
		t.Helper()
		b.eventually("it watches", func() bool {
			return b.must("journalctl -u garrison-push | grep -c 'watching /nix/store for' || :") == times
		})
	}
	watches("1")
	there(add("first"))
	pid := b.must("systemctl show -P MainPID garrison-push")
	if got := b.must("grep -E 'NoNewPrivs|CapEff' /proc/" + pid + "/status"); got != "CapEff:\t0000000000000000\nNoNewPrivs:\t1" {
		t.Errorf("its process: %s", got)
	}
	b.must("systemctl kill -s KILL garrison-push")
	watches("2")
	there(add("second"))
	if got := b.must("systemctl show -P NRestarts garrison-push"); got != "1" {
		t.Errorf("it was started %s times", got)
	}
}
