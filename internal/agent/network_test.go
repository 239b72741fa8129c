package agent_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// Woken by the hub, whose CI made a release, the agent does not wait for its poll; a missing token is waited for.
func TestWoken(t *testing.T) {
	t.Parallel()
	config := "socket = \"/run/garrison/agent.sock\"\n[hub]\nurl = \"" + hubURL + "\"\ntokenFile = \"/etc/garrison/hub-token\"\n"
	b := newBox(t, boxOptions{systemd: true, host: "good1", origin: needLab(t).template, config: config})
	n := b.await("it follows", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle }).Newest.Number + 1
	b.must("busybox sed -i 's/^poll.*/poll = \"1h\"/' /etc/garrison/agent.toml; mv /etc/garrison/hub-token /etc/garrison/elsewhere")
	if err := b.host.RestartService(testContext(t), b.unit); err != nil {
		t.Fatal(err)
	}
	b.await("it misses its token", func(s fleet.Status) bool {
		return s.Hub.Failure != nil && s.Hub.Failure.Code == fleet.CodeKey && !s.Remote.LastOK.IsZero()
	})
	b.says(0, "HUB", "cannot read the token in /etc/garrison/hub-token", "put it there")
	b.must("mv /etc/garrison/elsewhere /etc/garrison/hub-token")
	b.await("the hub is reached", func(s fleet.Status) bool { return s.Hub.Failure == nil && !s.Hub.LastOK.IsZero() })

	text := fmt.Sprintf("woken for release-%d\n", n)
	work := filepath.Join(b.lab.dir, "work")
	if err := os.WriteFile(filepath.Join(work, "gitops-test"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--all", "--message", "Wake"}, {"push", "--quiet", b.origin.Dir, "main"}} {
		if err := command(work, "git", args...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.lab.forge.Run(testContext(t), "garrison", "hub", "wake", "--url", hubURL, "--token-file", "/etc/garrison/wake-token"); err != nil {
		t.Fatal(err)
	}
	// CI evaluates and builds every variant first.
	s := b.awaitFor(80*time.Second, "CI's release is deployed", func(s fleet.Status) bool { return s.Last.Release.Number == n && s.Phase == fleet.PhaseIdle })
	if s.Last.Result != fleet.Committed {
		t.Errorf("%+v", s.Last)
	}
	if got, err := b.host.ReadFile("/etc/gitops-test"); err != nil || string(got) != text {
		t.Errorf("gitops-test: %q, %v", got, err)
	}
	b.says(0, fleet.TagName(n))
}

// mirror is another forge's hub, with the same cache, that knows no host yet and may be stopped without disturbing other tests.
func (l *lab) mirror(t testing.TB) (hub *sandbox.Host, url string) {
	t.Helper()
	disk := t.TempDir()
	addr := l.address()
	for _, path := range []string{"etc/garrison", "var/lib/garrison-hub"} {
		if err := os.CopyFS(filepath.Join(disk, path), os.DirFS(l.forge.Path("/"+path))); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range hubDB {
		_ = os.Remove(filepath.Join(disk, file))
	}
	url = "http://" + netip.AddrPortFrom(addr, 8420).String()
	hub, err := l.lan.Start(testContext(t), sandbox.HostOptions{Name: fmt.Sprintf("mirror%d", addr.As4()[3]), Dir: disk, Addr: addr,
		Files:    []sandbox.File{{Path: "/etc/garrison/hub.toml", Data: []byte("listen = \"" + strings.TrimPrefix(url, "http://") + "\"\ndataDir = \"/var/lib/garrison-hub\"\ntokens = \"/etc/garrison/tokens.toml\"\n")}},
		Services: []sandbox.Service{{Name: "hub", Args: []string{"garrison", "hub"}}}})
	if err != nil {
		t.Fatal(err)
	}
	return hub, url
}

// hubDB is what a hub knows of hosts.
var hubDB = []string{"/var/lib/garrison-hub/hub.db", "/var/lib/garrison-hub/hub.db-wal", "/var/lib/garrison-hub/hub.db-shm"}

// Everything on the network comes and goes; the agent goes on, and says what it waits for.
func TestCacheAndHubComeAndGo(t *testing.T) {
	t.Parallel()
	l := needLab(t)
	ctx := testContext(t)
	mirror, url := l.mirror(t)
	b := newBox(t, boxOptions{cacheURL: url + "/fleet", config: "socket = \"/run/garrison/agent.sock\"\n[hub]\nurl = \"" + url + "\"\ntokenFile = \"/etc/garrison/hub-token\"\n"})
	b.deploy("good1")
	b.await("reported", func(s fleet.Status) bool { return s.Hub.Failure == nil && !s.Hub.LastOK.IsZero() })
	if err := mirror.StopService(ctx, "hub"); err != nil {
		t.Fatal(err)
	}
	b.await("it misses the hub", func(s fleet.Status) bool { return s.Hub.Failure != nil && s.Hub.Failure.Class == fleet.Transient })
	b.says(0, "HUB", "releases are polled for meanwhile")
	n := b.publish("good2")
	s := b.await("it misses the cache", func(s fleet.Status) bool { return s.Phase == fleet.PhaseRetrying })
	if s.Failure.Code != fleet.CodeSubstitute || s.Failure.Stage != fleet.Staging {
		t.Errorf("%+v", s.Failure)
	}
	b.says(3, "retrying: release-2 failed once", "does not answer", "is tried again")
	b.runs("good1")
	if err := mirror.StartService(ctx, "hub"); err != nil {
		t.Fatal(err)
	}
	if s := b.awaitFor(60*time.Second, "committed", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Active.Release.Number == n }); s.Attempt != 0 || s.Failure != nil {
		t.Errorf("what failed is still told: %+v", s)
	}
	b.runs("good2")
	b.await("the hub is reached again", func(s fleet.Status) bool { return s.Hub.Failure == nil })

	// What ended while the hub was away, it is told when it is back; and all of it, once it lost what it knew.
	b.must("printf read-token > /etc/garrison/read-token")
	asked := func() (past []fleet.Deployment) {
		out, err := b.run("garrison history --hub " + url + " --host joker --token-file /etc/garrison/read-token -o json")
		if err != nil || json.Unmarshal([]byte(out), &past) != nil {
			return nil
		}
		return past
	}
	want := b.local()
	told := func() bool { return reflect.DeepEqual(asked(), want) }
	const patience = 2 * time.Minute // more than the longest pause between reports that fail
	b.eventuallyFor(patience, "the hub knows the whole history", told)
	for _, lost := range []bool{false, true} {
		if err := mirror.StopService(ctx, "hub"); err != nil {
			t.Fatal(err)
		}
		b.await("it misses the hub", func(s fleet.Status) bool { return s.Hub.Failure != nil })
		if lost {
			for _, file := range hubDB {
				_ = os.Remove(mirror.Path(file))
			}
		} else {
			b.ended(b.publish("good1")) // in the store already: no cache is needed
		}
		if err := mirror.StartService(ctx, "hub"); err != nil {
			t.Fatal(err)
		}
		want = b.local()
		b.eventuallyFor(patience, "the hub knows the whole history again", told)
	}
	// Each of them is one event, of a hub that was made anew, too.
	out := b.must("garrison events --hub " + url + " --token-file /etc/garrison/read-token --type deployment -n 100 -o json")
	if events := strings.Count(out, `"garrison.host.deployment"`); events != len(want) {
		t.Errorf("%d events of %d deployments: %s", events, len(want), out)
	}
}

// What the cache has signed with a key that is not trusted never gets into the store.
func TestUntrustedCache(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{cacheKey: "other-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="})
	b.publish("good1")
	s := b.await("not fetched", func(s fleet.Status) bool { return s.Phase == fleet.PhaseRetrying })
	if s.Failure.Code != fleet.CodeSubstitute {
		t.Errorf("%+v", s.Failure)
	}
	b.systems("", "")
	if there, err := b.host.Exists(b.lab.out("good1")); err != nil || there {
		t.Errorf("the path is in the store: %v, %v", there, err)
	}
	name, _, _ := strings.Cut(b.lab.cacheKey, ":")
	b.says(3, " signed by "+name+"; trusted here is other-1")
	// What would change can be told all the same: the cache is asked, and nothing that it says is used.
	if out, _ := b.exits(0, "diff"); !strings.Contains(out, "joker would change to release-1 ("+b.lab.out("good1")+")\n0 → 4 paths, 0 B → ") || !strings.Contains(out, "+  nixos-system-good1") {
		t.Error(out)
	}
	b.must("busybox sed -i 's|^url = .*|url = \"http://192.0.2.1:1\"|' /etc/garrison/agent.toml")
	if err := b.host.RestartService(testContext(t), b.unit); err != nil {
		t.Fatal(err)
	}
	b.await("another agent is there", func(s fleet.Status) bool { return s.Phase == fleet.PhaseRetrying })
	if out, _ := b.exits(0, "diff"); !strings.Contains(out, "what changes is not known: ") {
		t.Error(out)
	}
}

// A remote that is away is waited for.
func TestRemoteAway(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	away := b.origin.Dir + "/HEAD"
	if err := os.Rename(away, away+".away"); err != nil {
		t.Fatal(err)
	}
	b.await("it misses the remote", func(s fleet.Status) bool { return s.Remote.Failure != nil })
	b.says(0, "GIT", "cannot fetch from file:///srv/fleet.git")
	if err := os.Rename(away+".away", away); err != nil {
		t.Fatal(err)
	}
	b.await("it is back", func(s fleet.Status) bool { return s.Remote.Failure == nil })
	b.deploy("good2")
}
