package git_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// keygen makes a key pair and returns the private half's file.
func keygen(t *testing.T, passphrase string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	do(t, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", file)
	return file
}

// allow writes an allowed-signers file.
func allow(t *testing.T, options string, keys ...string) string {
	t.Helper()
	var text strings.Builder
	for _, k := range keys {
		pub, err := os.ReadFile(k + ".pub")
		must(t, err)
		text.WriteString("garrison " + options + " " + string(pub))
	}
	file := filepath.Join(t.TempDir(), "signers")
	must(t, os.WriteFile(file, []byte(text.String()), 0o600))
	return file
}

// writeTag stores a tag object as it is.
func writeTag(t *testing.T, r *git.Repo, object string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tag")
	must(t, os.WriteFile(file, []byte(object), 0o600))
	return do(t, r.Dir, "git", "hash-object", "-t", "tag", "--literally", "-w", file)
}

func TestSignedTag(t *testing.T) {
	dir, _ := newClone(t)
	r, key, other := open(t, dir), keygen(t, ""), keygen(t, "")
	head := do(t, dir, "git", "rev-parse", "HEAD")
	message := "release-1: First\n\n{\"a\": \"-----BEGIN SSH SIGNATURE-----\"}\n"
	id, err := r.SignTag(t.Context(), "refs/garrison/tags/release-1", "release-1", head, []byte(message), key, time.Now())
	must(t, err)
	tag, err := r.ReadTag(t.Context(), id)
	if err != nil || tag.Name != "release-1" || tag.Commit != head || string(tag.Message) != message || tag.ID != id {
		t.Errorf("%+v, %v", tag, err)
	}
	refs, err := r.Refs(t.Context(), "refs/garrison/tags/")
	if err != nil || refs["release-1"] != (git.Ref{ID: id, Commit: head}) {
		t.Errorf("%+v, %v", refs, err)
	}
	must(t, r.VerifyTag(t.Context(), id, allow(t, "", key)))
	must(t, r.VerifyTag(t.Context(), id, allow(t, `namespaces="git"`, other, key)))
	// git itself agrees
	do(t, dir, "git", "-c", "gpg.ssh.allowedSignersFile="+allow(t, "", key), "verify-tag", id)

	for options, code := range map[string]fleet.Code{
		`namespaces="file"`: fleet.CodeUnknownKey, `valid-before="20200101"`: fleet.CodeKeyExpired, `valid-after="20990101"`: fleet.CodeKeyExpired,
	} {
		wantCode(t, r.VerifyTag(t.Context(), id, allow(t, options, key)), fleet.Bad, code)
	}
	wantCode(t, r.VerifyTag(t.Context(), id, allow(t, "", other)), fleet.Bad, fleet.CodeUnknownKey)
	wantCode(t, r.VerifyTag(t.Context(), id, filepath.Join(t.TempDir(), "nowhere")), fleet.Local, fleet.CodeKey)
	wantCode(t, r.VerifyTag(t.Context(), head, allow(t, "", key)), fleet.Bad, fleet.CodeUnsigned)

	_, err = r.SignTag(t.Context(), "refs/x", "release-2", head, []byte(message), keygen(t, "locked"), time.Now())
	wantCode(t, err, fleet.Local, fleet.CodeKey)
}

// TestForgedTags: each is refused for lack of a good signature, whatever git's configuration of gpg says.
func TestForgedTags(t *testing.T) {
	dir, _ := newClone(t)
	r, key := open(t, dir), keygen(t, "")
	signers := allow(t, "", key)
	head := do(t, dir, "git", "rev-parse", "HEAD")
	id, err := r.SignTag(t.Context(), "refs/garrison/t", "release-1", head, []byte("release-1: x\n\n{}\n"), key, time.Now())
	must(t, err)
	good := do(t, dir, "git", "cat-file", "tag", id) + "\n"
	body, signature, _ := strings.Cut(good, "-----BEGIN SSH")
	signature = "-----BEGIN SSH" + signature
	pgp := "-----BEGIN PGP SIGNATURE-----\n\niQ==\n-----END PGP SIGNATURE-----\n"

	yes := filepath.Join(t.TempDir(), "yes") // a gpg that vouches for everything
	must(t, os.WriteFile(yes, []byte("#!/bin/sh\necho '[GNUPG:] GOODSIG 1 x'; echo '[GNUPG:] TRUST_ULTIMATE'; exit 0\n"), 0o755))
	for _, name := range []string{"gpg.program", "gpg.openpgp.program", "gpg.x509.program", "gpg.ssh.program"} {
		do(t, dir, "git", "config", name, yes)
	}
	file := filepath.Join(t.TempDir(), "body")
	must(t, os.WriteFile(file, []byte(body), 0o600))
	do(t, "", "ssh-keygen", "-Y", "sign", "-q", "-n", "file", "-f", key, file)
	elsewhere, err := os.ReadFile(file + ".sig")
	must(t, err)

	must(t, r.VerifyTag(t.Context(), writeTag(t, r, good), signers))
	for name, object := range map[string]string{
		"unsigned":                         body,
		"tampered":                         strings.Replace(good, "release-1: x", "release-1: y", 1),
		"renamed":                          strings.Replace(good, "tag release-1", "tag release-2", 1),
		"signed in another namespace":      body + string(elsewhere),
		"signed by PGP":                    body + pgp,
		"by SSH and then by PGP":           good + pgp,
		"by PGP and then by SSH":           body + pgp + signature,
		"with a body behind the signature": good + body + strings.Replace(signature, "U1NI", "U1NJ", 1),
		"cut short":                        good[:len(good)-60],
		"empty signature":                  body + "-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n",
	} {
		forged := writeTag(t, r, object)
		err := r.VerifyTag(t.Context(), forged, signers)
		want := fleet.CodeSignature
		if name == "unsigned" || strings.Contains(name, "PGP") && !strings.HasSuffix(name, "SSH") {
			want = fleet.CodeUnsigned
		}
		if fleet.CodeOf(err) != want || fleet.ClassOf(err) != fleet.Bad {
			t.Errorf("%s: %v", name, err)
		}
	}

	// What verifies is read as it was verified, whatever follows the signature.
	trailing := writeTag(t, r, good+"more -----BEGIN SSH SIGNATURE-----\n")
	if tag, err := r.ReadTag(t.Context(), trailing); err != nil || string(tag.Message) != "release-1: x\n\n{}\n" {
		t.Errorf("%q, %v", tag.Message, err)
	}
	for name, object := range map[string]string{
		"a commit":   "tree " + head + "\nauthor x <x> 1 +0000\n\nobject " + head + "\n",
		"of a tree":  strings.Replace(body, "type commit", "type tree", 1),
		"two heads":  "object " + head + "\n" + body,
		"no message": "object " + head + "\ntype commit\ntag release-1\n",
	} {
		if tag, err := r.ReadTag(t.Context(), writeTag(t, r, object)); err == nil {
			t.Errorf("%s was read: %+v", name, tag)
		}
	}
}
