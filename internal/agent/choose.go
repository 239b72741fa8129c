package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// choose finds the system that an operator asks for.
func (a *Agent) choose(ctx context.Context, o fleet.Order, s fleet.Status) (fleet.Target, error) {
	switch {
	case o.Act == fleet.ActRollback:
		return a.earlier(o.Back, s)
	case o.StorePath != "":
		if !fleet.ValidStorePath(o.StorePath) {
			return fleet.Target{}, fleet.Errorf(fleet.Bad, fleet.CodeInvalid, "%.200q is not a store path", o.StorePath).
				WithHint("it has the form /nix/store/HASH-nixos-system-NAME, without a folder in it")
		}
		return a.ofPath(o.StorePath, s), nil
	}
	return a.ofRelease(ctx, o.Release, s)
}

// ofRelease is this host's system in an earlier release, whose tag is verified again: what is in the repository may be of anybody's.
func (a *Agent) ofRelease(ctx context.Context, number int, s fleet.Status) (fleet.Target, error) {
	var target fleet.Target
	name := fleet.TagName(number)
	unknown := fleet.Errorf(fleet.Bad, fleet.CodeNotFound, "%s is not among the releases that this host knows", name).WithHint("git tag lists them; a store path can be named, too")
	newest := s.Newest
	if s.Ahead != nil { // an operator may be ahead of the ring
		newest = &s.Ahead.Release
	}
	if newest == nil || number > newest.Number {
		return target, unknown
	}
	ref, m, err := a.past(ctx, number, newest.Commit)
	if err != nil {
		return target, unknown.WithCause(err)
	}
	entry, there := m.Hosts[a.Config.Host]
	if !there {
		return target, fleet.Errorf(fleet.Bad, fleet.CodeNotFound, "%s has no host %s", name, a.Config.Host)
	}
	return *entry.Target(m.Ref(ref.Commit, ref.ID), time.Time{}), nil
}

// past fetches and verifies an earlier release, which must be among the ancestors of the newest: its tag is not kept here. The first remote that has it will do.
func (a *Agent) past(ctx context.Context, number int, newest string) (git.Ref, *fleet.Manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, pastTime)
	defer cancel()
	type answer struct {
		ref git.Ref
		m   *fleet.Manifest
		err error
	}
	answers := make(chan answer, len(a.remotes))
	for _, remote := range a.remotes {
		a.tasks.Go(func() {
			ref, m, err := a.looker.past(ctx, remote, number, newest)
			answers <- answer{ref, m, err}
		})
	}
	var first answer
	for range a.remotes {
		if first = <-answers; first.err == nil {
			break
		}
	}
	return first.ref, first.m, first.err
}

// pastTime bounds that: somebody waits for it.
const pastTime = orderTime / 2

const pastRef = "past/"

func (l *looker) past(ctx context.Context, m *remote, number int, newest string) (git.Ref, *fleet.Manifest, error) {
	name := fleet.TagName(number)
	// Beside the tags that looks are about: tidy removes those of older releases.
	if err := l.repo.FetchFrom(ctx, m.Remote, fmt.Sprintf("+refs/tags/%s:%s%s%s", name, m.prefix(), pastRef, name)); err != nil {
		return git.Ref{}, nil, err
	}
	refs, err := l.repo.Refs(ctx, m.prefix())
	if err != nil {
		return git.Ref{}, nil, err
	}
	ref := refs[pastRef+name]
	_, manifest, err := l.readTag(ctx, fleet.TagName(number), ref.Commit, ref)
	if err == nil && ref.Commit != newest {
		var older bool
		if older, err = l.repo.IsAncestor(ctx, ref.Commit, newest); err == nil && !older {
			err = fmt.Errorf("%s is of another history than the newest release", name)
		}
	}
	return ref, manifest, err
}

// earlier is the system that was confirmed so many before the one that runs.
func (a *Agent) earlier(back int, s fleet.Status) (fleet.Target, error) {
	if back < 1 {
		return fleet.Target{}, fleet.Errorf(fleet.Bad, fleet.CodeInvalid, "a host can be rolled back by 1 or more systems, not by %d", back)
	}
	all := confirmed(a.pastDeployments())
	if n := len(all); n > 0 && all[n-1].OutPath == s.Systems.Current {
		all = all[:n-1]
	}
	if back > len(all) {
		return fleet.Target{}, fleet.Errorf(fleet.Bad, fleet.CodeNotFound, "the history has only %d confirmed systems before the one that runs", len(all)).
			WithHint("garrison history lists them; garrison deploy takes a release or a store path")
	}
	d := all[len(all)-back]
	return fleet.Target{Release: d.Release, Toplevel: d.Toplevel}, nil
}

// ofPath is a system that is named by its store path, and what this host knows to belong to it: its checks, above all. That no release
// is named keeps it from being built here, or taken for a test.
func (a *Agent) ofPath(path string, s fleet.Status) fleet.Target {
	for _, t := range []*fleet.Target{s.Target, s.Active} {
		if t != nil && t.OutPath == path {
			return fleet.Target{Toplevel: t.Toplevel}
		}
	}
	for _, d := range slices.Backward(a.pastDeployments()) {
		if d.OutPath == path {
			return fleet.Target{Toplevel: d.Toplevel}
		}
	}
	return fleet.Target{Toplevel: fleet.Toplevel{OutPath: path}}
}

// pastDeployments are all that the history has, oldest first, but for lines that are none.
func (a *Agent) pastDeployments() []fleet.Deployment {
	past, err := durable.ReadJournal[fleet.Deployment](a.historyFile(), 0)
	if err != nil {
		a.Log.Error("history is damaged in part", "err", err)
	}
	return slices.DeleteFunc(past, func(d fleet.Deployment) bool { return !fleet.ValidStorePath(d.OutPath) })
}

// confirmed are the systems that a way back leads over, oldest first: each that was confirmed, but for those that were rolled
// back from. So a second roll-back goes further back, and not forth again.
func confirmed(past []fleet.Deployment) []fleet.Deployment {
	var way []fleet.Deployment
	for _, d := range past {
		if d.Result != fleet.Committed && d.Result != fleet.RebootNeeded {
			continue
		}
		if d.Choice != nil && d.Choice.Act == fleet.ActRollback {
			for i := len(way) - 1; i >= 0; i-- {
				if way[i].OutPath == d.OutPath {
					way = way[:i]
					break
				}
			}
		}
		if n := len(way); n > 0 && way[n-1].OutPath == d.OutPath {
			way = way[:n-1]
		}
		way = append(way, d)
	}
	return way
}
