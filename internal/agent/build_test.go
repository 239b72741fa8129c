package agent_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// left publishes a release whose entry for the host is not what its caches have: changed by change.
func (b *box) left(variant string, change func(*fleet.Entry)) int {
	b.t.Helper()
	b.number++
	var parents []string
	if b.tip != "" {
		parents = []string{b.tip}
	}
	b.tip = b.make(b.number, variant, signed{parents: parents, message: func(m *fleet.Manifest) []byte {
		e := b.lab.manifest.Hosts[variant]
		change(&e)
		m.Hosts = map[string]fleet.Entry{variant: e}
		message, err := m.TagMessage()
		if err != nil {
			b.t.Fatal(err)
		}
		return message
	}})
	b.point(b.tip)
	return b.number
}

// store is a hub whose cache is empty at first, and which may be stopped without disturbing other tests.
type store struct {
	*sandbox.Host
	url, key string
}

// cacheHost starts one; "push-token" may push to it.
func (l *lab) cacheHost(t testing.TB) *store {
	t.Helper()
	ctx, addr := testContext(t), l.address()
	sum := sha256.Sum256([]byte("push-token"))
	c := &store{url: "http://" + netip.AddrPortFrom(addr, 8420).String() + "/fleet"}
	var err error
	c.Host, err = l.lan.Start(ctx, sandbox.HostOptions{Name: fmt.Sprintf("cache%d", addr.As4()[3]), Dir: t.TempDir(), Addr: addr,
		Files: []sandbox.File{
			{Path: "/etc/garrison/hub.toml", Data: []byte("listen = \"" + netip.AddrPortFrom(addr, 8420).String() + "\"\ndataDir = \"/var/lib/garrison-hub\"\ntokens = \"/etc/garrison/tokens.toml\"\n")},
			{Path: "/etc/garrison/tokens.toml", Mode: 0o600, Data: fmt.Appendf(nil, "[[token]]\nname = \"push\"\nsha256 = \"%x\"\nscopes = [\"push\", \"read\"]\n", sum)},
		},
		Services: []sandbox.Service{{Name: "hub", Args: []string{"garrison", "hub"}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Kill(); err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		info, err := c.client().Info(ctx)
		if err == nil {
			c.key = info.PublicKey
			return c
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func (c *store) client() *client.Client {
	cl, err := client.New(client.Config{URL: c.url, Token: func() (string, error) { return "push-token", nil },
		HTTP: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: c.DialContext, DisableKeepAlives: true}}})
	if err != nil {
		panic(err) // the URL is ours
	}
	return cl
}

// has says whether the whole closure of a path is there.
func (c *store) has(t *testing.T, path string) bool {
	t.Helper()
	have, missing, err := c.client().Closure(testContext(t), []string{path})
	if err != nil {
		t.Fatal(err)
	}
	return len(missing) == 0 && len(have) > 2
}

// What CI could not build, the host evaluates and builds itself, and pushes to the cache afterwards.
func TestBuildsWhatCIDidNot(t *testing.T) {
	t.Parallel()
	c := needLab(t).cacheHost(t)
	b := newBox(t, boxOptions{systemd: true, host: "good1", cacheURL: c.url, cacheKey: c.key, pushToken: true})
	n := b.left("good1", func(e *fleet.Entry) { e.Built = false })
	if s := b.ended(n); s.Last.Result != fleet.Committed {
		t.Fatalf("%s, %+v", s.Last.Result, s.Failure)
	}
	b.runs("good1")
	b.await("pushed", func(s fleet.Status) bool { return s.Pushing == 0 && !s.Push.LastOK.IsZero() })
	if !c.has(t, b.lab.out("good1")) {
		t.Error("what was built is not in the cache")
	}
	if out := b.must("ls /nix/var/nix/gcroots/garrison-push"); out != "" {
		t.Errorf("still queued: %s", out)
	}
	if log := b.must("cat " + stateDir + "/build.log"); !strings.Contains(log, "nixos-system-good1") {
		t.Errorf("the build's log: %s", log)
	}
	// Another host of the kind finds it in the cache.
	other := newBox(t, boxOptions{host: "good1", cacheURL: c.url, cacheKey: c.key, config: "[build]\nwhen = \"never\"\n"})
	if s := other.ended(other.left("good1", func(e *fleet.Entry) { e.Built = false })); s.Last.Result != fleet.Committed {
		t.Fatalf("%s, %+v", s.Last.Result, s.Failure)
	}
}

// What a cache lacks although CI built it, the host builds; the queue outlives a cache that is down, the agent and its state.
func TestPushQueueSurvives(t *testing.T) {
	t.Parallel()
	c := needLab(t).cacheHost(t)
	b := newBox(t, boxOptions{systemd: true, host: "good1", cacheURL: c.url, cacheKey: c.key, pushToken: true})
	b.must("mv /etc/garrison/push-token /etc/garrison/elsewhere")
	n := b.left("good1", func(e *fleet.Entry) { e.Built = true })
	if s := b.ended(n); s.Last.Result != fleet.Committed {
		t.Fatalf("%s, %+v", s.Last.Result, s.Failure)
	}
	b.await("it cannot push", func(s fleet.Status) bool { return s.Pushing == 1 && s.Push.Failure != nil })
	b.says(0, "to be pushed", "PUSH", "cannot read the token in /etc/garrison/push-token")
	if err := c.StopService(testContext(t), "hub"); err != nil {
		t.Fatal(err)
	}
	b.killAgent()
	b.await("the next agent cannot either", func(s fleet.Status) bool { return s.Pushing == 1 && s.Push.Failure != nil })
	b.must("mv /etc/garrison/elsewhere /etc/garrison/push-token; rm -rf " + stateDir + "/*.json")
	b.killAgent()
	if err := c.StartService(testContext(t), "hub"); err != nil {
		t.Fatal(err)
	}
	b.awaitFor(60*time.Second, "pushed", func(s fleet.Status) bool { return s.Pushing == 0 && !s.Push.LastOK.IsZero() && s.Push.Failure == nil })
	if !c.has(t, b.lab.out("good1")) {
		t.Error("what was built is not in the cache")
	}

	// What cannot be pushed at all stands in no other's way.
	add := func(name string) string {
		path := b.must("echo " + name + " >/tmp/" + name + " && nix-store --add /tmp/" + name)
		b.must("ln -s " + path + " /nix/var/nix/gcroots/garrison-push/$(basename " + path + "); sleep 0.02")
		return path
	}
	damaged := add("damaged")
	b.must("chmod u+w " + damaged + "; echo more >>" + damaged)
	sound := add("sound")
	b.killAgent()
	b.await("the sound one is pushed, the damaged one is told", func(s fleet.Status) bool { return s.Pushing == 1 && s.Push.Failure != nil })
	if left := b.must("ls /nix/var/nix/gcroots/garrison-push"); "/nix/store/"+left != damaged || sound == damaged {
		t.Errorf("waiting: %s", left)
	}
}

// A cache that is down blocks nothing that is here already; what must come from it is waited for, and built in the end.
func TestCacheDown(t *testing.T) {
	t.Parallel()
	c := needLab(t).cacheHost(t)
	b := newBox(t, boxOptions{systemd: true, host: "good1", cacheURL: c.url, cacheKey: c.key, config: "[build]\nafter = \"3s\"\n"})
	b.ended(b.left("good1", func(*fleet.Entry) {}))
	b.runs("good1")
	if err := c.StopService(testContext(t), "hub"); err != nil {
		t.Fatal(err)
	}
	good1 := b.lab.manifest.Hosts["good1"].OutPath
	commit, out := b.variation("good1", ": another")
	b.must("nix --extra-experimental-features 'nix-command flakes' build --no-link '" + "git+file:///srv/fleet.git?ref=refs/heads/variation&rev=" + commit + "#nixosConfigurations.good1.config.system.build.toplevel'")
	b.number++
	b.sign(b.number, commit, "good1", out)
	if s := b.ended(b.number); s.Last.Result != fleet.Committed || s.Systems.Current != out || s.Last.Previous != good1 {
		t.Fatalf("with all in the store: %+v, %+v", s.Last, s.Failure)
	}

	commit, out = b.variation("good1", ": one more")
	b.number++
	n := b.number
	b.sign(n, commit, "good1", out)
	s := b.await("the cache is waited for", func(s fleet.Status) bool {
		return s.Phase == fleet.PhaseRetrying || s.Phase == fleet.PhaseIdle && s.Newest.Number == n
	})
	if s.Failure != nil && !strings.Contains(s.Failure.Message, "does not answer") {
		t.Errorf("%+v", s.Failure)
	}
	if s := b.awaitFor(60*time.Second, "built", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Newest.Number == n }); s.Active.OutPath != out {
		t.Errorf("runs %s", s.Active.OutPath)
	}
}

// A system that does not build here is bad for this host: it is held, with the builder's words, and the host stays as it was.
func TestBuildFailsOnHost(t *testing.T) {
	t.Parallel()
	c := needLab(t).cacheHost(t)
	b := newBox(t, boxOptions{systemd: true, host: "good1", cacheURL: c.url, cacheKey: c.key, config: "[build]\ntime = \"15s\"\n"})
	b.ended(b.left("good1", func(*fleet.Entry) {}))
	b.number++
	commit, out := b.variation("good1", "echo the valve does not compile >&2; exit 7")
	b.sign(b.number, commit, "good1", out)
	s := b.await("held", func(s fleet.Status) bool { return s.Phase == fleet.PhaseHeld && s.Target.Release.Number == b.number })
	if s.Failure.Code != fleet.CodeBuild || s.Failure.Stage != fleet.Staging {
		t.Errorf("%+v", s.Failure)
	}
	b.says(3, "the valve does not compile")
	b.runs("good1")
	if log := b.must("cat " + stateDir + "/build.log"); !strings.Contains(log, "the valve does not compile") {
		t.Errorf("the build's log: %s", log)
	}

	// A commit that evaluates to something else than was signed is not built.
	b.number++
	commit, out = b.variation("good1", ": something else")
	b.sign(b.number, commit, "good1", strings.Replace(out, "-nixos-system-", "-other-system-", 1))
	s = b.await("held again", func(s fleet.Status) bool { return s.Phase == fleet.PhaseHeld && s.Target.Release.Number == b.number })
	if s.Failure.Code != fleet.CodeEvaluate {
		t.Errorf("%+v", s.Failure)
	}
	b.says(3, "by evaluation here", "not pure")
	b.runs("good1")

	b.number++
	commit, out = b.variation("good1", "sleep 4321")
	b.sign(b.number, commit, "good1", out)
	s = b.await("given up", func(s fleet.Status) bool { return s.Phase == fleet.PhaseHeld && s.Target.Release.Number == b.number })
	if s.Failure.Code != fleet.CodeTimeout {
		t.Errorf("%+v", s.Failure)
	}
	b.says(3, "building took longer than 15s", "build.time")
	if left := b.must("for p in /proc/[0-9]*; do busybox tr '\\0' ' ' < $p/cmdline 2>/dev/null | busybox grep '^sleep 4321' || :; done"); left != "" {
		t.Errorf("the builder goes on: %s", left)
	}
	b.runs("good1")
}

// TestEndlessEvaluation: a flake that does not come to an end here is given up like a build.
func TestEndlessEvaluation(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{host: "good1", config: "[build]\ntime = \"3s\"\n"})
	b.ended(b.left("good1", func(*fleet.Entry) {}))
	ctx := testContext(t)
	blob, err := b.origin.WriteBlob(ctx, []byte("let turns = builtins.genList (x: x) 1000000; endless = builtins.foldl' (a: _: builtins.foldl' (b: _: b) a turns) 0 turns;\n"+
		"in { nixpkgs.hostPlatform = builtins.seq endless \"x86_64-linux\"; }\n"))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := b.origin.TreeWith(ctx, b.tip, map[string]string{"hosts/good1/default.nix": blob})
	if err != nil {
		t.Fatal(err)
	}
	commit, err := b.origin.WriteCommit(ctx, git.Commit{Tree: tree, Parents: []string{b.tip}, Message: "endless", When: time.Unix(1_790_000_000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	b.number++
	b.sign(b.number, commit, "good1", strings.Replace(b.lab.out("good1"), "-nixos-system-", "-endless-system-", 1))
	s := b.awaitFor(60*time.Second, "given up", func(s fleet.Status) bool { return s.Phase == fleet.PhaseHeld })
	if s.Failure.Code != fleet.CodeTimeout || !strings.Contains(s.Failure.Message, "evaluating this host took longer than 3s") {
		t.Errorf("%+v", s.Failure)
	}
	b.runs("good1")
}

// variation commits the fleet with another build of a host, and evaluates what comes out.
func (b *box) variation(host, build string) (commit, out string) {
	b.t.Helper()
	ctx := testContext(b.t)
	must := func(err error) {
		b.t.Helper()
		if err != nil {
			b.t.Fatal(err)
		}
	}
	blob, err := b.origin.WriteBlob(ctx, []byte(build+"\n"))
	must(err)
	tree, err := b.origin.TreeWith(ctx, b.tip, map[string]string{"hosts/" + host + "/build.sh": blob})
	must(err)
	commit, err = b.origin.WriteCommit(ctx, git.Commit{Tree: tree, Parents: []string{b.tip}, Message: build, When: time.Unix(1_790_000_000, 0)})
	must(err)
	const ref = "refs/heads/variation"
	must(b.origin.UpdateRef(ctx, ref, commit))
	n := &nix.Nix{Store: "local?root=" + filepath.Join(b.lab.dir, "variations")}
	h, err := n.Host(ctx, nix.Flake{GitDir: b.origin.Dir, Ref: ref, Commit: commit}, nix.NixOS, host)
	must(err)
	return commit, h.OutPath
}

// sign makes a release of a commit that gives a host a system, and moves the branch to it.
func (b *box) sign(number int, commit, host, out string) {
	b.t.Helper()
	b.signEntry(number, commit, host, func(e *fleet.Entry) { e.OutPath = out })
}

func (b *box) signEntry(number int, commit, host string, change func(*fleet.Entry)) {
	b.t.Helper()
	m := *b.lab.manifest
	e := m.Hosts[host]
	change(&e)
	m.Number, m.Hosts = number, map[string]fleet.Entry{host: e}
	message, err := m.TagMessage()
	if err != nil {
		b.t.Fatal(err)
	}
	name := fleet.TagName(number)
	if _, err := b.origin.SignTag(testContext(b.t), "refs/tags/"+name, name, commit, message, b.lab.key("release"), time.Now()); err != nil {
		b.t.Fatal(err)
	}
	b.tip = commit
	b.point(commit)
}
