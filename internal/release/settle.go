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
	if err := s.keepSecrets(ctx); err != nil {
		return err
	}
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

// keepSecrets starts from the previous release's secrets, as far as their sources are still the same. What was
// released is looked at and not only its record: bytes that are lost, or that others than recorded can read, are
// put aside as damaged, because a host drops a working secret for one that it cannot decrypt.
func (s *state) keepSecrets(ctx context.Context) error {
	s.secrets = fleet.Secrets{Schema: fleet.SecretsSchema, Files: map[string]fleet.SecretRecord{}}
	s.damaged = map[string]fleet.SecretRecord{}
	if s.prev == nil {
		return nil
	}
	var ids []string
	for path, r := range s.prev.secrets.Files {
		if s.blobs[path] == r.Source && fleet.ValidCommit(r.Released) {
			ids = append(ids, r.Released)
		}
	}
	released, err := s.Repo.ReadBlobs(ctx, ids)
	if err != nil {
		return err
	}
	for path, r := range s.prev.secrets.Files {
		if s.blobs[path] != r.Source {
			continue
		}
		if data, ok := released[r.Released]; ok && secret.CheckStanzas(data, r.Recipients) == nil {
			s.secrets.Files[path] = r
		} else {
			s.damaged[path] = r
		}
	}
	return nil
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
	contents, err := s.Nix.Contents(ctx, flake)
	if err != nil {
		return contents, err
	}
	if err := s.config.check(contents.Hosts); err != nil {
		return contents, err
	}
	hosts := make([]nix.Host, len(contents.Hosts))
	errs := make([]error, len(contents.Hosts))
	jobs := s.Jobs
	if jobs <= 0 {
		jobs = runtime.NumCPU()
	}
	slots := make(chan struct{}, jobs)
	var wg sync.WaitGroup
	for i, name := range contents.Hosts {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			hosts[i], errs[i] = s.Nix.Host(ctx, flake, name)
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return contents, fmt.Errorf("evaluate: %w", context.Cause(ctx))
	}
	if err := joinHosts(contents.Hosts, errs); err != nil {
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

// maxFailures bounds how many hosts' failures are told in full; all are named.
const maxFailures = 8

// joinHosts makes one error of those of several hosts. It blames the fleet only when all of them do.
func joinHosts(hosts []string, errs []error) error {
	var names, texts []string
	var first, worst error
	for i, err := range errs {
		if err == nil {
			continue
		}
		if first == nil {
			first = err
		}
		if worst == nil || fleet.ClassOf(worst) == fleet.Bad {
			worst = err
		}
		names = append(names, hosts[i])
		if len(texts) < maxFailures {
			texts = append(texts, err.Error())
		}
	}
	if len(names) <= 1 {
		return first
	}
	return fleet.Errorf(fleet.ClassOf(worst), fleet.CodeOf(worst), "%d hosts do not evaluate: %s\n%s", len(names), strings.Join(names, ", "), strings.Join(texts, "\n"))
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
	for path := range s.damaged {
		plan.Distrust(path)
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
	s.secrets, s.damaged = *next, nil
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
	sources := make([]string, len(plan.Rekey))
	for i, r := range plan.Rekey {
		sources[i] = r.Source
	}
	blobs, err := s.Repo.ReadBlobs(ctx, sources)
	if err != nil {
		return nil, err
	}
	read := func(blob string) ([]byte, error) {
		if data, ok := blobs[blob]; ok {
			return data, nil
		}
		return nil, fleet.Errorf(fleet.Local, fleet.CodeGit, "the blob %s is missing in %s", blob, s.Repo.Dir)
	}
	results, err := secret.Execute(ctx, plan, identities, read)
	if err != nil {
		return nil, err
	}
	for _, r := range plan.Rekey {
		if released[r.Path], err = s.Repo.WriteBlob(ctx, results[r.Path]); err != nil {
			return nil, err
		}
		if !slices.Contains(s.outcome.Rekeyed, r.Path) {
			s.outcome.Rekeyed = append(s.outcome.Rekeyed, r.Path)
		}
		s.Log.Info("re-keyed", "secret", r.Path, "hosts", strings.Join(r.Hosts, ","), "why", r.Why)
	}
	return released, nil
}

// wanted gathers, from the evaluation, which files which hosts want, and the hosts' keys.
// Manual hosts count: whoever deploys them by hand takes the same release.
func (s *state) wanted(contents nix.Contents) (secret.Input, error) {
	before := fleet.Secrets{Schema: fleet.SecretsSchema, Files: maps.Clone(s.secrets.Files)}
	maps.Copy(before.Files, s.damaged)
	in := secret.Input{Blobs: s.blobs, HostKeys: map[string][]string{}, Previous: &before}
	var outside []string
	for _, h := range slices.Concat(s.hosts, s.manual) {
		for _, name := range slices.Sorted(maps.Keys(h.Secrets)) {
			path, ok := contents.SecretPath(h.Secrets[name])
			if !ok {
				outside = append(outside, fmt.Sprintf("host %s: age.secrets.%s.file is %s", h.Name, name, h.Secrets[name]))
				continue
			}
			in.Files = append(in.Files, secret.Want{Path: path, Hosts: []string{h.Name}})
		}
		key := h.PublicKey
		if k := s.config.Secrets.HostKeys[h.Name]; k != "" {
			key = k
		}
		if key != "" {
			in.HostKeys[h.Name] = []string{key}
		}
	}
	if outside != nil {
		return in, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s, which is not in the repository", strings.Join(outside, "; ")).
			WithHint("put the file into the repository and refer to it by a relative path")
	}
	return in, nil
}
