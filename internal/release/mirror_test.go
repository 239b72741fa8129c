package release_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// releasesOf are a repository's refs of releases, as bytes.
func (w *world) releasesOf(dir string) string {
	w.t.Helper()
	return w.do("git", "--git-dir", dir, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads/release", "refs/heads/release-*", "refs/tags/release-*")
}

// wantMirrors wants those mirrors to lag behind and the others to have what the origin has.
func (w *world) wantMirrors(got []release.Mirrored, behind ...string) {
	w.t.Helper()
	var lag []string
	for _, m := range release.MirrorsBehind(got) {
		lag = append(lag, m.URL)
		if m.Failure.Message == "" {
			w.t.Errorf("nothing is said of %s", m.URL)
		}
	}
	if !slices.Equal(lag, behind) {
		w.t.Fatalf("behind are %v, not %v: %+v", lag, behind, got)
	}
	for _, m := range got {
		if slices.Contains(behind, m.URL) {
			continue
		}
		if has, should := w.releasesOf(m.URL), w.releasesOf(w.origin); has != should {
			w.t.Errorf("%s has\n%s\nthe origin\n%s", m.URL, has, should)
		}
	}
}

func TestMirrors(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	good, late, dead := filepath.Join(w.dir, "good.git"), filepath.Join(w.dir, "late.git"), filepath.Join(w.dir, "dead.git")
	w.do("git", "init", "--quiet", "--bare", good)
	plain, err := os.ReadFile(filepath.Join(w.clone, "garrison.toml"))
	w.must(err)
	w.write("garrison.toml", "mirrors = [\""+good+"\", \""+late+"\", \"fake:"+dead+"\"]\n"+string(plain))
	w.push("Mirrors")
	published := false
	o := func(o *release.Options) {
		o.Published = func() { published = w.releasesOf(good) == "" && w.releasesOf(w.origin) != "" }
		o.Mirror = func(url string) string { return strings.TrimPrefix(url, "fake:") }
	}
	// Two are not there: that is no failure of the release, which was published before any mirror had it.
	out := w.release(o)
	w.wantMirrors(out.Mirrors, late, "fake:"+dead)
	if !published || out.Mirrors[0].Moved != 2 {
		t.Errorf("published first: %v; %+v", published, out.Mirrors)
	}
	// A run that has nothing to release makes up for it, also for one that has a part.
	w.do("git", "clone", "--quiet", "--bare", good, late)
	w.change("second")
	w.do("mv", late, late+".away")
	out = w.release(o)
	w.wantMirrors(out.Mirrors, late, "fake:"+dead)
	w.do("mv", late+".away", late)
	run := w.options()
	o(&run)
	again, err := release.Run(t.Context(), run)
	w.must(err)
	if again.State != fleet.RunUnchanged {
		t.Errorf("it is %s", again.State)
	}
	w.wantMirrors(again.Mirrors, "fake:"+dead)
	if again.Mirrors[0].Moved != 0 || again.Mirrors[1].Moved != 2 {
		t.Errorf("%+v", again.Mirrors)
	}

	// Test releases come, start anew and go.
	test := func() []release.Mirrored {
		t.Helper()
		run := w.options()
		o(&run)
		run.Test = "joker"
		out, err := release.Run(t.Context(), run)
		w.must(err)
		return out.Mirrors
	}
	w.do("git", "checkout", "--quiet", "-b", "joker-test")
	w.push("For the joker")
	w.wantMirrors(test(), "fake:"+dead)
	w.do("git", "commit", "--quiet", "--amend", "--allow-empty", "-m", "Better")
	w.do("git", "push", "--quiet", "--force", "origin", "joker-test")
	w.wantMirrors(test(), "fake:"+dead)
	if !strings.Contains(w.releasesOf(late), "refs/heads/release-joker-test") {
		t.Error("the test release is not at the mirror")
	}
	// One that nobody's tag names stays, like that of a host whose branch is there.
	w.do("git", "--git-dir", w.origin, "branch", "release-ursula-test", "main")
	w.do("git", "push", "--quiet", "origin", ":joker-test")
	gone, mirrors, err := release.Tidy(t.Context(), run)
	if err != nil || !slices.Equal(gone, []string{"release-joker-test"}) {
		t.Fatalf("%v, %v", gone, err)
	}
	if left := w.releasesOf(w.origin); strings.Contains(left, "heads/release-joker-test") || !strings.Contains(left, "heads/release-ursula-test") {
		t.Errorf("left are\n%s", left)
	}
	w.do("git", "--git-dir", w.origin, "branch", "-D", "release-ursula-test")
	w.wantMirrors(mirrors, "fake:"+dead)
	if gone, _, err := release.Tidy(t.Context(), run); err != nil || len(gone) > 0 {
		t.Errorf("again: %v, %v", gone, err)
	}

	// What somebody else wrote to a mirror is told, and not put right by force.
	w.do("git", "checkout", "--quiet", "main")
	w.do("git", "push", "--quiet", "--force", good, w.do("git", "commit-tree", "-m", "Somebody's", "HEAD^{tree}")+":refs/heads/release")
	before := w.releasesOf(good)
	w.change("third")
	out = w.release(o)
	w.wantMirrors(out.Mirrors, good, "fake:"+dead)
	if w.releasesOf(good) != before || out.Mirrors[0].Failure.Code != fleet.CodeForcePushed {
		t.Errorf("%+v\n%s", out.Mirrors, w.releasesOf(good))
	}
	w.do("git", "--git-dir", good, "update-ref", "-d", "refs/heads/release")
	w.do("git", "--git-dir", late, "tag", "-f", "release-2", "release-1")
	again, err = release.Run(t.Context(), run)
	w.must(err)
	w.wantMirrors(again.Mirrors, late, "fake:"+dead)
}
