package git

import (
	"context"
	"errors"
	"fmt"
	"net/url"
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
	dir, err := os.MkdirTemp(r.Dir, "garrison-tag-")
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
		return "", fleet.Errorf(fleet.Bad, fleet.CodeKey, "cannot sign with the release key %s", keyFile).
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

// ReadTag reads the annotated tag with the object name id; it says nothing of who signed it.
func (r *Repo) ReadTag(ctx context.Context, id string) (Tag, error) {
	out, err := r.run(ctx, call{args: []string{"cat-file", "tag", id}, most: fleet.MaxManifestBytes + 1<<16})
	if err != nil {
		return Tag{}, err
	}
	head, body, ok := strings.Cut(out, "\n\n")
	if !ok {
		return Tag{}, errors.New("the tag has no message")
	}
	if i := strings.LastIndex(body, sshSignature); i >= 0 {
		body = body[:i]
	}
	t := Tag{ID: id, Message: []byte(body)}
	for line := range strings.Lines(head) {
		switch key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " "); key {
		case "object":
			t.Commit = value
		case "tag":
			t.Name = value
		case "type":
			if value != "commit" {
				return Tag{}, fmt.Errorf("the tag is of a %s, not of a commit", value)
			}
		}
	}
	return t, nil
}

// VerifyTag checks the SSH signature of the tag with the object name id against an allowed-signers file
// (ssh-keygen(1), ALLOWED SIGNERS). Errors: CodeSignature when it is unsigned or not signed
// by one of them, CodeKey when the file cannot be read.
func (r *Repo) VerifyTag(ctx context.Context, id, allowedSigners string) error {
	f, err := os.Open(allowedSigners)
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot read the allowed signers").
			WithHint("%s must hold the public keys that may sign releases", allowedSigners).WithCause(err)
	}
	f.Close()
	out, err := r.run(ctx, call{args: []string{"cat-file", "tag", id}, most: fleet.MaxManifestBytes + 1<<16})
	if err != nil {
		return err
	}
	if !strings.Contains(out, "\n"+sshSignature) {
		return fleet.Errorf(fleet.Bad, fleet.CodeSignature, "the release tag is not signed with an SSH key")
	}
	args := append(append([]string{}, onlySSH...), "-c", "gpg.ssh.allowedSignersFile="+allowedSigners, "verify-tag", id)
	if _, err := r.run(ctx, call{args: args}); err != nil {
		if _, ran := proc.ExitCode(err); !ran {
			return err
		}
		return fleet.Errorf(fleet.Bad, fleet.CodeSignature, "the release tag is not signed by a key in %s", allowedSigners).WithCause(err)
	}
	return nil
}

// Move is a ref to push: from what it must be on the remote now ("" = not there) to an object.
type Move struct{ Ref, From, To string }

// Push moves all refs or none. It fails with CodeRace when a ref on the remote is
// not what Move.From says, with CodeRemote or CodeUnauthorized otherwise.
func (r *Repo) Push(ctx context.Context, remote string, moves ...Move) error {
	args := append(append([]string{}, networkConfig...), "push", "--porcelain", "--atomic", "--no-verify")
	var specs []string
	for _, m := range moves {
		args = append(args, fmt.Sprintf("--force-with-lease=%s:%s", m.Ref, m.From))
		specs = append(specs, m.To+":"+m.Ref)
	}
	args = append(append(args, "--end-of-options", remote), specs...)
	_, err := proc.Run(ctx, proc.Cmd{Program: "git", Args: append([]string{"--git-dir", r.Dir}, args...), Env: env()})
	if err == nil || ctx.Err() != nil {
		return err
	}
	there, seenErr := r.remoteRefs(ctx, remote, moves)
	if seenErr != nil {
		return remoteError("push to", remote, err)
	}
	arrived := true
	for _, m := range moves {
		if there[m.Ref] != m.From && there[m.Ref] != m.To {
			return fleet.Errorf(fleet.Transient, fleet.CodeRace, "%s was moved by somebody else while this ran", m.Ref).
				WithHint("run it again: it starts from what is there now").WithCause(errors.New(Redact(err.Error())))
		}
		arrived = arrived && there[m.Ref] == m.To
	}
	if arrived { // only the remote's answer was lost
		return nil
	}
	return remoteError("push to", remote, err)
}

// remoteRefs asks what the refs of moves are on the remote now.
func (r *Repo) remoteRefs(ctx context.Context, remote string, moves []Move) (map[string]string, error) {
	args := append(append([]string{}, networkConfig...), "ls-remote", "--end-of-options", remote)
	for _, m := range moves {
		args = append(args, m.Ref)
	}
	out, err := r.run(ctx, call{args: args})
	if err != nil {
		return nil, err
	}
	refs := map[string]string{}
	for line := range strings.Lines(out) {
		if id, ref, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			refs[ref] = id
		}
	}
	return refs, nil
}

var userinfo = regexp.MustCompile(`([a-z+]+://)[^/@\s'"]+@`)

// Redact takes passwords out of URLs in s.
func Redact(s string) string {
	if u, err := url.Parse(s); err == nil && u.User != nil {
		return u.Redacted()
	}
	return userinfo.ReplaceAllString(s, "${1}…@")
}
