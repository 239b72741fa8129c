package release

import (
	"cmp"
	"context"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// fillEntries notes for each followed host what was evaluated.
func (s *state) fillEntries(ctx context.Context) error {
	s.entries = map[string]fleet.Entry{}
	for _, h := range s.hosts {
		e := fleet.Entry{System: h.System, DrvPath: h.DrvPath, Changed: true, Toplevel: fleet.Toplevel{OutPath: h.OutPath, Flake: h.Flake.Dir, Checks: h.Checks,
			Submodules: h.Flake.Submodules, LFS: h.Flake.LFS != ""}}
		if s.prev != nil {
			e.Previous = s.prev.manifest.Hosts[h.Name].OutPath
			e.Changed = e.Previous != e.OutPath
		}
		s.entries[h.Name] = e
	}
	if len(s.entries) == 0 {
		if s.Test != "" {
			return fleet.Errorf(fleet.Bad, fleet.CodeNoHosts, "%s makes %s manual: there is no agent that would try it", ConfigPath, s.Test)
		}
		return fleet.Errorf(fleet.Bad, fleet.CodeNoHosts, "%s makes every host manual: there is nothing to release", ConfigPath)
	}
	return s.place(ctx)
}

// trace is the traceparent of what is released: the one given, that of the release that is there, or one that everybody would find.
func (s *state) trace() string {
	if _, ok := fleet.ParseTraceparent(s.Trace); ok {
		return s.Trace
	}
	of := ""
	switch {
	case s.outcome.Release != nil && s.outcome.Release.Trace != "":
		return s.outcome.Release.Trace
	case s.Test != "":
		of = testSourceBranch(s.Test)
	case s.back != nil:
		of = fleet.TagName(s.number)
	}
	return fleet.NewTrace(s.source, of).String()
}

// from is the source as a release names it.
func (s *state) from() fleet.Source {
	source, _ := s.branches()
	return fleet.Source{Commit: s.source, Branch: source, Subject: s.subject(), Author: s.info.Author, PushedAt: s.PushedAt}
}

// publish signs the tag and moves branch and tag on the remote, both or none.
func (s *state) publish(ctx context.Context) error {
	source, branch := s.branches()
	m := &fleet.Manifest{
		Schema: fleet.ManifestSchema, Number: s.number, CreatedAt: time.Now().UTC().Truncate(time.Millisecond),
		Source: s.from(),
		Trace:  s.trace(), Hosts: s.entries,
	}
	if s.back != nil {
		m.RollbackTo, m.Newest = s.RollbackTo, s.prev.manifest.NewestSource()
	}
	if s.Test != "" {
		m.Test, m.Base = s.Test, s.prev.manifest.Number
	}
	for _, h := range s.manual {
		m.Manual = append(m.Manual, h.Name)
	}
	m.Rings = s.rings
	for name, e := range m.Hosts {
		e.Ring, e.Batch = s.places[name].ring, s.places[name].batch
		m.Hosts[name] = e
	}
	s.outcome.Manifest = m
	if s.DryRun {
		return s.foresee(ctx, m)
	}
	message, err := m.TagMessage()
	if err != nil {
		return fleet.Errorf(fleet.Bad, fleet.CodeManifest, "the release cannot be described").WithCause(err)
	}
	name := m.Name()
	tag, err := s.Repo.SignTag(ctx, tagsRef+name, name, s.commit, message, s.SigningKey, m.CreatedAt)
	if err != nil {
		return err
	}
	moves := []git.Move{{Ref: "refs/heads/" + branch, From: s.branchTip, To: s.commit}, {Ref: "refs/tags/" + name, From: "", To: tag}}
	if s.OnlyNewest && s.back == nil {
		moves = append(moves, git.Move{Ref: "refs/heads/" + source, From: s.source, To: s.source})
	}
	if err := s.move(ctx, m, moves); err != nil {
		if fleet.CodeOf(err) == fleet.CodeRace {
			err = cmp.Or(s.newest(ctx), err)
		}
		return err
	}
	if err := s.Repo.UpdateRef(ctx, headsRef+branch, s.commit); err != nil { // as a fetch would
		return err
	}
	s.outcome.State = fleet.RunReleased
	released := m.Ref(s.commit, tag)
	s.outcome.Release = &released
	if s.Published != nil && len(s.config.Mirrors) > 0 {
		s.Published()
	}
	return nil
}
