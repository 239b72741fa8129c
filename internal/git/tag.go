package git

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// Tag is an annotated tag as it stands in the object database, its signature taken off.
type Tag struct {
	ID      string // object name of the tag
	Name    string // as the signed object says, not as the ref is called
	Commit  string
	Message []byte
}

const sshSignature = "-----BEGIN SSH SIGNATURE-----\n"

// onlySSH makes git verify by ssh-keygen alone: a keyring of gpg that happens to be
// there must not vouch for a release.
var onlySSH = []string{"-c", "gpg.format=ssh", "-c", "gpg.ssh.program=ssh-keygen",
	"-c", "gpg.openpgp.program=false", "-c", "gpg.program=false", "-c", "gpg.x509.program=false", "-c", "gpg.minTrustLevel=fully"}

// SignTag writes an annotated tag of commit, signed with the SSH private key in keyFile, and points
// ref at it. It replaces what ref was. Errors: CodeKey when the key cannot be used.
func (r *Repo) SignTag(ctx context.Context, ref, name, commit string, message []byte, keyFile string, when time.Time) (string, error) {
	keyFile, err := filepath.Abs(keyFile)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(r.Dir, tempTag)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	body := fmt.Sprintf("object %s\ntype commit\ntag %s\ntagger Garrison <garrison@localhost> %d +0000\n\n%s", commit, name, when.Unix(), message)
	file := filepath.Join(dir, "tag")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		return "", err
	}
	if _, err := proc.Run(ctx, proc.Cmd{Program: "ssh-keygen", Args: []string{"-Y", "sign", "-q", "-n", "git", "-f", keyFile, file}, Env: []string{"SSH_ASKPASS_REQUIRE=never"}}); err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot sign with the release key %s", keyFile).
			WithHint("it must be an OpenSSH private key without a passphrase: ssh-keygen -t ed25519 -N '' -f %s", keyFile).WithCause(err)
	}
	sig, err := os.ReadFile(file + ".sig")
	if err != nil {
		return "", err
	}
	id, err := r.run(ctx, call{args: []string{"hash-object", "-t", "tag", "-w", "--stdin"}, stdin: strings.NewReader(body + string(sig))})
	if err != nil {
		return "", err
	}
	id = strings.TrimSpace(id)
	return id, r.UpdateRef(ctx, ref, id)
}

// tagHead is what every tag object begins with; anything else, a signed commit that was dressed up as a tag, say, is none.
var tagHead = regexp.MustCompile(`^object ([0-9a-f]+)\ntype ([a-z]+)\ntag ([^\n]+)\ntagger [^\n]+\n\n`)

// ReadTag reads the annotated tag with the object name id; it says nothing of who signed it.
func (r *Repo) ReadTag(ctx context.Context, id string) (Tag, error) {
	out, err := r.readTag(ctx, id)
	if err != nil {
		return Tag{}, err
	}
	return parseTag(id, out)
}

func parseTag(id, out string) (Tag, error) {
	signed, _ := splitSignature(out)
	head := tagHead.FindStringSubmatch(signed)
	switch {
	case head == nil:
		return Tag{}, errors.New("it is not a tag object as git writes them")
	case head[2] != "commit":
		return Tag{}, fmt.Errorf("the tag is of a %s, not of a commit", head[2])
	}
	return Tag{ID: id, Name: head[3], Commit: head[1], Message: []byte(signed[len(head[0]):])}, nil
}

func (r *Repo) readTag(ctx context.Context, id string) (string, error) {
	return r.run(ctx, call{args: []string{"cat-file", "tag", id}, most: fleet.MaxManifestBytes + 1<<16})
}

// signatures are the lines that git takes for the begin of one.
var signatures = regexp.MustCompile(`(?m)^-----BEGIN (PGP SIGNATURE|PGP MESSAGE|SIGNED MESSAGE|SSH SIGNATURE)-----`)

// splitSignature cuts a tag object where git does, so that what we read is what git verifies: at the last line
// that begins any kind of signature. ssh says whether it is one of ssh's.
func splitSignature(tag string) (signed string, ssh bool) {
	all := signatures.FindAllStringIndex(tag, -1)
	if len(all) == 0 {
		return tag, false
	}
	at := all[len(all)-1][0]
	return tag[:at], strings.HasPrefix(tag[at:], sshSignature)
}

// VerifyTag checks the SSH signature of the tag with the object name id against an allowed-signers file
// (ssh-keygen(1), ALLOWED SIGNERS), as of the tag's own date. Errors: CodeUnsigned, CodeUnknownKey, CodeKeyExpired (also: not valid yet),
// CodeSignature when it does not fit, CodeKey when the file cannot be read.
func (r *Repo) VerifyTag(ctx context.Context, id, allowedSigners string) error {
	f, err := os.Open(allowedSigners)
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot read the allowed signers").
			WithHint("%s must hold the public keys that may sign releases", allowedSigners).WithCause(err)
	}
	f.Close()
	out, err := r.readTag(ctx, id)
	if _, ran := proc.ExitCode(err); ran {
		if kind, typeErr := r.line(ctx, "cat-file", "-t", id); typeErr != nil || kind == "tag" {
			return err // it is not there, or not whole: which says nothing of whoever made it
		}
		return fleet.Errorf(fleet.Bad, fleet.CodeUnsigned, "the release tag %.12s is not an annotated tag", id).WithCause(err)
	}
	if err != nil {
		return err
	}
	if _, ssh := splitSignature(out); !ssh {
		return fleet.Errorf(fleet.Bad, fleet.CodeUnsigned, "the release tag is not signed with an SSH key")
	}
	args := append(append([]string{}, onlySSH...), "-c", "gpg.ssh.allowedSignersFile="+allowedSigners, "verify-tag", id)
	if _, err := r.run(ctx, call{args: args}); err != nil {
		if _, ran := proc.ExitCode(err); !ran {
			return err
		}
		return untrusted(allowedSigners, err)
	}
	return nil
}

// untrusted tells apart what ssh-keygen says in words alone. Whatever it says, the tag is not trusted.
func untrusted(allowedSigners string, err error) error {
	switch said := proc.Said(err); {
	case strings.Contains(said, "key has expired"):
		return fleet.Errorf(fleet.Bad, fleet.CodeKeyExpired, "the release tag is signed by a key that had expired, says %s", allowedSigners).WithCause(err)
	case strings.Contains(said, "key is not yet valid"):
		return fleet.Errorf(fleet.Bad, fleet.CodeKeyExpired, "the release tag is signed by a key that was not valid yet, says %s", allowedSigners).WithCause(err)
	case strings.Contains(said, `Good "git" signature`), strings.Contains(said, "is not permitted for use"):
		return fleet.Errorf(fleet.Bad, fleet.CodeUnknownKey, "the release tag is not signed by a key in %s", allowedSigners).WithCause(err)
	}
	return fleet.Errorf(fleet.Bad, fleet.CodeSignature, "the release tag is not signed by a key in %s", allowedSigners).WithCause(err)
}
