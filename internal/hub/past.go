package hub

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// Which releases there were is in git. So a hub that was away, or that was made anew, reads the newest of them there.

const (
	mostPast  = 100 // releases that are read again
	pastTries = 5   // looks that try to read what was missed
	pastRefs  = "refs/garrison/published/past/"
)

// past is what a Follower has to keep of the releases that it saw; nothing, without a newest.
type past struct {
	newest *fleet.Manifest
	tags   map[string]git.Ref // of the remote
	after  int                // number of the release that it saw before; 0 when it has just begun
	failed int                // looks
}

// keepPast has the hub keep the newest release, and those before it that it does not know. That these cannot be had is a failed look, but not for ever.
func (f *Follower) keepPast(ctx context.Context) error {
	p := &f.past
	if p.newest == nil || f.Hub == nil {
		return nil
	}
	var missed []int
	for name := range p.tags {
		if n, ok := fleet.TagNumber(name); ok && n < p.newest.Number && n > max(p.after, p.newest.Number-mostPast) {
			missed = append(missed, n)
		}
	}
	missed, err := f.Hub.unknownReleases(ctx, missed)
	var list []fleet.Published
	if err == nil && len(missed) > 0 {
		list, err = f.readPast(ctx, missed)
	}
	if p.failed++; err != nil && p.failed < pastTries {
		return err
	}
	if err != nil {
		f.Log.Warn("older releases cannot be read: they are missing in the timeline", "err", err)
	}
	m := p.newest
	tag := p.tags[m.Name()]
	if err := f.Hub.NoteReleases(ctx, append(list, publishedBy(m, tag))); err != nil {
		return err
	}
	f.past = past{}
	return nil
}

// readPast reads releases, which are fetched at once; one that may not be believed is left out.
func (f *Follower) readPast(ctx context.Context, numbers []int) (list []fleet.Published, err error) {
	slices.Sort(numbers)
	var refspecs []string
	gone := map[string]string{}
	for _, n := range numbers {
		ref := pastRefs + strconv.Itoa(n)
		refspecs = append(refspecs, "+refs/tags/"+fleet.TagName(n)+":"+ref)
		gone[ref] = ""
	}
	if err := f.Repo.FetchFrom(ctx, f.Remote, refspecs...); err != nil {
		return nil, err
	}
	for _, n := range numbers {
		tag := f.past.tags[fleet.TagName(n)]
		m, err := f.readTag(ctx, fleet.TagName(n), tag)
		switch {
		case err == nil:
			list = append(list, publishedBy(m, tag))
		case fleet.ClassOf(err) != fleet.Bad:
			return nil, err
		default:
			f.Log.Debug("passing over a tag", "release", n, "err", err)
		}
	}
	return list, f.Repo.UpdateRefs(ctx, gone)
}

// publishedBy is the release with that manifest and tag.
func publishedBy(m *fleet.Manifest, tag git.Ref) fleet.Published {
	p := fleet.Published{Schema: fleet.StatusSchema, Release: m.Ref(tag.Commit, tag.ID), CreatedAt: m.CreatedAt, SeenAt: time.Now().UTC(), RollbackTo: m.RollbackTo,
		Hosts: len(m.Hosts), Changed: []string{}, Manual: m.Manual}
	for _, host := range slices.Sorted(maps.Keys(m.Hosts)) {
		if m.Hosts[host].Changed {
			p.Changed = append(p.Changed, host)
		}
	}
	return p
}

// unknownReleases are those of the numbers that the store does not have.
func (h *Hub) unknownReleases(ctx context.Context, numbers []int) (unknown []int, err error) {
	known, err := h.Store.Releases(ctx, 0, mostPast)
	for _, n := range numbers {
		if !slices.ContainsFunc(known, func(p fleet.Published) bool { return p.Release.Number == n }) {
			unknown = append(unknown, n)
		}
	}
	return unknown, err
}

// NoteReleases keeps releases that were seen, in order of their numbers. Of those that are newer than all that is known there are events; where none is known,
// of the newest alone, which is kept first: a hub that is made anew does not tell people again what they know.
func (h *Hub) NoteReleases(ctx context.Context, list []fleet.Published) error {
	newest, err := h.Store.Releases(ctx, 0, 1)
	if err != nil || len(list) == 0 {
		return err
	}
	known := list[len(list)-1].Release.Number - 1
	if len(newest) > 0 {
		known = newest[0].Release.Number
	} else {
		list = slices.Clone(list)
		slices.Reverse(list)
	}
	for _, p := range list {
		var events []fleet.Event
		if p.Release.Number > known {
			events, err = releaseEvent(p)
		}
		if err := h.noteWith(ctx, events, err, func() error { return h.Store.PutRelease(ctx, p) }); err != nil {
			return err
		}
	}
	return nil
}
