package release

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
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
		var found *evaluation
		err := proc.Stage(ctx, fleet.Evaluate, func() (err error) {
			if err := s.compose(ctx); err != nil {
				return err
			}
			found, err = s.evaluate(ctx)
			return err
		})
		if err != nil {
			return err
		}
		settled := false
		err = proc.Stage(ctx, fleet.Rekey, func() (err error) {
			settled, err = s.rekey(ctx, found)
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
	before := maps.Clone(s.prev.secrets.Files)
	if s.back != nil {
		maps.Copy(before, s.back.secrets.Files)
	}
	if s.last != nil { // shared secrets were re-keyed for this host alone then
		maps.Copy(before, s.last.secrets.Files)
	}
	maps.DeleteFunc(before, func(path string, r fleet.SecretRecord) bool { return s.blobs[path] != r.Source })
	var ids []string
	for _, r := range before {
		if fleet.ValidCommit(r.Released) {
			ids = append(ids, r.Released)
		}
	}
	released, err := s.Repo.ReadBlobs(ctx, ids)
	if err != nil {
		return err
	}
	damaged := secret.Damaged(before, released)
	for path, r := range before {
		if damaged[path] == nil {
			s.secrets.Files[path] = r
			continue
		}
		s.Log.Warn("a released secret is damaged, and is re-keyed", "secret", path, "err", damaged[path])
		s.damaged[path] = r
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
		Message: fmt.Sprintf("%s: %s\n\nReleased from %s.\n", s.name(), s.subject(), s.source),
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

// subject is the source's, and that it is gone back to.
func (s *state) subject() string {
	if s.back != nil {
		return fmt.Sprintf("back to %s: %s", fleet.TagName(s.RollbackTo), s.info.Subject)
	}
	return s.info.Subject
}

// evaluate evaluates every host of the candidate.
func (s *state) evaluate(ctx context.Context) (*evaluation, error) {
	accept := s.config.check
	if s.Test != "" {
		accept = nil // the other hosts are not looked at
	}
	e, err := s.evaluateAt(ctx, candidateRef, s.Test, accept)
	if err != nil {
		return nil, err
	}
	s.hosts, s.manual = e.split(s.config.Hosts.Manual)
	return e, nil
}

// evaluateAt evaluates every host of s.commit, to which ref leads; if only is not "", that one.
func (s *state) evaluateAt(ctx context.Context, ref, only string, accept func([]string) error) (*evaluation, error) {
	src, err := openSource(ctx, s.Repo, s.Remote, ref, s.commit, s.blobs, s.config)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	flakes, err := flakesIn(s.blobs, s.config.Flakes, src.at)
	if err != nil {
		return nil, err
	}
	if err := s.readRules(ctx, src, flakes); err != nil {
		return nil, err
	}
	v := newEvaluator(s.Nix, src, s.Jobs, s.EvalMemory)
	v.only, v.accept, v.told = only, accept, s.Evaluated
	return v.all(ctx, flakes)
}

// rekey brings the secrets in line with what the evaluation asks for. It is true when they were.
func (s *state) rekey(ctx context.Context, found *evaluation) (settled bool, err error) {
	in, err := wanted(found, s.config, s.rules)
	if err != nil {
		return false, err
	}
	before := fleet.Secrets{Schema: fleet.SecretsSchema, Files: maps.Clone(s.secrets.Files)}
	maps.Copy(before.Files, s.damaged)
	in.Blobs, in.Previous = s.blobs, &before
	plan, err := secret.MakePlan(in)
	if err != nil {
		return false, err
	}
	for path := range s.damaged {
		plan.Distrust(path)
	}
	if plan.Unchanged() {
		if err := s.noteDropped(in); err != nil {
			return false, err
		}
		return true, s.verify(ctx, in, found.names())
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
// Nobody loses a secret unless garrison.toml says so.
func (s *state) noteDropped(in secret.Input) error {
	if s.prev == nil || s.Test != "" { // nobody loses what the release gave them
		return nil
	}
	in.Previous = &s.prev.secrets
	in.AllowRemoval = secret.AllowList(s.config.Secrets.AllowRemoval)
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
	results, err := secret.Execute(ctx, plan, identities, s.readFrom(blobs))
	if err != nil {
		return nil, err
	}
	files := make([][]byte, len(plan.Rekey))
	for i, r := range plan.Rekey {
		files[i] = results[r.Path]
	}
	ids, err := s.Repo.WriteBlobs(ctx, files)
	if err != nil {
		return nil, err
	}
	for i, r := range plan.Rekey {
		released[r.Path] = ids[i]
		if !slices.Contains(s.outcome.Rekeyed, r.Path) {
			s.outcome.Rekeyed = append(s.outcome.Rekeyed, r.Path)
		}
		s.Log.Info("re-keyed", "secret", r.Path, "hosts", strings.Join(r.Hosts, ","), "why", r.Why)
	}
	return released, nil
}

// wanted gathers, from an evaluation, which files which hosts want, and the hosts' keys.
// Manual hosts count: whoever deploys them by hand takes the same release.
func wanted(found *evaluation, config Config, rules *secret.Rules) (secret.Input, error) {
	in := secret.Input{HostKeys: map[string][]string{}, Rules: rules}
	var outside []string
	for _, h := range found.hosts {
		for _, declared := range h.Secrets {
			path, ok := found.secretPath(declared.File)
			if !ok {
				outside = append(outside, fmt.Sprintf("host %s: the file of %s is %s", h.Name, declared.Name, declared.File))
				continue
			}
			w := secret.Want{Path: path, Hosts: []string{h.Name}, Kind: secret.Kind(declared.Kind)}
			if declared.Key != "" {
				w.Keys = []string{declared.Key}
			}
			in.Files = append(in.Files, w)
		}
		if keys := config.HostKeys(h.Name); keys != nil {
			in.HostKeys[h.Name] = keys
		} else if len(h.HostKeys) > 0 {
			in.HostKeys[h.Name] = h.HostKeys
		}
	}
	if outside != nil {
		return in, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s, which is not in the repository", strings.Join(outside, "; ")).
			WithHint("put the file into the repository and refer to it by a relative path")
	}
	return in, nil
}
