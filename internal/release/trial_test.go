package release_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// testBranch is where the clone goes on with ursula's test branch, from commit.
func (w *world) testBranch(commit string) {
	w.t.Helper()
	w.do("git", "checkout", "--quiet", "-B", "ursula-test", commit)
}

func forUrsula(o *release.Options) { o.Test = "ursula" }

// makeTest makes a test release that must succeed, and looks at all of it.
func (w *world) makeTest(base release.Outcome) release.Outcome {
	w.t.Helper()
	out, err := release.Run(w.t.Context(), w.with(forUrsula))
	w.must(err)
	m := out.Manifest
	origin := &git.Repo{Dir: w.origin}
	tip := w.do("git", "--git-dir", w.origin, "rev-parse", "release-ursula-test")
	if out.State != fleet.RunReleased || out.Release.Number != 0 || out.Release.Test != m.Name() || out.Release.Commit != tip {
		w.t.Fatalf("%s, %+v; the branch is %s", out.State, out.Release, tip)
	}
	signers := filepath.Join(w.dir, "signers")
	pub, err := os.ReadFile(w.key + ".pub")
	w.must(err)
	w.must(os.WriteFile(signers, append([]byte("garrison "), pub...), 0o600))
	w.must(origin.VerifyTag(w.t.Context(), out.Release.Tag, signers))
	tag, err := origin.ReadTag(w.t.Context(), w.do("git", "--git-dir", w.origin, "rev-parse", m.Name()))
	w.must(err)
	said, err := fleet.ParseTagMessage(tag.Message)
	w.must(err)
	if tag.Name != m.Name() || tag.Commit != tip || said.Test != "ursula" || said.Base != base.Release.Number || len(said.Hosts) != 1 || said.Hosts["ursula"].OutPath == "" || len(said.Manual) != 0 {
		w.t.Errorf("%s says %+v", tag.Name, said)
	}
	if got, want := w.parents(out), []string{base.Release.Commit, w.do("git", "rev-parse", "HEAD")}; !slices.Equal(got, want) {
		w.t.Errorf("parents %v, want %v", got, want)
	}
	if release := w.do("git", "--git-dir", w.origin, "rev-parse", "release"); release != base.Release.Commit {
		w.t.Errorf("the release branch was moved to %s", release)
	}
	// Ursula's only secret is for her alone; the others are the editors' still, and on no record.
	record, there, err := origin.ReadFile(w.t.Context(), tip, fleet.SecretsPath)
	if err != nil || !there {
		w.t.Fatalf("%v, %v", there, err)
	}
	s, err := fleet.ParseSecrets(record)
	w.must(err)
	if r, ok := s.Files["secrets/lair-wifi.age"]; len(s.Files) != 1 || !ok || len(r.Recipients) != 1 {
		w.t.Errorf("the record has %+v", s.Files)
	}
	for name := range secrets {
		same := w.released(out, name) == w.do("git", "rev-parse", "HEAD:secrets/"+name+".age")
		if same != (name != "lair-wifi") {
			w.t.Errorf("%s is as on the test branch: %v", name, same)
		}
	}
	w.wantInCache(m)
	return out
}

// TestTestRelease makes some for one host: they are counted, are built on the newest release and on nothing else, and no release
// takes notice of them.
func TestTestRelease(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	main := w.do("git", "rev-parse", "HEAD")
	w.testBranch(main)
	w.change("tried before there is a release")
	w.refuse(fleet.Bad, fleet.CodeNotFound, []string{"no release", "garrison release"}, forUrsula)
	first := w.release()
	if first.Manifest.Test != "" || first.Manifest.Base != 0 || first.Manifest.Number != 1 {
		t.Errorf("%+v", first.Manifest)
	}

	one := w.makeTest(first)
	if one.Release.Test != "release-ursula-test-1" || len(one.Rotate) != 0 || !slices.Equal(one.Rekeyed, []string{"secrets/lair-wifi.age"}) || one.Manifest.Hosts["ursula"].OutPath == first.Manifest.Hosts["ursula"].OutPath {
		t.Errorf("%+v: %+v", one.Release, one.Manifest)
	}
	again, err := release.Run(t.Context(), w.with(forUrsula))
	w.must(err)
	if again.State != fleet.RunUnchanged || *again.Release != *one.Release {
		t.Errorf("%s, %+v", again.State, again.Release)
	}
	w.change("the second try")
	two := w.makeTest(first)
	if two.Release.Test != "release-ursula-test-2" || len(two.Rekeyed) != 0 {
		t.Errorf("%+v", two)
	}

	// main goes on: what is not built on it is refused, and rebased it starts anew from there.
	w.do("git", "checkout", "--quiet", "main")
	w.write("gitops-main", "x\n")
	w.push("main goes on")
	next := w.release()
	if next.Release.Number != 2 || w.parents(next)[0] != first.Release.Commit {
		t.Errorf("%+v", next.Release)
	}
	w.refuse(fleet.Bad, fleet.CodeNotDescendant, []string{"ursula-test", "release-2", "rebase it on main"}, forUrsula)
	w.testBranch("main")
	w.write("gitops-test", "the third try\n")
	w.do("git", "add", "--all")
	w.do("git", "commit", "--quiet", "-m", "Third")
	w.do("git", "push", "--quiet", "--force", "origin", "HEAD")
	three := w.makeTest(next)
	if three.Release.Test != "release-ursula-test-3" {
		t.Errorf("%+v", three.Release)
	}
	same, err := release.Run(t.Context(), w.options())
	w.must(err)
	if same.State != fleet.RunUnchanged || same.Release.Number != 2 {
		t.Errorf("%+v", same)
	}
	w.refuse(fleet.Bad, fleet.CodeNotFound, []string{"a branch joker-test"}, func(o *release.Options) { o.Test = "joker" })
	if refs := w.refs(); strings.Count(refs, "refs/tags/release-ursula-test-") != 3 {
		t.Errorf("%s", refs)
	}
}
