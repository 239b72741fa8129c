package release_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/release"
)

// TestWay goes the way that a fleet goes most days, with each Nix.
func TestWay(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		w := newWorld(t, n)
		first := w.release()
		if first.State != fleet.RunReleased || first.Release.Number != 1 || len(first.Rekeyed) != 4 || first.Rotate != nil {
			t.Fatalf("%+v", first)
		}
		if parents := w.parents(first); len(parents) != 1 {
			t.Errorf("the first release has the parents %v", parents)
		}

		commit, pushed := w.change("Hello again"), time.Now().UTC().Truncate(time.Second)
		timeline := &proc.Timeline{}
		out, err := release.Run(proc.WithTimeline(t.Context(), timeline), w.with(func(o *release.Options) {
			o.PushedAt, o.Trace = &pushed, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		}))
		w.must(err)
		w.wantWhole(out)
		m := out.Manifest
		if out.Release.Number != 2 || len(out.Rekeyed) != 0 || m.Source.Commit != commit || m.Source.Subject != "Hello again" || m.Source.Author != "Editor" ||
			!m.Source.PushedAt.Equal(pushed) || m.Trace != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" {
			t.Errorf("%+v, %+v", out, m)
		}
		if got := w.parents(out); !slices.Equal(got, []string{first.Release.Commit, commit}) {
			t.Errorf("the second release has the parents %v", got)
		}
		for h, e := range m.Hosts {
			if before := first.Manifest.Hosts[h].OutPath; !e.Changed || e.Previous != before || e.OutPath == before {
				t.Errorf("%s: %+v", h, e)
			}
		}
		var stages []fleet.Stage
		for _, s := range timeline.Stages() {
			stages = append(stages, s.Stage)
		}
		if want := []fleet.Stage{fleet.Fetch, fleet.Evaluate, fleet.Rekey, fleet.Build, fleet.Push, fleet.Publish}; !slices.Equal(stages, want) {
			t.Errorf("without changed secrets the stages are %v", stages)
		}

		if want := fleet.NewTrace(first.Manifest.Source.Commit, "").String(); first.Manifest.Trace != want || first.Release.Trace != want || out.Release.Trace != m.Trace {
			t.Errorf("traces are %s and %s", first.Release.Trace, out.Release.Trace)
		}

		before := w.refs()
		again, err := release.Run(t.Context(), w.with(func(o *release.Options) { // neither key is needed, nor the cache
			o.Identities, o.Cache = nil, nil
		}))
		w.must(err)
		if again.State != fleet.RunUnchanged || again.Release.Tag != out.Release.Tag || again.Manifest.Number != 2 || w.refs() != before {
			t.Errorf("released once more: %+v", again)
		}

		w.push("Touches no host")
		same := w.release()
		if same.Release.Number != 3 || same.Pushed.Pushed != 0 {
			t.Errorf("%+v", same)
		}
		for h, e := range same.Manifest.Hosts {
			if e.Changed || e.OutPath != m.Hosts[h].OutPath {
				t.Errorf("%s changed: %+v", h, e)
			}
		}
	})
}

func (w *world) with(change func(*release.Options)) release.Options {
	o := w.options()
	change(&o)
	return o
}

func (w *world) parents(out release.Outcome) []string {
	return strings.Fields(w.do("git", "--git-dir", w.origin, "log", "-1", "--format=%P", out.Release.Commit))
}

// released is the blob of a secret in a release.
func (w *world) released(out release.Outcome, name string) string {
	return w.do("git", "--git-dir", w.origin, "rev-parse", out.Release.Commit+":secrets/"+name+".age")
}

func TestSecrets(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	first := w.release()
	wantKept := func(out release.Outcome, changed ...string) {
		t.Helper()
		for name := range secrets {
			if kept := w.released(out, name) == w.released(first, name); kept == slices.Contains(changed, name) {
				t.Errorf("%s: kept is %v", name, kept)
			}
		}
		first = out
	}

	w.writeSecret("punchline", "plain punchline, edited")
	w.push("Edit a secret")
	out := w.release()
	if !slices.Equal(out.Rekeyed, []string{"secrets/punchline.age"}) || out.Rotate != nil ||
		!out.Manifest.Hosts["joker"].Changed || out.Manifest.Hosts["ursula"].Changed {
		t.Errorf("%+v", out)
	}
	wantKept(out, "punchline")

	w.write("hosts/ursula/default.nix", `{ nixpkgs.hostPlatform = "x86_64-linux"; age.secrets.riddle.file = ../../secrets/riddle.age; age.secrets.lair-wifi.file = ../../secrets/lair-wifi.age; }`)
	w.writeSecret("riddle", "plain riddle")
	w.push("Add a secret")
	secrets["riddle"] = []string{"ursula"}
	defer delete(secrets, "riddle")
	out = w.release()
	if !slices.Equal(out.Rekeyed, []string{"secrets/riddle.age"}) {
		t.Errorf("%+v", out)
	}
	first = out

	old, err := os.ReadFile(filepath.Join(w.clone, "hosts/ursula/host.pub"))
	w.must(err)
	w.write("hosts/ursula/host.pub", w.keygen("ursula"))
	w.push("A new machine called ursula")
	w.refuse(fleet.Bad, fleet.CodeSecret, []string{"secrets/lair-wifi.age", "secrets/riddle.age", "allowRemoval"})
	w.write("garrison.toml", "[hosts]\nmanual = ['drhorrible']\n[secrets]\nallowRemoval = ['"+strings.TrimSpace(string(old))+"']\n")
	w.push("The old one is gone")
	out = w.release()
	if !slices.Equal(out.Rekeyed, []string{"secrets/lair-wifi.age", "secrets/riddle.age"}) || len(out.Rotate) != 2 || !strings.Contains(out.Rotate[0], "lair-wifi") {
		t.Errorf("%+v", out)
	}
	wantKept(out, "lair-wifi", "riddle")

	w.write("hosts/ursula/default.nix", `{ nixpkgs.hostPlatform = "x86_64-linux"; age.secrets.riddle.file = ../../secrets/riddle.age; }`)
	w.push("ursula needs no network")
	w.refuse(fleet.Bad, fleet.CodeSecret, []string{"secrets/lair-wifi.age", "ursula"})
	w.write("garrison.toml", "[hosts]\nmanual = ['drhorrible']\n[secrets]\nallowRemoval = ['ursula']\n")
	w.push("and shall not read its key")
	secrets["lair-wifi"] = []string{"ratched"}
	defer func() { secrets["lair-wifi"] = []string{"ratched", "ursula"} }()
	out = w.release()
	if len(out.Rotate) != 1 || !strings.Contains(out.Rotate[0], "secrets/lair-wifi.age: rotate this value: ursula could read it") {
		t.Errorf("%v", out.Rotate)
	}
	wantKept(out, "lair-wifi")
}

// TestDamagedSecretIsRekeyed: a release that carries other bytes than it recorded is not built on blindly.
func TestDamagedSecretIsRekeyed(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	first := w.release()
	// Somebody with the release key made release 2 by hand, and got the recipients wrong.
	good, other := w.released(first, "punchline"), w.released(first, "ward-key")
	w.do("git", "fetch", "--quiet", "origin", "release", "--tags")
	w.do("git", "checkout", "--quiet", "--detach", "FETCH_HEAD")
	record, err := os.ReadFile(filepath.Join(w.clone, fleet.SecretsPath))
	w.must(err)
	w.write(fleet.SecretsPath, strings.ReplaceAll(string(record), good, other))
	w.do("git", "commit", "--quiet", "--all", "-m", "By hand")
	w.byHand(first.Manifest, 2, w.key)
	w.do("git", "checkout", "--quiet", "main")
	w.change("Next")
	out := w.release()
	if out.Release.Number != 3 || !slices.Equal(out.Rekeyed, []string{"secrets/punchline.age"}) {
		t.Errorf("%+v", out)
	}
}

// TestDamagedObjectIsRekeyed: what was released is on this disk no longer what it was.
func TestDamagedObjectIsRekeyed(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	first := w.release()
	punchline, ward := w.released(first, "punchline"), w.released(first, "ward-key")
	object := func(id string) string { return filepath.Join(w.repo.Dir, "objects", id[:2], id[2:]) }
	other, err := os.ReadFile(object(ward))
	w.must(err)
	w.must(os.Remove(object(punchline)))
	w.must(os.WriteFile(object(punchline), other, 0o444))
	w.change("Next")
	if out := w.release(); !slices.Equal(out.Rekeyed, []string{"secrets/punchline.age"}) || w.released(out, "punchline") == punchline {
		t.Errorf("%+v", out)
	}
}

// byHand pushes the clone's HEAD as release n, signed by key (or not, when key is "").
func (w *world) byHand(m *fleet.Manifest, n int, key string) {
	w.t.Helper()
	w.sign(m, n, key)
	w.do("git", "push", "--quiet", "--force", "origin", "HEAD:refs/heads/release", fleet.TagName(n))
}

func (w *world) sign(m *fleet.Manifest, n int, key string) {
	w.t.Helper()
	next := *m
	next.Number = n
	message, err := next.TagMessage()
	w.must(err)
	repo := &git.Repo{Dir: filepath.Join(w.clone, ".git")}
	if key == "" {
		w.do("git", "tag", "-a", "-m", string(message), fleet.TagName(n))
		return
	}
	_, err = repo.SignTag(w.t.Context(), "refs/tags/"+fleet.TagName(n), fleet.TagName(n), w.do("git", "rev-parse", "HEAD"), message, key, time.Now())
	w.must(err)
}

// TestWorkTree releases from a developer's clone, with a dry run first: nothing but refs/garrison is touched.
func TestWorkTree(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		w := newWorld(t, n)
		repo, err := git.Open(t.Context(), filepath.Join(w.clone, "hosts"))
		w.must(err)
		w.write("gitops-test", "not committed\n")
		local := func() string {
			refs := w.do("git", "for-each-ref", "--format=%(objectname) %(refname)")
			lines := slices.DeleteFunc(strings.Split(refs, "\n"), func(l string) bool { return strings.Contains(l, " refs/garrison/") })
			return strings.Join(lines, "\n") + w.do("git", "status", "--porcelain=v2", "--branch")
		}
		before, origin := local(), w.refs()
		fromClone := func(o *release.Options) { o.Repo, o.Remote = repo, "origin" }

		out, err := release.Run(t.Context(), w.with(func(o *release.Options) {
			fromClone(o)
			o.DryRun, o.SigningKey, o.Cache = true, "", nil
		}))
		w.must(err)
		stats, err := w.cache.Index.Stats(t.Context(), "c")
		w.must(err)
		if out.Manifest.Number != 1 || len(out.Manifest.Hosts) != 3 || len(out.Rekeyed) != 4 || out.Release != nil || out.Pushed != nil {
			t.Errorf("%+v", out)
		}
		if local() != before || w.refs() != origin || stats.Paths != 0 {
			t.Errorf("the dry run changed something: %s, %s, %+v", local(), w.refs(), stats)
		}
		w.release(fromClone)
		if local() != before {
			t.Errorf("the release changed the clone from\n%s\nto\n%s", before, local())
		}
	})
}

// TestShallowClone: CI systems check out the newest commit alone.
func TestShallowClone(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	w.release()
	w.push("Second")
	w.change("Third")
	shallow := filepath.Join(w.dir, "shallow")
	w.do("git", "clone", "--quiet", "--depth=1", "file://"+w.origin, shallow)
	repo, err := git.Open(t.Context(), shallow)
	w.must(err)
	w.release(func(o *release.Options) { o.Repo, o.Remote = repo, "origin" })
}

func TestBranches(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	first := w.release()

	// The release branch is lost: the next release goes on behind the last one, so that hosts see no break.
	w.do("git", "push", "--quiet", "origin", ":release")
	again := w.release()
	if again.Release.Number != 2 || w.parents(again)[0] != first.Release.Commit {
		t.Errorf("%+v", again.Release)
	}

	// Somebody else's tags are in nobody's way.
	w.do("git", "tag", "release-3")
	w.do("git", "tag", "release-999999999999999999")
	w.sign(first.Manifest, 7, "")
	w.do("git", "push", "--quiet", "origin", "--tags")
	w.change("Behind false tags")
	if out := w.release(); out.Release.Number != 4 || w.parents(out)[0] != again.Release.Commit {
		t.Errorf("%+v", out.Release)
	}

	// Another source branch, named in the file that is on main.
	text, err := os.ReadFile(filepath.Join(w.clone, "garrison.toml"))
	w.must(err)
	w.write("garrison.toml", "[branches]\nsource = \"stable\"\n"+string(text))
	w.push("Follow stable")
	w.do("git", "push", "--quiet", "origin", "HEAD:stable")
	w.change("Only on main")
	out := w.release()
	if m := out.Manifest; m.Source.Branch != "stable" || m.Source.Subject != "Follow stable" {
		t.Errorf("%+v", m.Source)
	}
	seen, err := release.Look(t.Context(), w.repo, w.origin)
	if err != nil || seen.Source.Commit != out.Manifest.Source.Commit || seen.Source.Branch != "stable" {
		t.Errorf("%+v, %v", seen, err)
	}

	// There is no main, but a branch that calls itself the source; then there are two.
	w.do("git", "--git-dir", w.origin, "symbolic-ref", "HEAD", "refs/heads/stable")
	w.do("git", "push", "--quiet", "--delete", "origin", "main")
	w.write("text", "on stable")
	w.do("git", "commit", "--quiet", "--all", "--allow-empty", "-m", "Without a main")
	w.do("git", "push", "--quiet", "origin", "HEAD:stable")
	if out := w.release(); out.Manifest.Source.Branch != "stable" || out.Manifest.Source.Subject != "Without a main" {
		t.Errorf("%+v", out.Manifest.Source)
	}
	w.write("garrison.toml", "[branches]\nsource = \"trunk\"\n"+string(text))
	w.do("git", "commit", "--quiet", "--all", "-m", "Trunk")
	w.do("git", "push", "--quiet", "origin", "HEAD:trunk")
	w.refuse(fleet.Bad, fleet.CodeConfig, []string{"stable and trunk"})
}

// TestLook: test branches and what is left of them are seen, and what is wrong with garrison.toml keeps nobody from seeing that there is something to release.
func TestLook(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	w.release()
	main := w.do("git", "rev-parse", "HEAD")
	w.do("git", "push", "--quiet", "origin", "HEAD:joker-test", "HEAD:nothing-testing")
	w.do("git", "fetch", "--quiet", "--tags", "origin")
	w.do("git", "push", "--quiet", "origin", "refs/tags/release-1^{}:refs/heads/release-joker-test", "refs/tags/release-1^{}:refs/heads/release-ursula-test")
	look := func() release.Branches {
		t.Helper()
		seen, err := release.Look(t.Context(), w.repo, w.origin)
		w.must(err)
		return seen
	}
	seen := look()
	if len(seen.Tests) != 1 || seen.Tests["joker"].Commit != main || seen.Tests["joker"].Branch != "joker-test" || seen.Tests["joker"].Subject != "First" || !seen.Left {
		t.Errorf("%+v", seen)
	}
	w.do("git", "push", "--quiet", "origin", ":release-ursula-test")
	w.write("garrison.toml", "[branches]\nsource = 7\n")
	w.push("Broken")
	if seen = look(); seen.Left || seen.Source.Commit != w.do("git", "rev-parse", "HEAD") || seen.Source.Branch != "main" {
		t.Errorf("%+v", seen)
	}
}

func TestLookAtAnEmptyRemote(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	w.do("git", "init", "--quiet", "--bare", filepath.Join(w.dir, "empty.git"))
	seen, err := release.Look(t.Context(), w.newRepo("other.git"), filepath.Join(w.dir, "empty.git"))
	if err != nil || seen.Source.Commit != "" {
		t.Errorf("%+v, %v", seen, err)
	}
	w.refuse(fleet.Bad, fleet.CodeNotFound, []string{"does not have a branch main"}, func(o *release.Options) { o.Remote = filepath.Join(w.dir, "empty.git") })
}

// identitiesOf is for Options.Identities.
func identitiesOf(ids ...age.Identity) func() ([]age.Identity, error) {
	return func() ([]age.Identity, error) { return ids, nil }
}
