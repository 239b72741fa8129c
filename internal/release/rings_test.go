package release_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/ledger"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// Each bad value is told with the line it stands on and what is allowed.
func TestBadRings(t *testing.T) {
	const head = "[[rings]]\nname = \"a\"\n"
	for name, c := range map[string]struct{ text, says string }{
		"name":           {"[[rings]]\nname = \"A b\"", `garrison.toml:2:`},
		"name of a test": {"[[rings]]\nname = \"x-test\"", `no name that ends in -test`},
		"no name":        {"[[rings]]\nhosts = [\"x\"]", `rings[0] has no name`},
		"twice":          {head + head, `names no hosts`},
		"same name":      {head + "hosts = [\"x\"]\n" + head, `two rings are called "a"`},
		"no hosts":       {head + "[[rings]]\nname = \"b\"", `the ring a names no hosts`},
		"pattern":        {head + "hosts = [\"web-[\"]", `garrison.toml:3:`},
		"tag":            {head + "hosts = [\"tag:\"]", `"tag:" names no hosts`},
		"soak":           {head + "soak = \"soon\"", `garrison.toml:3:8: "soon" is not a soak time like "30m", "2h" or "1d"`},
		"soak too long":  {head + "soak = \"91d\"", `at most 90 days`},
		"soak number":    {head + "soak = 5", `is not a soak time`},
		"at once":        {head + "atOnce = 0", `"0" is not how many hosts`},
		"at once part":   {head + "atOnce = \"101%\"", `write a number from 1 on, or "1%" to "100%"`},
		"failures":       {head + "failures = -1", `failures of the ring a is -1, and must be from 0`},
		"window":         {head + "windows = [\"Mon 9-17\"]", `garrison.toml:3:`},
		"zone":           {head + "windows = [\"09:00-17:00\"]\nzone = \"Middle/Earth\"", `"Middle/Earth" is not a time zone`},
		"zone alone":     {head + "zone = \"UTC\"", `has a zone, but no windows`},
		"promote":        {head + "promote = \"maybe\"", `"maybe" is neither "auto" nor "manual"`},
		"drill":          {head + "drill = \"7d\"", `must be a whole number`},
		"key":            {head + "soaks = \"1h\"", `soak`},
	} {
		_, err := release.ParseConfig("garrison.toml", []byte(c.text))
		if fleet.CodeOf(err) != fleet.CodeConfig || fleet.ClassOf(err) != fleet.Bad {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var e *fleet.Error
		if !errors.As(err, &e) || !strings.Contains(e.Error()+"\n"+e.Hint, c.says) {
			t.Errorf("%s: %v → %s, want %q", name, err, e.Hint, c.says)
		}
	}
	many := strings.Builder{}
	for i := range 51 {
		fmt.Fprintf(&many, "[[rings]]\nname = \"r%d\"\nhosts = [\"x\"]\n", i)
	}
	if _, err := release.ParseConfig("garrison.toml", []byte(many.String())); fleet.CodeOf(err) != fleet.CodeConfig {
		t.Errorf("51 rings: %v", err)
	}
}

// rings has the fleet's garrison.toml name rings.
func (w *world) rings(text string) string {
	w.t.Helper()
	plain, err := os.ReadFile(filepath.Join(w.clone, "garrison.toml"))
	w.must(err)
	first, _, _ := strings.Cut(string(plain), "\n[[rings]]")
	w.write("garrison.toml", first+"\n"+text)
	return w.push("Rings")
}

// at is what a branch of the origin points at; "" when it is not there.
func (w *world) at(branch string) string {
	w.t.Helper()
	return w.do("git", "--git-dir", w.origin, "for-each-ref", "--format=%(objectname)", "refs/heads/"+branch)
}

func (w *world) book() ledger.Book {
	w.t.Helper()
	return ledger.Book{Repo: w.newRepo("operator.git"), Remote: git.Remote{URL: w.origin}, Release: "release"}
}

// order changes the ledger, as a person would.
func (w *world) order(change func(*fleet.Ledger)) {
	w.t.Helper()
	_, err := w.book().Change(w.t.Context(), func(p ledger.Page) (*ledger.Entry, error) {
		e := &ledger.Entry{By: "Ann <ann@example.org>", Summary: "an order", Ledger: p.Ledger}
		change(&e.Ledger)
		return e, nil
	})
	w.must(err)
}

const canaryFirst = `
[[rings]]
name = "canary"
hosts = ["tag:canary", "nobody-*"]
soak = "2h"

[[rings]]
name = "rest"
hosts = ["j*", "ratched"]
atOnce = "50%"
failures = 1
windows = ["Mon–Fri 09:00-16:00"]
zone = "Europe/Berlin"
promote = "manual"
drill = 7
reboots = 2
`

// TestRings goes the way of a fleet that begins to use rings.
func TestRings(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	without := w.release()
	if len(without.Manifest.Rings) != 0 || without.Rings != nil || w.at("release-rollout") != "" {
		t.Fatalf("without rings: %+v", without)
	}
	ratched, err := os.ReadFile(filepath.Join(w.clone, "hosts/ratched/default.nix"))
	w.must(err)
	w.write("hosts/ratched/default.nix", strings.Replace(string(ratched), "{\n", "{\n  services.garrison.tags = [ \"canary\" \"db\" ];\n", 1))
	w.rings(canaryFirst)
	before := w.refs()
	dry := w.with(func(o *release.Options) { o.DryRun = true })
	seen, err := release.Run(t.Context(), dry)
	w.must(err)
	if seen.Rings == nil || seen.Rings.Ring != "canary" || seen.Rings.Batches != 1 || seen.Rings.Kept != "" || w.refs() != before {
		t.Errorf("a dry run: %+v", seen.Rings)
	}
	out := w.release()
	m := out.Manifest
	want := []fleet.Ring{{Name: "canary", Batches: 1, SoakSeconds: 7200},
		{Name: "rest", Batches: 2, Failures: 1, Windows: []string{"Mon,Tue,Wed,Thu,Fri 09:00-16:00"}, Zone: "Europe/Berlin", Manual: true, DrillDays: 7, Reboots: 2}}
	if !slices.EqualFunc(m.Rings, want, func(a, b fleet.Ring) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
		t.Errorf("the rings are %+v", m.Rings)
	}
	for host, in := range map[string]fleet.Step{"ratched": {Ring: "canary", Batch: 1}, "joker": {Ring: "rest", Batch: 1}, "ursula": {Ring: "rest", Batch: 2}} {
		if e := m.Hosts[host]; e.Ring != in.Ring || e.Batch != in.Batch {
			t.Errorf("%s is in batch %d of %s", host, e.Batch, e.Ring)
		}
	}
	if w.at("release-ring-canary") != out.Release.Commit || w.at("release-ring-rest") != "" || w.at("release-ring-rest.2") != "" {
		t.Errorf("the rings' branches are\n%s", w.refs())
	}
	p, err := w.book().Read(t.Context())
	w.must(err)
	if of := p.Ledger.Promotions["release-ring-canary"]; len(of) != 1 || of[0].Release != 2 || of[0].By != "ci" || of[0].At.IsZero() {
		t.Errorf("the ledger says %+v", p.Ledger)
	}

	// A freeze keeps the ring, not the release.
	until := time.Now().Add(time.Hour)
	w.order(func(l *fleet.Ledger) { l.Freeze = &fleet.RolloutOrder{By: "Ann", Reason: "holidays", Until: &until} })
	w.change("frozen")
	held := w.release()
	if !strings.Contains(held.Rings.Kept, "holidays") || w.at("release-ring-canary") != out.Release.Commit || held.Rings.Batches != 0 {
		t.Errorf("frozen: %+v\n%s", held.Rings, w.refs())
	}

	// A test release has no rings, and moves none.
	w.order(func(l *fleet.Ledger) { l.Freeze = nil })
	w.do("git", "checkout", "--quiet", "-b", "joker-test")
	w.change("for the joker")
	test, err := release.Run(t.Context(), w.with(func(o *release.Options) { o.Test = "joker" }))
	w.must(err)
	if len(test.Manifest.Rings) != 0 || test.Manifest.Hosts["joker"].Ring != "" || w.at("release-ring-canary") != out.Release.Commit {
		t.Errorf("a test release: %+v", test.Manifest)
	}
	w.do("git", "checkout", "--quiet", "main")

	// An abort at once: all rings, in the push that publishes, past a freeze that was ordered before.
	w.order(func(l *fleet.Ledger) {
		l.Freeze = &fleet.RolloutOrder{By: "Ann", At: time.Now().Add(-time.Minute), Reason: "holidays", Until: &until}
		l.Aborted = &fleet.RolloutOrder{By: "Ann", At: time.Now(), Reason: "smoke", Release: 3, To: 2, AtOnce: true}
	})
	back := w.release(func(o *release.Options) { o.RollbackTo = 2 })
	for _, branch := range []string{"release", "release-ring-canary", "release-ring-rest", "release-ring-rest.2"} {
		if w.at(branch) != back.Release.Commit {
			t.Errorf("%s is at %s", branch, w.at(branch))
		}
	}
	p, err = w.book().Read(t.Context())
	w.must(err)
	if p.Ledger.Aborted.Made != 4 || len(p.Ledger.Promotions["release-ring-rest.2"]) != 1 || back.Rings.Batches != 3 {
		t.Errorf("after the abort: %+v, %+v", p.Ledger, back.Rings)
	}

	// To what was released before there were rings, it goes through those of now; and not at once, as nobody ordered that.
	old := w.release(func(o *release.Options) { o.RollbackTo = 1 })
	if len(old.Manifest.Rings) != 1 || old.Manifest.Rings[0].Name != "rest" || old.Rings.Batches != 0 {
		t.Errorf("of an older commit: %+v, %+v", old.Manifest.Rings, old.Rings)
	}

	// An abort to what the newest release has again already is made by that one.
	w.order(func(l *fleet.Ledger) { l.Aborted = &fleet.RolloutOrder{By: "Ann", Reason: "smoke", Release: 5, To: 1} })
	if to, err := release.ToAbort(t.Context(), w.options()); err != nil || to != 1 {
		t.Errorf("to abort: %d, %v", to, err)
	}
	// What was published since has taken the place of what was aborted: a run that somebody starts for another reason does not go back behind it.
	w.order(func(l *fleet.Ledger) { l.Aborted = &fleet.RolloutOrder{By: "Ann", Reason: "smoke", Release: 4, To: 1} })
	if to, err := release.ToAbort(t.Context(), w.options()); err != nil || to != 0 {
		t.Errorf("to abort, of what is not the newest: %d, %v", to, err)
	}
	w.order(func(l *fleet.Ledger) { l.Aborted = &fleet.RolloutOrder{By: "Ann", Reason: "smoke", Release: 5, To: 1} })
	again, err := release.Run(t.Context(), w.with(func(o *release.Options) { o.RollbackTo = 1 }))
	w.must(err)
	p, err = w.book().Read(t.Context())
	w.must(err)
	to, err := release.ToAbort(t.Context(), w.options())
	if again.State != fleet.RunUnchanged || p.Ledger.Aborted.Made != 5 || to != 0 || err != nil {
		t.Errorf("made before: %s, %+v, %d, %v", again.State, p.Ledger.Aborted, to, err)
	}
}

// What is not in order about the roll-out does not keep a release from being published.
func TestRingsNotInOrder(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	w.rings("[[rings]]\nname = \"all\"\n")
	first := w.release()
	if w.at("release-ring-all") != first.Release.Commit {
		t.Fatal("the first release is not in the ring")
	}
	somebodys := w.do("git", "--git-dir", w.origin, "commit-tree", "-m", "Somebody's", "main^{tree}")
	w.do("git", "--git-dir", w.origin, "update-ref", "refs/heads/release-ring-all", somebodys)
	w.change("two")
	if out := w.release(); out.Release.Number != 2 || out.Rings.Kept == "" || w.at("release-ring-all") != somebodys {
		t.Errorf("a ring that somebody moved: %+v", out.Rings)
	}
	w.do("git", "--git-dir", w.origin, "update-ref", "refs/heads/release-ring-all", first.Release.Commit)
	w.do("git", "--git-dir", w.origin, "update-ref", "refs/heads/release-rollout", somebodys)
	w.change("three")
	if out := w.release(); out.Release.Number != 3 || !strings.Contains(out.Rings.Kept, "rollout.json") || w.at("release-ring-all") != first.Release.Commit {
		t.Errorf("a ledger that somebody broke: %+v", out.Rings)
	}
	w.do("git", "push", "--quiet", "origin", ":refs/heads/release-rollout")
	w.change("four")
	if out := w.release(); out.Rings.Kept != "" || w.at("release-ring-all") != out.Release.Commit {
		t.Errorf("when it is put right: %+v", out.Rings)
	}
}

// A freeze that is written while a release is being published: the release is published, the ring is not moved.
func TestFreezeWhilePublishing(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	w.rings("[[rings]]\nname = \"all\"\n")
	first := w.release()
	w.change("two")
	// The origin's hook writes the freeze before it takes the first push of the release: a push that it then refuses, as the ledger has moved.
	until := time.Now().Add(time.Hour)
	l := fleet.Ledger{Freeze: &fleet.RolloutOrder{By: "Ann", Reason: "holidays", Until: &until}}
	text, err := l.Bytes()
	w.must(err)
	file := filepath.Join(w.dir, "frozen.json")
	w.must(os.WriteFile(file, text, 0o644))
	hook := filepath.Join(w.origin, "hooks/pre-receive")
	w.must(os.WriteFile(hook, []byte(`#!/bin/sh
test -e frozen && exit 0
touch frozen
unset GIT_QUARANTINE_PATH GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
blob=$(git hash-object -w `+file+`)
tree=$(printf '100644 blob %s\trollout.json\n' $blob | git mktree)
git update-ref refs/heads/release-rollout $(git commit-tree -p refs/heads/release-rollout -m freeze $tree)
`), 0o755))
	out := w.release()
	if !strings.Contains(out.Rings.Kept, "holidays") || w.at("release-ring-all") != first.Release.Commit || w.at("release") != out.Release.Commit {
		t.Errorf("%+v\n%s", out.Rings, w.refs())
	}
}

func TestRingsOfHosts(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	for name, c := range map[string]struct {
		text string
		code fleet.Code
		says []string
	}{
		"unknown name":  {"[[rings]]\nname = \"a\"\nhosts = [\"jokr\"]\n", fleet.CodeNoSuchHost, []string{"the ring a names jokr", "joker"}},
		"unknown tag":   {"[[rings]]\nname = \"a\"\nhosts = [\"tag:x\"]\n", fleet.CodeNoSuchHost, []string{"services.garrison.tags"}},
		"empty":         {"[[rings]]\nname = \"a\"\nhosts = [\"*\"]\n[[rings]]\nname = \"b\"\nhosts = [\"joker\"]\n[[rings]]\nname = \"c\"\n", fleet.CodeConfig, []string{"the ring b has no host"}},
		"only a manual": {"[[rings]]\nname = \"a\"\nhosts = [\"drhorrible\"]\n[[rings]]\nname = \"b\"\n", fleet.CodeConfig, []string{"the ring a has no host"}},
	} {
		w.rings(c.text)
		t.Run(name, func(t *testing.T) { w.refuse(fleet.Bad, c.code, c.says) })
	}
	// The last ring may have nobody, and is then none.
	w.rings("[[rings]]\nname = \"a\"\nhosts = [\"*\"]\n[[rings]]\nname = \"b\"\n")
	if out := w.release(); len(out.Manifest.Rings) != 1 || w.at("release-ring-a") != out.Release.Commit {
		t.Errorf("%+v", out.Manifest.Rings)
	}
}

func TestMirrorsOfRings(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	mirror := filepath.Join(w.dir, "mirror.git")
	w.do("git", "init", "--quiet", "--bare", mirror)
	plain, err := os.ReadFile(filepath.Join(w.clone, "garrison.toml"))
	w.must(err)
	w.write("garrison.toml", "mirrors = [\""+mirror+"\"]\n"+string(plain))
	w.rings("[[rings]]\nname = \"a\"\nhosts = [\"joker\"]\n[[rings]]\nname = \"b\"\n")
	out := w.release()
	w.wantMirrors(out.Mirrors)
	if at := w.do("git", "--git-dir", mirror, "rev-parse", "release-ring-a"); at != out.Release.Commit {
		t.Errorf("the mirror's ring is at %s", at)
	}
	// A promotion gets there by whoever promotes; one that the mirror alone has is left.
	promote := func(book ledger.Book) {
		t.Helper()
		_, err := book.Change(t.Context(), func(p ledger.Page) (*ledger.Entry, error) {
			e := &ledger.Entry{By: "Ann <ann@example.org>", Summary: "promote", Ledger: p.Ledger, Advances: []ledger.Advance{{Branch: "release-ring-b", From: p.Rings["release-ring-b"], To: p.Newest}}}
			e.Ledger.Promoted("release-ring-b", fleet.Promotion{Release: 1, At: time.Now()})
			return e, nil
		})
		w.must(err)
	}
	promote(w.book())
	got, err := release.Mirror(t.Context(), w.options())
	w.must(err)
	w.wantMirrors(got)
	// The ledger was put right by hand: mirrors follow.
	w.do("git", "--git-dir", w.origin, "update-ref", "refs/heads/release-rollout", w.do("git", "--git-dir", w.origin, "commit-tree", "-m", "by hand", "release-rollout^{tree}"))
	got, err = release.Mirror(t.Context(), w.options())
	w.must(err)
	w.wantMirrors(got)
	// A ring that somebody wrote to is told, and not put right.
	w.do("git", "push", "--quiet", "--force", mirror, w.do("git", "commit-tree", "-m", "Somebody's", "HEAD^{tree}")+":refs/heads/release-ring-b")
	got, err = release.Mirror(t.Context(), w.options())
	w.must(err)
	w.wantMirrors(got, mirror)
}

func TestCheckRings(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	found := func() release.Finding {
		t.Helper()
		w.must(w.repo.Fetch(t.Context(), w.origin, "+refs/heads/*:refs/garrison/heads/*"))
		all, err := release.Check(t.Context(), release.CheckOptions{Repo: w.repo, Commit: w.do("git", "rev-parse", "HEAD"), Nix: w.nix, NoBuild: true})
		w.must(err)
		for _, f := range all.List {
			if f.Kind == release.FoundRings {
				return f
			}
		}
		return release.Finding{}
	}
	if f := found(); f.Kind != "" {
		t.Errorf("without rings: %+v", f)
	}
	w.rings("[[rings]]\nname = \"a\"\nhosts = [\"j*\"]\n[[rings]]\nname = \"b\"\natOnce = 1\n")
	if f := found(); !f.Passed || f.Detail != "a: 1 hosts in 1 batches\nb: 2 hosts in 2 batches" {
		t.Errorf("in order: %+v", f)
	}
	w.rings("[[rings]]\nname = \"a\"\nhosts = [\"j*\", \"web-*\"]\n[[rings]]\nname = \"b\"\n")
	if f := found(); f.Passed || !strings.Contains(f.Detail, `the ring a names "web-*"`) {
		t.Errorf("a pattern for nobody: %+v", f)
	}
	lib, err := os.ReadFile(filepath.Join(w.clone, "lib/default.nix"))
	w.must(err)
	for _, c := range []struct {
		option string
		passes bool
	}{{"agent.enable = true", false}, {"agent.enable = true; services.garrison.tags = [ ]", true}} {
		w.write("lib/default.nix", strings.Replace(string(lib), "services.garrison.tags = module.services.garrison.tags or [ ]", "services.garrison."+c.option, 1))
		w.rings("[[rings]]\nname = \"a\"\n")
		if f := found(); f.Passed != c.passes || !c.passes && !strings.Contains(f.Detail, "host joker gets an agent that does not know rings") {
			t.Errorf("%s: %+v", c.option, f)
		}
	}
}
