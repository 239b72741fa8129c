package release_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// TestMovedAtEveryCall has somebody else publish a release of a newer commit, before every program that a release runs. Whoever comes first has
// it, whole; the other leaves no trace, and the next run finds nothing to do.
func TestMovedAtEveryCall(t *testing.T) {
	s := newStepper(t)
	s.world.release()
	s.change("Ours")
	ours := s.origin
	theirs := s.at("theirs.git")
	s.change("Theirs")
	s.world.release()
	want := s.refs()

	undisturbed := s.attempt(t, ours)
	calls, _ := undisturbed.run("")
	wantOurs, _ := undisturbed.published(2, true)
	for n := 1; n <= len(calls)+1; n++ { // the last one comes after the end
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			a := s.attempt(t, ours)
			at := fmt.Sprintf("%d-before", n)
			if n > len(calls) {
				at = fmt.Sprintf("%d-after", len(calls))
			}
			said, out, err := a.start(at, fmt.Sprintf("git --git-dir %s push --quiet --atomic %s main release release-2 2> /dev/null", theirs, a.origin))
			switch after := a.refs(); {
			case after == want && (err == nil || strings.Contains(string(out), " was moved by somebody else while this ran")):
				a.run("")
				if a.refs() != want {
					t.Errorf("the next run publishes %s", a.refs())
				}
			case after == want:
				t.Errorf("before %s: %v\n%s", said[len(said)-1], err, out)
			default: // ours came first
				if commit, _ := a.published(2, true); err != nil || commit != wantOurs || n < len(calls) {
					t.Errorf("before %s: %v\n%s\n%s", said[len(said)-1], err, out, after)
				}
			}
		})
	}
}

// TestBranchMoved has somebody else move the release branch, to what none of ours signed, in every event of a release that re-keys. Nothing is
// published then, nor by the next run, until the branch is put back.
func TestBranchMoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nixtest.System(t))
	w.release()
	first := w.do("git", "--git-dir", w.origin, "rev-parse", "release")
	foreign := w.do("git", "--git-dir", w.origin, "commit-tree", "-m", "Foreign", "-p", first, first+"^{tree}")
	w.writeSecret("punchline", "plain punchline 2")
	w.push("Ours")
	move := func(from, to string) {
		w.do("git", "--git-dir", w.origin, "update-ref", "refs/heads/release", to, from)
	}
	for n := 1; n < events; n++ {
		_, err := release.Run(atEvent(t.Context(), n, func() { move(first, foreign) }), w.options())
		if code := fleet.CodeOf(err); code != fleet.CodeRace && code != fleet.CodeSignature {
			t.Fatalf("event %d: %v", n, err)
		}
		if refs := w.refs(); !strings.Contains(refs, foreign+" refs/heads/release") || strings.Contains(refs, "release-2") {
			t.Fatalf("event %d: the origin has\n%s", n, refs)
		}
		w.refuse(fleet.Bad, fleet.CodeSignature, []string{"cannot be built on", "put it back with git push", first})
		move(foreign, first)
	}
	if out := w.release(); out.Release.Number != 2 {
		t.Errorf("%+v", out.Release)
	}
}

// TestMainMoved has somebody push to main in every event of a release that re-keys. What was begun is released, and what came after it is
// the next release's; only before the fetch it comes into the same. Numbers go up by one.
func TestMainMoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nixtest.System(t))
	w.release()
	push := func(n int) string {
		w.writeSecret("punchline", fmt.Sprintf("plain punchline %d", n))
		return w.push(fmt.Sprintf("Change %d", n))
	}
	want := push(0)
	for n := 1; n <= events; n++ {
		var after string
		out, err := release.Run(atEvent(t.Context(), n, func() { after = push(n) }), w.options())
		if n == 1 {
			want = after
			w.must(err)
			after = push(n + events)
		}
		if err != nil || after == "" || out.State != fleet.RunReleased || out.Release.Number != n+1 || out.Release.Source.Commit != want {
			t.Fatalf("event %d: %v, %+v, and should be of %s", n, err, out.Release, want)
		}
		want = after
	}
	if out := w.release(); out.Release.Number != events+2 || out.Release.Source.Commit != want {
		t.Errorf("at the end: %+v", out.Release)
	}

	// Rewritten meanwhile: what was begun on the old history is released; the new one is not built on it, and waits for a person.
	w.change("Old history")
	back := func() { w.do("git", "push", "--quiet", "--force", "origin", "HEAD~1:refs/heads/main") }
	out, err := release.Run(atEvent(t.Context(), 5, back), w.options())
	w.must(err)
	w.wantWhole(out)
	w.refuse(fleet.Bad, fleet.CodeNotDescendant, []string{"does not descend from", "was rewritten"})
}
