package release

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/secret"
)

// maxRounds bounds how often a candidate is evaluated: once, and once more after secrets changed.
// A third would only differ if what hosts declare depended on the ciphertext.
const maxRounds = 3

// settle finds the commit to publish. It starts from the guess that no secret
// changed, which holds for most changes and makes the first evaluation the only one.
// Where the evaluation asks for other secrets, they are re-keyed and the new candidate,
// being another commit, is evaluated again: the manifest must say what hosts would compute themselves.
func (s *state) settle(ctx context.Context) error {
	s.secrets = s.unchangedSecrets()
	for range maxRounds {
		var contents nix.Contents
		err := proc.Stage(ctx, fleet.Evaluate, func() (err error) {
			if err := s.compose(ctx); err != nil {
				return err
			}
			contents, err = s.evaluate(ctx)
			return err
		})
		if err != nil {
			return err
		}
		settled := false
		err = proc.Stage(ctx, fleet.Rekey, func() (err error) {
			settled, err = s.rekey(ctx, contents)
			return err
		})
		if err != nil || settled {
			return err
		}
	}
	return fleet.Errorf(fleet.Bad, fleet.CodeSecret, "which secrets the hosts want changes each time they are re-keyed").
		WithHint("no option may depend on the bytes of a secret file")
}

// unchangedSecrets are the previous release's, as far as their sources are still the same.
func (s *state) unchangedSecrets() fleet.Secrets {
	kept := fleet.Secrets{Schema: fleet.SecretsSchema, Files: map[string]fleet.SecretRecord{}}
	if s.prev != nil {
		for path, r := range s.prev.secrets.Files {
			if s.blobs[path] == r.Source {
				kept.Files[path] = r
			}
		}
	}
	return kept
}

// compose writes the candidate: the source's tree with the secrets put in place.
func (s *state) compose(ctx context.Context) error {
	record, err := s.secrets.Encode()
	if err != nil {
		return err
	}
	recordBlob, err := s.Repo.WriteBlob(ctx, record)
	if err != nil {
		return err
	}
	files := map[string]string{fleet.SecretsPath: recordBlob}
	for path, r := range s.secrets.Files {
		files[path] = r.Released
	}
	c := git.Commit{
		Message: fmt.Sprintf("%s: %s\n\nReleased from %s.\n", fleet.TagName(s.number), s.info.Subject, s.source),
		When:    s.info.When,
	}
	if s.prev != nil {
		c.Parents = append(c.Parents, s.prev.tag.Commit)
	}
	c.Parents = append(c.Parents, s.source)
	if c.Tree, err = s.Repo.TreeWith(ctx, s.source, files); err != nil {
		return err
	}
	if s.commit, err = s.Repo.WriteCommit(ctx, c); err != nil {
		return err
	}
	return s.Repo.UpdateRef(ctx, candidateRef, s.commit)
}

// evaluate evaluates every host of the candidate, some at a time, and reports all that fail.
func (s *state) evaluate(ctx context.Context) (nix.Contents, error) {
	flake := nix.Flake{GitDir: s.Repo.Dir, Ref: candidateRef, Commit: s.commit}
	contents, err := s.Nix.Contents(ctx, flake, "")
	if err != nil {
		return contents, err
	}
	if err := s.config.check(contents.NixOS); err != nil {
		return contents, err
	}
	hosts := make([]nix.Host, len(contents.NixOS))
	errs := make([]error, len(contents.NixOS))
	jobs := s.Jobs
	if jobs <= 0 {
		jobs = runtime.NumCPU()
	}
	slots := make(chan struct{}, jobs)
	var wg sync.WaitGroup
	for i, name := range contents.NixOS {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			hosts[i], errs[i] = s.Nix.Host(ctx, flake, nix.NixOS, name)
		})
	}
	wg.Wait()
	if err := joinHosts(errs); err != nil {
		return contents, err
	}
	s.hosts, s.manual = nil, nil
	for _, h := range hosts {
		if slices.Contains(s.config.Hosts.Manual, h.Name) {
			s.manual = append(s.manual, h)
		} else {
			s.hosts = append(s.hosts, h)
		}
	}
	return contents, nil
}

// joinHosts makes one error of those of several hosts.
func joinHosts(errs []error) error {
	var failed []error
	for _, err := range errs {
		if err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) <= 1 {
		if len(failed) == 0 {
			return nil
		}
		return failed[0]
	}
	text := make([]string, len(failed))
	for i, err := range failed {
		text[i] = err.Error()
	}
	return fleet.Errorf(fleet.ClassOf(failed[0]), fleet.CodeOf(failed[0]), "%d hosts fail:\n%s", len(failed), strings.Join(text, "\n"))
}

// rekey brings the secrets in line with what the evaluation asks for. It is true when they were.
func (s *state) rekey(ctx context.Context, contents nix.Contents) (settled bool, err error) {
	in, err := s.wanted(contents)
	if err != nil {
		return false, err
	}
	plan, err := secret.MakePlan(in)
	if err != nil {
		return false, err
	}
	if plan.Unchanged() {
		return true, s.noteDropped(in)
	}
	released, err := s.execute(ctx, plan)
	if err != nil {
		return false, err
	}
	next, err := plan.Records(released)
	if err != nil {
		return false, err
	}
	s.secrets = *next
	return false, nil
}

// noteDropped notes who could read a secret in the previous release and cannot in this one: what they have read, they keep.
func (s *state) noteDropped(in secret.Input) error {
	if s.prev == nil {
		return nil
	}
	in.Previous = &s.prev.secrets
	plan, err := secret.MakePlan(in)
	if err != nil {
		return err
	}
	for _, d := range plan.Dropped {
		s.outcome.Rotate = append(s.outcome.Rotate, d.String())
		s.Log.Warn("a recipient was removed", "rotate", d.String())
	}
	return nil
}

// execute re-keys what the plan says: path → blob.
func (s *state) execute(ctx context.Context, plan *secret.Plan) (map[string]string, error) {
	released := map[string]string{}
	if len(plan.Rekey) == 0 {
		return released, nil
	}
	identities, err := s.Identities()
	if err != nil {
		return nil, err
	}
	read := func(blob string) ([]byte, error) { return s.Repo.ReadBlob(ctx, blob) }
	results, err := secret.Execute(ctx, plan, identities, read)
	if err != nil {
		return nil, err
	}
	for _, r := range plan.Rekey {
		if released[r.Path], err = s.Repo.WriteBlob(ctx, results[r.Path]); err != nil {
			return nil, err
		}
		s.outcome.Rekeyed = append(s.outcome.Rekeyed, r.Path)
		s.Log.Info("re-keyed", "secret", r.Path, "hosts", strings.Join(r.Hosts, ","), "why", r.Why)
	}
	return released, nil
}

// wanted gathers, from the evaluation, which files which hosts want, and the hosts' keys.
// Manual hosts count: whoever deploys them by hand takes the same release.
func (s *state) wanted(contents nix.Contents) (secret.Input, error) {
	in := secret.Input{Blobs: s.blobs, HostKeys: map[string][]string{}, Previous: &s.secrets}
	byPath := map[string][]string{}
	for _, h := range slices.Concat(s.hosts, s.manual) {
		for name, file := range h.Secrets {
			path, ok := contents.SecretPath(file)
			if !ok {
				return in, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "host %s: age.secrets.%s.file is %s, which is not in the repository", h.Name, name, file).
					WithHint("put the file into the repository and refer to it by a relative path")
			}
			byPath[path] = append(byPath[path], h.Name)
		}
		key := h.PublicKey
		if k := s.config.Secrets.HostKeys[h.Name]; k != "" {
			key = k
		}
		if key != "" {
			in.HostKeys[h.Name] = []string{key}
		}
	}
	for _, path := range slices.Sorted(maps.Keys(byPath)) {
		hosts := byPath[path]
		slices.Sort(hosts)
		in.Files = append(in.Files, secret.Want{Path: path, Hosts: slices.Compact(hosts)})
	}
	return in, nil
}
