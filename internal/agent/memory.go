package agent

import (
	"context"
	"path/filepath"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// The newest accepted release stands in the record, and once more by itself: nothing older is accepted when one of the two is lost.

func (a *Agent) memoryFile() string { return filepath.Join(a.Config.StateDir, "newest.json") }

// recall reads what an earlier agent accepted last. A file that cannot be used says nothing; the record, which was read before, does.
func (a *Agent) recall(ctx context.Context) {
	defer func() {
		if n := a.record.Newest; n != nil && n.Number > a.newest.Number {
			a.rememberNewest(ctx, *n)
		}
	}()
	var r fleet.ReleaseRef
	there, err := durable.ReadJSON(a.memoryFile(), maxRecord, &r)
	if err != nil || there && (r.Number < 1 || !fleet.ValidCommit(r.Commit) || !fleet.ValidCommit(r.Tag)) {
		a.Log.Error("what is remembered of the newest release cannot be used", "file", a.memoryFile(), "err", err)
		return
	}
	if there {
		a.newest = r
	}
}

// rememberNewest writes down a release before the record does. When that is not possible the release is looked at again later.
func (a *Agent) rememberNewest(ctx context.Context, r fleet.ReleaseRef) bool {
	if err := stateError(durable.WriteJSON(a.memoryFile(), r, 0o644)); err != nil {
		if ctx.Err() == nil {
			a.Log.Error("the newest release cannot be noted; nothing is done before", "err", err)
			a.note(func(s *fleet.Status) { s.Failure = fleet.FailureOf("", err) })
		}
		return false
	}
	a.newest = r
	return true
}

// setKnown is called whenever the record changed: looks from now on are held against it.
func (a *Agent) setKnown() {
	k := known{given: anchor{number: a.newest.Number, commit: a.newest.Commit, tag: a.newest.Tag}}
	if n := a.record.Newest; n != nil && n.Number >= k.given.number {
		k.given = anchor{number: n.Number, commit: n.Commit, tag: n.Tag, whole: true}
	}
	k.anchor = k.given
	var entry *fleet.Entry
	switch h := a.record.Head; {
	case h != nil:
		k.anchor, k.head, entry = anchor{number: h.Release.Number, commit: h.Release.Commit, tag: h.Release.Tag, whole: true}, h, &h.Entry
	case k.whole:
		entry = a.record.Entry
	}
	if entry != nil {
		k.step = fleet.Step{Ring: entry.Ring, Batch: entry.Batch}
	}
	if t := a.record.Test; t != nil && k.given.whole {
		k.test = testRefOf(t.Release)
	}
	if t := a.record.Tested; t != nil {
		k.tested = testRefOf(*t)
	}
	if a.record.Accept != nil {
		k.accept = a.record.Accept.Commit
	}
	a.known.Store(&k)
}
