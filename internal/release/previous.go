package release

import (
	"context"
	"os"
	"path/filepath"
	"slices"
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
	r := p.manifest.Ref(p.tag.Commit, p.tag.ID)
	return &r
}

// findPrevious finds the release that the release branch points at and notes where the branch is. When the branch is gone,
// the newest release stands in for it: hosts shall see it go on where it was. It leaves s.prev nil when there never was one.
func (s *state) findPrevious(ctx context.Context) error {
	tags, err := s.Repo.Refs(ctx, tagsRef)
	if err != nil {
		return err
	}
	branch := s.config.Branches.Release
	tip, there, err := s.Repo.Resolve(ctx, headsRef+branch)
	if err != nil {
		return err
	}
	s.branchTip = tip
	if err := s.newestRelease(ctx, tags); err != nil {
		if !there || fleet.ClassOf(err) != fleet.Bad {
			return err
		}
		return s.cannotBuildOn(tip, err)
	}
	switch {
	case there && s.prev == nil:
		return s.cannotBuildOn(tip, fleet.Errorf(fleet.Bad, fleet.CodeSignature, "no release tag points at it"))
	case there && s.prev.tag.Commit != tip:
		return s.moved(ctx, tip)
	case !there && s.prev != nil:
		s.Log.Warn("the release branch is gone, it is made again", "branch", branch, "release", s.prev.manifest.Number)
	}
	s.number = 1
	if s.prev != nil {
		s.number = s.prev.manifest.Number + 1
	}
	for tags[fleet.TagName(s.number)].ID != "" { // not one of ours, and in nobody's way
		s.number++
	}
	return nil
}

// moved says that somebody else moved the release branch: back to an older release, or to what none of ours signed.
func (s *state) moved(ctx context.Context, tip string) error {
	back, err := s.Repo.IsAncestor(ctx, tip, s.prev.tag.Commit)
	if err != nil {
		return err
	}
	code := fleet.CodeSignature
	if back {
		code = fleet.CodeForcePushed
	}
	branch := s.config.Branches.Release
	return fleet.Errorf(fleet.Bad, code, "the branch %s points at %.12s, which cannot be built on: the newest release that one of ours signed is %s", branch, tip, s.prev.tag.Name).
		WithHint("somebody else wrote to it: find out who, then put it back with git push --force-with-lease %s %s:refs/heads/%s", git.Redact(s.Remote), s.prev.tag.Commit, branch)
}

func (s *state) cannotBuildOn(tip string, err error) error {
	return fleet.Errorf(fleet.ClassOf(err), fleet.CodeOf(err), "the branch %s points at %.12s, which cannot be built on", s.config.Branches.Release, tip).
		WithHint("if the release key is a new one, name the old one too with --allowed-signers; else somebody else wrote to the branch: find out who").WithCause(err)
}

// newestRelease reads the newest of the release tags that one of ours signed. Others are passed over: whoever
// may push can make them, and they must not stop the fleet. If all are such, the error is that of the newest.
func (s *state) newestRelease(ctx context.Context, tags map[string]git.Ref) error {
	var numbers []int
	for name := range tags {
		if n, ok := fleet.TagNumber(name); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	var newest error
	var passed []string
	for _, n := range slices.Backward(numbers) {
		p, err := s.readRelease(ctx, fleet.TagName(n), tags[fleet.TagName(n)])
		switch {
		case err == nil:
			s.prev = p
			if passed != nil {
				s.Log.Warn("some release tags are not ours", "tags", strings.Join(passed, " "), "err", newest)
			}
			return nil
		case fleet.ClassOf(err) != fleet.Bad || ctx.Err() != nil:
			return err
		case newest == nil:
			newest = err
		}
		passed = append(passed, fleet.TagName(n))
	}
	return newest
}

// readRelease reads what the tag with that name says. Errors of class Bad say that it is not to be trusted or used.
func (s *state) readRelease(ctx context.Context, name string, ref git.Ref) (*previous, error) {
	if err := s.verifyTag(ctx, ref.ID); err != nil {
		return nil, err
	}
	tag, err := s.Repo.ReadTag(ctx, ref.ID)
	if err != nil {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeSignature, "the tag %s cannot be read", name).WithCause(err)
	}
	m, err := fleet.ParseTagMessage(tag.Message)
	if err != nil {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeManifest, "the tag %s says nothing that can be used", name).WithCause(err)
	}
	if tag.Name != name || m.Name() != name {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeReplayed, "the tag %s was signed as %s with the manifest of %s: somebody renamed it", name, tag.Name, m.Name())
	}
	p := &previous{tag: tag, manifest: m}
	data, there, err := s.Repo.ReadFile(ctx, tag.Commit, fleet.SecretsPath)
	if err != nil || !there {
		return p, err
	}
	secrets, err := fleet.ParseSecrets(data)
	if err != nil {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeManifest, "%s", err)
	}
	p.secrets = *secrets
	return p, nil
}

// verifyTag makes sure that one of ours signed what we are about to reuse secrets of.
func (s *state) verifyTag(ctx context.Context, tag string) error {
	switch {
	case s.AllowedSigners != "":
		return s.Repo.VerifyTag(ctx, tag, s.AllowedSigners)
	case s.SigningKey == "":
		return nil // a dry run without a key, which Run allows
	}
	if s.publicKey == "" {
		var err error
		if s.publicKey, err = PublicKey(ctx, s.SigningKey); err != nil {
			return err
		}
	}
	file := filepath.Join(s.Repo.Dir, "garrison-signers")
	if err := os.WriteFile(file, []byte("garrison "+s.publicKey+"\n"), 0o600); err != nil {
		return stateError(s.Repo, err)
	}
	return s.Repo.VerifyTag(ctx, tag, file)
}

// CheckKey makes sure that the signing key can be used, before any work is done.
func CheckKey(ctx context.Context, file string) error {
	_, err := PublicKey(ctx, file)
	return err
}

// PublicKey is the public half of a signing key, as OpenSSH writes it.
func PublicKey(ctx context.Context, file string) (string, error) {
	if _, err := os.Stat(file); err != nil {
		return "", keyError(file, err)
	}
	pub, err := proc.Run(ctx, proc.Cmd{Program: "ssh-keygen", Args: []string{"-y", "-P", "", "-f", file}})
	if _, ran := proc.ExitCode(err); ran {
		return "", keyError(file, err)
	}
	return strings.TrimSpace(string(pub)), err
}

func keyError(file string, err error) error {
	return fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot use the release key %s", file).
		WithHint("it must be an OpenSSH private key without a passphrase, mode 0600: ssh-keygen -t ed25519 -N '' -f %s", file).WithCause(err)
}

func stateError(repo *git.Repo, err error) error {
	return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot write to %s", repo.Dir).WithHint("check its owner, and the free space").WithCause(err)
}
