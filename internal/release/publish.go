package release

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nar"
)

// fillEntries notes for each followed host what was evaluated.
func (s *state) fillEntries() error {
	s.entries = map[string]fleet.Entry{}
	for _, h := range s.hosts {
		e := fleet.Entry{System: h.System, DrvPath: h.DrvPath, OutPath: h.OutPath, Changed: true}
		if s.prev != nil {
			e.Previous = s.prev.manifest.Hosts[h.Name].OutPath
			e.Changed = e.Previous != e.OutPath
		}
		s.entries[h.Name] = e
	}
	if len(s.entries) == 0 {
		return fleet.Errorf(fleet.Bad, fleet.CodeNoHosts, "%s makes every host manual: there is nothing to release", ConfigPath)
	}
	return nil
}

// build builds what all followed hosts need, roots it, and says which hosts' systems do not build.
func (s *state) build(ctx context.Context) error {
	roots := filepath.Join(s.Repo.Dir, "garrison-roots")
	// Those of the previous run go: a fleet that shrinks would leave some behind for ever, and what was released is in the cache.
	if err := errors.Join(os.RemoveAll(roots), os.MkdirAll(roots, 0o755)); err != nil {
		return stateError(s.Repo, err)
	}
	var drvs []string
	for _, h := range s.hosts {
		drvs = append(drvs, h.DrvPath)
	}
	err := s.Nix.Build(ctx, drvs, roots)
	if err != nil {
		return s.whoFailed(ctx, err)
	}
	for h, e := range s.entries {
		e.Built = true
		s.entries[h] = e
	}
	return nil
}

// whoFailed adds to a failure of building which hosts it concerns.
func (s *state) whoFailed(ctx context.Context, failure error) error {
	if ctx.Err() != nil {
		return failure
	}
	var failed []string
	class := fleet.ClassOf(failure)
	for _, h := range s.hosts {
		built, err := s.Nix.Valid(ctx, h.OutPath)
		if err != nil {
			return failure
		}
		if built {
			continue
		}
		failed = append(failed, h.Name)
		if there, err := s.Nix.Valid(ctx, h.DrvPath); err == nil && !there {
			class = fleet.Transient // collected as garbage before it was built
		}
	}
	what := "the build fails"
	if len(failed) > 0 {
		what = strings.Join(failed, ", ") + " cannot be built"
		if class == fleet.Bad {
			what = strings.Join(failed, ", ") + " does not build"
		}
	}
	return fleet.Errorf(class, fleet.CodeBuild, "%s:\n%s", what, failure)
}

// push sends all closures to the cache and notes how large each is.
func (s *state) push(ctx context.Context) error {
	tops := make([]string, 0, len(s.hosts))
	for _, h := range s.hosts {
		tops = append(tops, h.OutPath)
	}
	closure, err := s.Nix.Closure(ctx, tops)
	if err != nil {
		return err
	}
	byPath := make(map[string]nar.PathInfo, len(closure))
	for _, p := range closure {
		byPath[p.StorePath] = p
	}
	for h, e := range s.entries {
		e.ClosurePaths, e.ClosureBytes = closureSize(byPath, e.OutPath)
		s.entries[h] = e
	}
	stats, err := s.cache.Push(ctx, closure, client.PushOptions{RealStoreDir: s.Nix.RealStoreDir()})
	s.outcome.Pushed = &stats
	return err
}

// closureSize counts the paths of a closure and adds up their NAR sizes.
func closureSize(byPath map[string]nar.PathInfo, top string) (paths int, bytes int64) {
	seen := map[string]bool{top: true}
	for queue := []string{top}; len(queue) > 0; {
		p := byPath[queue[0]]
		queue = queue[1:]
		paths++
		bytes += p.NarSize
		for _, ref := range p.References {
			if !seen[ref] {
				seen[ref] = true
				queue = append(queue, ref)
			}
		}
	}
	return paths, bytes
}

// publish signs the tag and moves branch and tag on the remote, both or none.
func (s *state) publish(ctx context.Context) error {
	m := &fleet.Manifest{
		Schema: fleet.ManifestSchema, Number: s.number, CreatedAt: time.Now().UTC().Truncate(time.Millisecond),
		Source: fleet.Source{Commit: s.source, Branch: s.config.Branches.Source, Subject: s.info.Subject, PushedAt: s.PushedAt},
		Trace:  s.Trace, Hosts: s.entries,
	}
	for _, h := range s.manual {
		m.Manual = append(m.Manual, h.Name)
	}
	s.outcome.Manifest = m
	if s.DryRun {
		return nil
	}
	message, err := m.TagMessage()
	if err != nil {
		return fleet.Errorf(fleet.Bad, fleet.CodeManifest, "the release cannot be described").WithCause(err)
	}
	name := fleet.TagName(s.number)
	tag, err := s.Repo.SignTag(ctx, tagsRef+name, name, s.commit, message, s.SigningKey, m.CreatedAt)
	if err != nil {
		return err
	}
	err = s.Repo.Push(ctx, s.Remote,
		git.Move{Ref: "refs/heads/" + s.config.Branches.Release, From: s.branchTip, To: s.commit},
		git.Move{Ref: "refs/tags/" + name, From: "", To: tag})
	if err != nil {
		return err
	}
	s.outcome.State = fleet.RunReleased
	s.outcome.Release = &fleet.ReleaseRef{Number: s.number, Commit: s.commit, Tag: tag, Source: m.Source}
	return nil
}
