package release

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/proc"
)

// previous is the release that a new one is built on; its tag was verified.
type previous struct {
	tag      git.Tag
	manifest *fleet.Manifest
	secrets  fleet.Secrets
}

func (p *previous) ref() *fleet.ReleaseRef {
	return &fleet.ReleaseRef{Number: p.manifest.Number, Commit: p.tag.Commit, Tag: p.tag.ID, Source: p.manifest.Source}
}

// findPrevious reads the release that the release branch points at, nil when there is no such branch,
// and the number of the next one.
func (s *state) findPrevious(ctx context.Context) (*previous, int, error) {
	tags, err := s.Repo.Refs(ctx, tagsRef)
	if err != nil {
		return nil, 0, err
	}
	next := 1
	for name := range tags {
		if n, ok := fleet.TagNumber(name); ok {
			next = max(next, n+1)
		}
	}
	branch := s.config.Branches.Release
	tip, ok, err := s.Repo.Resolve(ctx, headsRef+branch)
	if err != nil || !ok {
		return nil, next, err
	}
	p, err := s.readPrevious(ctx, tip, tags)
	if err != nil {
		return nil, 0, fleet.Errorf(fleet.ClassOf(err), fleet.CodeOf(err), "the branch %s points at %.12s, which cannot be built on", branch, tip).
			WithHint("somebody else wrote to it: find out who, then put it back with git push --force-with-lease origin <last release>:%s", branch).WithCause(err)
	}
	return p, next, nil
}

func (s *state) readPrevious(ctx context.Context, tip string, tags map[string]git.Ref) (*previous, error) {
	newest := 0
	for name, ref := range tags {
		if n, ok := fleet.TagNumber(name); ok && ref.Commit == tip {
			newest = max(newest, n)
		}
	}
	if newest == 0 {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeSignature, "no release tag points at it")
	}
	return s.readRelease(ctx, tags[fleet.TagName(newest)])
}

// readRelease reads a release, after its tag's signature was checked.
func (s *state) readRelease(ctx context.Context, ref git.Ref) (*previous, error) {
	if err := s.verifyPrevious(ctx, ref.ID); err != nil {
		return nil, err
	}
	tag, err := s.Repo.ReadTag(ctx, ref.ID)
	if err != nil {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeSignature, "its tag cannot be read").WithCause(err)
	}
	found := &previous{tag: tag}
	m, err := fleet.ParseTagMessage(found.tag.Message)
	if err != nil {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeManifest, "%s", err)
	}
	found.manifest = m
	data, there, err := s.Repo.ReadFile(ctx, ref.Commit, fleet.SecretsPath)
	if err != nil || !there {
		return found, err
	}
	secrets, err := fleet.ParseSecrets(data)
	if err != nil {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeManifest, "%s", err)
	}
	found.secrets = *secrets
	return found, nil
}

// verifyPrevious makes sure that one of ours signed what we are about to reuse secrets of.
func (s *state) verifyPrevious(ctx context.Context, tag string) error {
	if s.AllowedSigners != "" {
		return s.Repo.VerifyTag(ctx, tag, s.AllowedSigners)
	}
	if s.SigningKey == "" { // only a plan or a dry run goes without
		s.Log.Warn("the signature of the previous release is not checked: no key was given")
		return nil
	}
	pub, err := proc.Run(ctx, proc.Cmd{Program: "ssh-keygen", Args: []string{"-y", "-P", "", "-f", s.SigningKey}})
	if err != nil {
		return keyError(s.SigningKey, err)
	}
	file := filepath.Join(s.Repo.Dir, "garrison-signers")
	if err := os.WriteFile(file, []byte("garrison "+strings.TrimSpace(string(pub))+"\n"), 0o600); err != nil {
		return err
	}
	return s.Repo.VerifyTag(ctx, tag, file)
}

func keyError(file string, err error) error {
	return fleet.Errorf(fleet.Bad, fleet.CodeKey, "cannot use the release key %s", file).
		WithHint("it must be an OpenSSH private key without a passphrase, mode 0600: ssh-keygen -t ed25519 -N '' -f %s", file).WithCause(err)
}
