package release_test

import (
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// TestRollbackTo goes back, stays there while main does not move, and goes on when it does.
func TestRollbackTo(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	first := w.release()
	w.writeSecret("punchline", "plain punchline, another")
	bad := w.change("a bad change")
	w.release()
	back := w.with(func(o *release.Options) { o.RollbackTo = 1 })
	identities := back.Identities
	back.Identities = nil // what was re-keyed once is there
	out, err := release.Run(t.Context(), back)
	w.must(err)
	w.wantWhole(out)
	m := out.Manifest
	if m.Number != 3 || m.RollbackTo != 1 || m.Newest != bad || m.Source.Commit != first.Manifest.Source.Commit || len(out.Rekeyed) != 0 {
		t.Errorf("%+v", m)
	}
	for h, e := range m.Hosts {
		if e.OutPath != first.Manifest.Hosts[h].OutPath || !e.Changed {
			t.Errorf("%s: %+v", h, e)
		}
	}
	if w.released(out, "punchline") != w.released(first, "punchline") {
		t.Error("the older secret was re-keyed again")
	}

	// CI looks again: the bad commit is not released once more, nor the same roll-back.
	for _, o := range []release.Options{w.options(), back} {
		again, err := release.Run(t.Context(), o)
		w.must(err)
		if again.State != fleet.RunUnchanged || again.Release.Number != 3 {
			t.Errorf("%+v", again)
		}
	}

	back.Identities = identities
	w.do("git", "revert", "--no-edit", "HEAD")
	w.do("git", "push", "--quiet", "origin", "HEAD")
	next := w.release()
	if next.Manifest.Number != 4 || next.Manifest.RollbackTo != 0 || next.Manifest.Newest != "" {
		t.Errorf("%+v", next.Manifest)
	}
	for h, e := range next.Manifest.Hosts {
		if e.OutPath != first.Manifest.Hosts[h].OutPath && h != "joker" {
			t.Errorf("%s: %+v", h, e)
		}
	}
	none := w.with(func(o *release.Options) { o.RollbackTo = 9 })
	if _, err := release.Run(t.Context(), none); fleet.CodeOf(err) != fleet.CodeNotFound {
		t.Errorf("%v", err)
	}
}
