package release

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// signer is a key of source.signers as it is compared: without its comment. "" if it is none.
func signer(line string) string {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(options) > 0 || len(rest) > 0 || strings.ContainsAny(line, "\r\n") {
		return ""
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// vouched makes sure that people we know signed what is to be released, before any of it is evaluated. Whom we know, CI's own file
// says, else the last release: never only the commits that are looked at. See decisions/0019.
func (s *state) vouched(ctx context.Context) error {
	if s.back != nil { // it was, when it was released
		return nil
	}
	file, base, where := s.SourceSigners, "", s.SourceSigners
	if s.prev != nil {
		base = s.prev.manifest.NewestSource()
	}
	var released []string
	if file == "" {
		var err error
		if released, err = s.releasedSigners(ctx); err != nil || len(released) == 0 {
			return err
		}
		keys := released
		if now := s.config.signers(); len(now) > 0 { // who is not to be trusted any more is not
			keys = slices.DeleteFunc(slices.Clone(released), func(k string) bool { return !slices.Contains(now, k) })
		}
		where = fmt.Sprintf("source.signers, as %s has it", s.prev.tag.Name)
		file = filepath.Join(s.Repo.Dir, "garrison-source-signers")
		if err := os.WriteFile(file, []byte(allowedSigners(keys)), 0o600); err != nil {
			return stateError(s.Repo, err)
		}
	} else if _, err := os.ReadFile(file); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot read the keys of those who may sign commits").
			WithHint("%s must hold a line for each: a name, and a public key (ssh-keygen(1), ALLOWED SIGNERS)", file).WithCause(err)
	}
	all, err := s.Repo.Signatures(ctx, s.source, base, file)
	if err != nil {
		return err
	}
	for _, c := range slices.Backward(all) { // the oldest first: what comes after is built on it
		if !c.Trusted {
			return s.untrusted(c, where, released)
		}
	}
	return nil
}

// releasedSigners are those that the last release's garrison.toml names.
func (s *state) releasedSigners(ctx context.Context) ([]string, error) {
	now := s.config.signers()
	if s.prev == nil {
		if len(now) > 0 {
			return nil, fleet.Errorf(fleet.Local, fleet.CodeConfig, "source.signers in %s wants signed commits, and there is no release yet that says whom to trust", ConfigPath).
				WithHint("name them with --source-signers FILE (GARRISON_SOURCE_SIGNERS, ci.sourceSigners) for the first release: the commit that is looked at must not say it itself")
		}
		return nil, nil
	}
	config, err := s.readConfig(ctx, s.prev.tag.Commit)
	if err != nil {
		return nil, err
	}
	released := config.signers()
	if len(released) == 0 && len(now) > 0 {
		s.Log.Info("commits must be signed by source.signers from the next release on", "signers", len(now))
	}
	return released, nil
}

// signers are the keys of source.signers, without comments.
func (c Config) signers() []string {
	var keys []string
	for _, line := range c.Source.Signers {
		keys = append(keys, signer(line)) // ParseConfig has looked at them
	}
	return keys
}

func allowedSigners(keys []string) string {
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, "signer namespaces=\"git\" %s\n", k)
	}
	return b.String()
}

// untrusted says why a commit is not believed.
func (s *state) untrusted(c git.Signature, where string, released []string) error {
	commit := fmt.Sprintf("commit %.12s (%s)", c.Commit, c.Subject)
	switch {
	case c.Kind == "":
		return fleet.Errorf(fleet.Bad, fleet.CodeUnsigned, "%s is not signed, and commits must be", commit).
			WithHint("sign it by SSH with one of the keys in %s: git config gpg.format ssh; git rebase --exec 'git commit --amend --no-edit -S' %.12s^", where, c.Commit)
	case c.Kind != "SSH SIGNATURE":
		return fleet.Errorf(fleet.Bad, fleet.CodeUnknownKey, "%s has a signature of another kind than SSH's (%s), which is not looked at", commit, c.Kind).
			WithHint("sign it by SSH: git config gpg.format ssh; the key must be in %s", where)
	case c.Key == "":
		return fleet.Errorf(fleet.Bad, fleet.CodeSignature, "%s is not what was signed, or not signed at the time", commit).WithHint("find out who pushed it")
	}
	hint := fmt.Sprintf("it must be in %s; a commit that adds a key is released before one that the key signs", where)
	for _, k := range released {
		if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k)); err == nil && ssh.FingerprintSHA256(key) == c.Key {
			hint = "source.signers does not have that key any more: release what it signed before the commit that takes it away, or sign it anew by another"
		}
	}
	return fleet.Errorf(fleet.Bad, fleet.CodeUnknownKey, "%s is signed by a key that is not to be trusted, %s", commit, c.Key).WithHint("%s", hint)
}
