package git

import (
	"context"
	"regexp"
	"strings"
)

// Signature is what a commit's is worth.
type Signature struct {
	Commit, Subject string
	// Trusted says that the allowed signers have the key, for the time of the commit, and that it signed just this.
	Trusted bool
	Key     string // the key's fingerprint, SHA256:…; "" where there is none to name
	Kind    string // of one that is not trusted: "" for none, "SSH SIGNATURE", "PGP SIGNATURE", "SIGNED MESSAGE"
}

// Signatures looks at the SSH signatures of all commits that tip leads to and base does not, newest first; without a base at that of tip
// alone. allowedSigners is a file (ssh-keygen(1), ALLOWED SIGNERS). Signatures of other kinds are not looked at: they are not trusted.
func (r *Repo) Signatures(ctx context.Context, tip, base, allowedSigners string) ([]Signature, error) {
	args := append(append([]string{}, onlySSH...), "-c", "gpg.ssh.allowedSignersFile="+allowedSigners, "-c", "log.showSignature=false",
		"log", "--format=%H%x00%G?%x00%GF%x00%s")
	if base == "" {
		args = append(args, "--no-walk", "--end-of-options", tip)
	} else {
		args = append(args, "--end-of-options", tip, "^"+base)
	}
	out, err := r.run(ctx, call{args: args})
	if err != nil {
		return nil, err
	}
	var all []Signature
	for line := range strings.Lines(out) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), "\x00", 4)
		s := Signature{Commit: f[0], Trusted: len(f) == 4 && f[1] == "G"} // good, and by a key that the file has
		if len(f) == 4 {
			s.Key, s.Subject = f[2], printable(f[3])
		}
		if !s.Trusted {
			if s.Kind, err = r.signatureKind(ctx, s.Commit); err != nil {
				return nil, err
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// signedBy is the line of a commit's head that begins a signature.
var signedBy = regexp.MustCompile(`(?m)^gpgsig(?:-sha256)? -----BEGIN ([A-Z ]+)-----$`)

func (r *Repo) signatureKind(ctx context.Context, commit string) (string, error) {
	out, err := r.run(ctx, call{args: []string{"cat-file", "commit", commit}})
	if err != nil {
		return "", err
	}
	head, _, _ := strings.Cut(out, "\n\n")
	if m := signedBy.FindStringSubmatch(head); m != nil {
		return m[1], nil
	}
	return "", nil
}

// RemoteRef is what a ref of a remote (its name or URL) points at now; "" when it is not there.
func (r *Repo) RemoteRef(ctx context.Context, remote, ref string) (string, error) {
	refs, err := r.RemoteRefs(ctx, remote, ref)
	return refs[ref], err
}

// RemoteRefs are a remote's refs of these names, which may be patterns as git ls-remote has them. Errors: those of Fetch.
func (r *Repo) RemoteRefs(ctx context.Context, remote string, names ...string) (map[string]string, error) {
	refs, err := r.remoteRefs(ctx, Remote{URL: remote}, names)
	if err == nil || ctx.Err() != nil {
		return refs, err
	}
	return nil, remoteError("look at", remote, err)
}
