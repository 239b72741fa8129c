package release_test

import (
	"path/filepath"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// TestFollowedByPlainGit: another pull tool, which knows fetch, fast-forward and Nix, follows the branch through a dozen
// releases, of all kinds that a main comes to, and finds what the manifests say.
func TestFollowedByPlainGit(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		w := newWorld(t, n)
		follower := filepath.Join(w.dir, "follower")
		number := 0
		follow := func(out release.Outcome) {
			t.Helper()
			if number++; out.Release.Number != number {
				t.Fatalf("release %d, want %d", out.Release.Number, number)
			}
			if number == 1 {
				w.do("git", "clone", "--quiet", "--branch", "release", w.origin, follower)
			} else {
				w.do("git", "-C", follower, "fetch", "--quiet", "origin", "release")
				w.do("git", "-C", follower, "merge", "--quiet", "--ff-only", "FETCH_HEAD")
			}
			for host, e := range out.Manifest.Hosts {
				got := w.do("nix", "--extra-experimental-features", "nix-command flakes", "--store", n.Store, "eval", "--raw",
					"git+file://"+follower+"?ref=release&rev="+out.Release.Commit+"#nixosConfigurations."+host+".config.system.build.toplevel.outPath")
				if got != e.OutPath {
					t.Errorf("release %d: nix says %s for %s, the manifest %s", number, got, host, e.OutPath)
				}
			}
			if got := w.do("git", "-C", follower, "rev-list", "--first-parent", "--count", "HEAD"); number > 1 && got == "1" {
				t.Errorf("release %d is not built on the one before", number)
			}
		}
		head := func() string { return w.do("git", "rev-parse", "HEAD") }

		follow(w.release()) // the first, on a remote that had none
		for _, text := range []string{"one", "two"} {
			w.change(text)
			follow(w.release())
		}
		two := head()
		w.push("An empty commit")
		follow(w.release())
		w.do("git", "checkout", "--quiet", "-b", "feature", two)
		w.write("hosts/joker/build.sh", ": from a branch\n")
		w.push("On a branch")
		w.do("git", "checkout", "--quiet", "main")
		w.do("git", "merge", "--quiet", "--no-ff", "-m", "A merge", "feature")
		w.do("git", "push", "--quiet", "origin", "main")
		follow(w.release())
		w.do("git", "revert", "--no-edit", "-m", "1", "HEAD")
		w.do("git", "push", "--quiet", "origin", "main")
		reverted := w.release()
		follow(reverted)
		w.writeSecret("punchline", "plain punchline, another")
		w.push("A secret")
		follow(w.release())
		follow(w.release(func(o *release.Options) { o.RollbackTo = 2 }))
		w.change("after going back")
		follow(w.release())
		follow(w.release(func(o *release.Options) { o.RollbackTo = 6 }))

		// main is rewritten: refused until what was released is a part of it again, which is the way out that the error names.
		released := head()
		w.do("git", "reset", "--quiet", "--hard", two)
		w.write("gitops-test", "rewritten\n")
		w.do("git", "commit", "--quiet", "--all", "-m", "Rewritten")
		w.do("git", "push", "--quiet", "--force", "origin", "main")
		w.refuse(fleet.Bad, fleet.CodeNotDescendant, []string{"main was rewritten: merge " + released[:12] + " into it"})
		w.do("git", "merge", "--quiet", "-s", "ours", "-m", "What was released", released)
		w.do("git", "push", "--quiet", "origin", "main")
		follow(w.release())
		w.change("and on")
		follow(w.release())
		if number != 12 {
			t.Errorf("%d releases", number)
		}
	})
}
