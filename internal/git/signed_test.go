package git_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/git"
)

// signedCommit commits with git itself, signed by a key ("" for none), and returns the commit.
func signedCommit(t *testing.T, dir, key, subject string, more ...string) string {
	t.Helper()
	args := []string{"commit", "--quiet", "--allow-empty", "-m", subject}
	if key != "" {
		args = slices.Concat([]string{"-c", "gpg.format=ssh", "-c", "user.signingKey=" + key}, args, []string{"-S"})
	}
	do(t, dir, "git", append(args, more...)...)
	return do(t, dir, "git", "rev-parse", "HEAD")
}

func TestSignatures(t *testing.T) {
	dir, _ := newClone(t)
	r, key, other, former := open(t, dir), keygen(t, ""), keygen(t, ""), keygen(t, "")
	signers := allow(t, "", key)
	expired := allow(t, `valid-before="20200101"`, former)
	text, err := os.ReadFile(expired)
	must(t, err)
	all, err := os.ReadFile(signers)
	must(t, err)
	must(t, os.WriteFile(signers, append(all, text...), 0o600))

	base := do(t, dir, "git", "rev-parse", "HEAD")
	want := map[string]git.Signature{}
	note := func(commit string, trusted bool, kind string) {
		want[commit] = git.Signature{Commit: commit, Trusted: trusted, Kind: kind}
	}
	note(signedCommit(t, dir, key, "by one of ours"), true, "")
	note(signedCommit(t, dir, "", "by nobody"), false, "")
	note(signedCommit(t, dir, other, "by a stranger"), false, "SSH SIGNATURE")
	note(signedCommit(t, dir, former, "by a key that had expired"), false, "SSH SIGNATURE")
	// What comes in by a merge is looked at like the rest.
	do(t, dir, "git", "checkout", "--quiet", "-b", "side", base)
	note(signedCommit(t, dir, "", "on a branch"), false, "")
	do(t, dir, "git", "checkout", "--quiet", "-")
	do(t, dir, "git", "-c", "gpg.format=ssh", "-c", "user.signingKey="+key, "merge", "--quiet", "-S", "-m", "A merge", "side")
	note(do(t, dir, "git", "rev-parse", "HEAD"), true, "")
	// A signature taken from another commit, and one of another kind that a gpg would vouch for.
	object := do(t, dir, "git", "cat-file", "commit", signedCommit(t, dir, key, "as it was"))
	note(do(t, dir, "git", "rev-parse", "HEAD"), true, "")
	yes := filepath.Join(t.TempDir(), "yes")
	must(t, os.WriteFile(yes, []byte("#!/bin/sh\necho '[GNUPG:] GOODSIG 1 me'; echo '[GNUPG:] TRUST_ULTIMATE'; echo 'Good \"git\" signature for garrison with ED25519 key SHA256:x'\n"), 0o755))
	for _, name := range []string{"gpg.program", "gpg.openpgp.program", "gpg.x509.program", "gpg.ssh.program"} {
		do(t, dir, "git", "config", name, yes)
	}
	for kind, forged := range map[string]string{
		"SSH SIGNATURE": strings.Replace(object, "as it was", "as it was not", 1),
		"PGP SIGNATURE": strings.Replace(object, "SSH SIGNATURE", "PGP SIGNATURE", 2),
	} {
		file := filepath.Join(t.TempDir(), "commit")
		must(t, os.WriteFile(file, []byte(strings.Replace(forged, "parent ", "parent "+do(t, dir, "git", "rev-parse", "HEAD")+"\nparent ", 1)+"\n"), 0o600))
		id := do(t, dir, "git", "hash-object", "-t", "commit", "-w", file)
		do(t, dir, "git", "update-ref", "HEAD", id)
		note(id, false, kind)
	}
	got, err := r.Signatures(t.Context(), "HEAD", base, signers)
	must(t, err)
	if len(got) != len(want) {
		t.Errorf("%d of %d commits were looked at", len(got), len(want))
	}
	for _, s := range got {
		if w := want[s.Commit]; s.Trusted != w.Trusted || s.Kind != w.Kind || s.Subject == "" || s.Trusted && !strings.HasPrefix(s.Key, "SHA256:") {
			t.Errorf("%+v, want %+v", s, w)
		}
	}
	// Without a base, only the tip.
	if got, err := r.Signatures(t.Context(), "HEAD", "", signers); err != nil || len(got) != 1 || got[0].Trusted {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := r.Signatures(t.Context(), "HEAD", strings.Repeat("1", 40), signers); err == nil {
		t.Error("a base that is not there is passed over")
	}
}

// A commit of ours can be signed too, and git believes it.
func TestSignedCommit(t *testing.T) {
	dir, _ := newClone(t)
	r, key := open(t, dir), keygen(t, "")
	head, err := r.CommitInfo(t.Context(), "HEAD")
	must(t, err)
	id, err := r.WriteCommit(t.Context(), git.Commit{Tree: head.Tree, Message: "Ours\n", When: time.Unix(1e9, 0), Key: key})
	must(t, err)
	got, err := r.Signatures(t.Context(), id, "", allow(t, "", key))
	if err != nil || len(got) != 1 || !got[0].Trusted {
		t.Errorf("%+v, %v", got, err)
	}
	info, err := r.CommitInfo(t.Context(), id)
	if err != nil || info.By != git.Address || head.By != "editor@example.org" || info.Subject != "Ours" {
		t.Errorf("%+v, %+v, %v", info, head, err)
	}
}

// A ref that must stay where it is holds back the others when it has moved.
func TestPushOnlyIfItStayed(t *testing.T) {
	dir, origin := newClone(t)
	r := open(t, dir)
	first := do(t, dir, "git", "rev-parse", "HEAD")
	do(t, dir, "git", "push", "--quiet", "origin", first+":refs/heads/main")
	stays := git.Move{Ref: "refs/heads/main", From: first, To: first}
	must(t, r.Push(t.Context(), "origin", stays, git.Move{Ref: "refs/heads/release", To: first}))
	second := signedCommit(t, dir, "", "newer")
	do(t, dir, "git", "push", "--quiet", "origin", second+":refs/heads/main")
	err := r.Push(t.Context(), "origin", stays, git.Move{Ref: "refs/heads/release", From: first, To: second})
	wantCode(t, err, "transient", "lost-race")
	refs, err := r.RemoteRefs(t.Context(), "origin", "refs/heads/main", "refs/heads/rel*", "refs/heads/gone")
	if err != nil || len(refs) != 2 || refs["refs/heads/main"] != second || refs["refs/heads/release"] != first {
		t.Errorf("%v, %v", refs, err)
	}
	must(t, r.Push(t.Context(), "origin", git.Move{Ref: "refs/heads/release", From: first}))
	if at, err := r.RemoteRef(t.Context(), origin, "refs/heads/release"); err != nil || at != "" {
		t.Errorf("the deleted branch is at %q, %v", at, err)
	}
}
