package release

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/secret"
)

// Inspected is what a release says of secrets, and whose keys are whose.
type Inspected struct {
	Schema  int              `json:"schema"`
	Release fleet.ReleaseRef `json:"release"`
	Access  []secret.Access  `json:"secrets"`
}

// InspectSchema is the schema of Inspected and Verified.
const InspectSchema = 1

// inspected is a release with all that is needed to look at its secrets.
type inspected struct {
	*state
	found *evaluation
	in    secret.Input
}

// inspect evaluates a release: the newest, or the one that tag names. Of o it needs Repo, Remote, Nix, Log, Jobs and, to trust what it sees, AllowedSigners.
func inspect(ctx context.Context, o Options, tag string) (*inspected, error) {
	s := &state{Options: o.withLog()}
	if err := fetch(ctx, s.Repo, s.Remote); err != nil {
		return nil, err
	}
	if err := s.findSource(ctx); err != nil {
		return nil, err
	}
	if err := s.findPrevious(ctx); err != nil {
		return nil, err
	}
	if _, isTag := fleet.TagNumber(tag); isTag {
		tags, err := s.Repo.Refs(ctx, tagsRef)
		if err != nil {
			return nil, err
		}
		ref, there := tags[tag]
		if !there {
			return nil, fleet.Errorf("", fleet.CodeNotFound, "there is no %s", tag)
		}
		if s.prev, err = s.readRelease(ctx, tag, ref); err != nil {
			return nil, err
		}
	} else if tag != "" {
		return nil, fleet.Errorf("", fleet.CodeUsage, "%q is not the name of a release, like release-12", tag)
	}
	if s.prev == nil {
		return nil, fleet.Errorf("", fleet.CodeNotFound, "nothing was released yet")
	}
	s.source, s.commit = s.prev.manifest.Source.Commit, s.prev.tag.Commit
	found, err := s.look(ctx, "")
	if err != nil {
		return nil, err
	}
	in, err := wanted(found, s.config, s.rules)
	return &inspected{s, found, in}, err
}

// openCommit reads what s.commit says of itself, and has inspectRef lead to it.
func (s *state) openCommit(ctx context.Context) (err error) {
	if s.config, err = s.readConfig(ctx, s.commit); err != nil {
		return err
	}
	if s.blobs, err = s.Repo.Blobs(ctx, s.commit); err != nil {
		return err
	}
	return s.Repo.UpdateRef(ctx, inspectRef, s.commit)
}

// look evaluates s.commit as it stands: one host, or with "" all of them.
func (s *state) look(ctx context.Context, only string) (*evaluation, error) {
	if err := s.openCommit(ctx); err != nil {
		return nil, err
	}
	return s.evaluateAt(ctx, inspectRef, only, nil)
}

// look evaluates o.Source as it stands.
func look(ctx context.Context, o Options, only string) (*state, *evaluation, error) {
	unlock, err := lockRepo(o.Repo)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	s := &state{Options: o.withLog(), commit: o.Source}
	found, err := s.look(ctx, only)
	return s, found, err
}

// Declared is which secret files the hosts of a commit declare, and all files of it.
type Declared struct {
	Config   Config
	Names    []string            // of all hosts, sorted
	Hosts    map[string][]string // secret file → the hosts that declare it
	HostKeys map[string][]string
	Agents   map[string]nix.Agent // by host
	Files    []string             // sorted
	Rules    *secret.Rules
}

// Editors are the public keys of those who may read secrets on the source branch, as garrison.toml or agenix's rules say.
func (d *Declared) Editors() []string {
	return slices.Concat(d.Config.Secrets.Editors, d.Rules.Editors(d.HostKeys))
}

// DeclaredSecrets evaluates every host of a commit for the secrets that it declares. Of o it needs Repo, Source (the commit) and Nix.
func DeclaredSecrets(ctx context.Context, o Options) (*Declared, error) {
	s, found, err := look(ctx, o, "")
	if err != nil {
		return nil, err
	}
	in, err := wanted(found, s.config, s.rules)
	if err != nil {
		return nil, err
	}
	d := &Declared{Config: s.config, Names: found.names(), Agents: map[string]nix.Agent{}, Hosts: map[string][]string{}, Rules: s.rules, HostKeys: in.HostKeys, Files: slices.Sorted(maps.Keys(s.blobs))}
	for _, w := range in.Files {
		d.Hosts[w.Path] = append(d.Hosts[w.Path], w.Hosts...)
	}
	for _, h := range found.hosts {
		d.Agents[h.Name] = h.Agent
	}
	return d, nil
}

// inspectRef keeps the commit that is looked at.
const inspectRef = "refs/garrison/inspect"

// Secrets says who can read what in a release: the newest, or the one that tag names.
func Secrets(ctx context.Context, o Options, tag string) (*Inspected, error) {
	unlock, err := lockRepo(o.Repo)
	if err != nil {
		return nil, err
	}
	defer unlock()
	i, err := inspect(ctx, o, tag)
	if err != nil {
		return nil, err
	}
	keys := secret.NewKeyring(i.in.HostKeys, slices.Concat(i.config.Secrets.Editors, i.rules.Editors(i.in.HostKeys)))
	return &Inspected{Schema: InspectSchema, Release: *i.prev.ref(), Access: secret.Status(&i.prev.secrets, keys)}, nil
}

// Verified are the answers to what an operator asks of a release's secrets.
type Verified struct {
	Schema  int              `json:"schema"`
	Release fleet.ReleaseRef `json:"release"`
	Answers []secret.Answer  `json:"answers"`
}

// Keys are private keys to decrypt with in truth, where there are any.
type Keys struct {
	Hosts   []HostKey
	Editors []age.Identity
}

// VerifySecrets answers the five questions about a release: the newest, or the one that tag names.
func VerifySecrets(ctx context.Context, o Options, tag string, keys Keys) (*Verified, error) {
	unlock, err := lockRepo(o.Repo)
	if err != nil {
		return nil, err
	}
	defer unlock()
	i, err := inspect(ctx, o, tag)
	if err != nil {
		return nil, err
	}
	source, err := i.Repo.Blobs(ctx, i.source)
	if err != nil {
		return nil, err
	}
	paths := map[string]bool{}
	for _, w := range i.in.Files {
		paths[w.Path] = true
	}
	for p := range i.prev.secrets.Files {
		paths[p] = true
	}
	if i.rules != nil {
		for p := range i.rules.Of {
			paths[p] = true
		}
	}
	isSecret := func(p string) bool { return paths[p] }
	history := func(yield func(secret.Revision, error) bool) {
		for r, err := range i.Repo.History(ctx, []string{headsRef + i.config.Branches.Source, i.commit}, isSecret) {
			if !yield(secret.Revision(r), err) {
				return
			}
		}
	}
	identities, err := keysOfHosts(keys.Hosts, i.in.HostKeys, i.found.names())
	if err != nil {
		return nil, err
	}
	answers, err := secret.Verify(ctx, secret.VerifyInput{
		Files: i.in.Files, Source: source, Released: i.blobs, Records: &i.prev.secrets,
		HostKeys: i.in.HostKeys, Editors: i.config.Secrets.Editors, Rules: i.rules,
		Read:           func(blob string) ([]byte, error) { return i.Repo.ReadBlob(ctx, blob) },
		HostIdentities: identities, EditorIdentities: keys.Editors, History: history,
	})
	if err != nil {
		return nil, err
	}
	return &Verified{Schema: InspectSchema, Release: *i.prev.ref(), Answers: answers}, nil
}

// SecretFile says whether a path looks like one of a secret, to guard against editing something else.
func SecretFile(p string) bool {
	return slices.Contains([]string{".age", ".yaml", ".yml", ".json", ".env", ".ini", ".sops"}, strings.ToLower(path.Ext(p)))
}
