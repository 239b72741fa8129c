package release_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// signed commits everything, signed by the key of that name, and pushes it.
func (w *world) signed(key, subject string) string {
	w.t.Helper()
	w.do("git", "add", "--all")
	w.do("git", "-c", "gpg.format=ssh", "-c", "user.signingKey="+filepath.Join(w.dir, key), "commit", "--quiet", "--allow-empty", "-S", "-m", subject)
	w.do("git", "push", "--quiet", "--force", "origin", "HEAD")
	return w.do("git", "rev-parse", "HEAD")
}

// signers has garrison.toml name those keys; none at all leaves source.signers out.
func (w *world) signers(keys ...string) {
	w.t.Helper()
	var lines []string
	for _, k := range keys {
		pub, err := os.ReadFile(filepath.Join(w.dir, k+".pub"))
		w.must(err)
		lines = append(lines, fmt.Sprintf("%q", strings.TrimSpace(string(pub))))
	}
	plain, err := os.ReadFile(filepath.Join(w.clone, "garrison.toml"))
	w.must(err)
	text, _, _ := strings.Cut(string(plain), "\n[source]")
	if len(keys) > 0 {
		text += "\n[source]\nsigners = [" + strings.Join(lines, ", ") + "]\n"
	}
	w.write("garrison.toml", text)
}

// distrust wants what is on main to be refused before anything is evaluated, and the origin left as it is.
func (w *world) distrust(code fleet.Code, says ...string) {
	w.t.Helper()
	w.refuse(fleet.Bad, code, says, func(o *release.Options) {
		o.Evaluated = func(int, int) { w.t.Error("it was evaluated") }
	})
}

func (w *world) trust(change ...func(*release.Options)) release.Ready {
	w.t.Helper()
	o := w.options()
	for _, f := range change {
		f(&o)
	}
	ready, err := release.Prepare(w.t.Context(), o)
	if err != nil {
		w.t.Fatalf("it is refused: %v", err)
	}
	return ready
}

// undo takes the newest n commits from main, here and at the origin.
func (w *world) undo(n int) {
	w.t.Helper()
	w.do("git", "reset", "--quiet", "--hard", fmt.Sprintf("HEAD~%d", n))
	w.do("git", "push", "--quiet", "--force", "origin", "HEAD")
}

func TestSourceSigners(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	for _, name := range []string{"alice", "bob", "carol", "stranger"} {
		w.keygen(name)
	}
	// The first release must be told whom to trust, and not by the commit itself. What came before its tip is vouched for by whoever signed that.
	w.signers("alice", "bob")
	w.signed("alice", "Commits are signed from now on")
	w.refuse(fleet.Local, fleet.CodeConfig, []string{"there is no release yet that says whom to trust", "--source-signers FILE"})
	allowed := filepath.Join(w.dir, "allowed")
	pub, err := os.ReadFile(filepath.Join(w.dir, "alice.pub"))
	w.must(err)
	w.must(os.WriteFile(allowed, append([]byte("alice "), pub...), 0o600))
	w.release(func(o *release.Options) { o.SourceSigners = allowed })

	w.push("By nobody")
	w.distrust(fleet.CodeUnsigned, "(By nobody) is not signed", "source.signers, as release-1 has it")
	w.undo(1)
	w.signed("stranger", "By a stranger")
	w.distrust(fleet.CodeUnknownKey, "signed by a key that is not to be trusted, SHA256:")
	// Signed by one of ours on top, it is no better.
	w.signed("alice", "On top")
	w.distrust(fleet.CodeUnknownKey, "(By a stranger)")
	w.undo(2)
	w.signers("alice", "bob", "stranger")
	w.signed("stranger", "A stranger adds themselves")
	w.distrust(fleet.CodeUnknownKey, "a commit that adds a key is released before one that the key signs")
	w.undo(1)
	w.signers()
	w.push("Nobody has to sign any more")
	w.distrust(fleet.CodeUnsigned)
	w.undo(1)
	w.do("git", "-c", "gpg.program="+fakeGPG(w), "commit", "--quiet", "--allow-empty", "-S", "-m", "By PGP")
	w.do("git", "push", "--quiet", "--force", "origin", "HEAD")
	w.distrust(fleet.CodeUnknownKey, "a signature of another kind than SSH's (PGP SIGNATURE)", "git config gpg.format ssh")
	w.undo(1)

	// What a merge brings must be signed too, as the merge must.
	w.do("git", "checkout", "--quiet", "-b", "side")
	w.do("git", "commit", "--quiet", "--allow-empty", "-m", "On the side")
	w.do("git", "checkout", "--quiet", "main")
	w.merge("alice")
	w.distrust(fleet.CodeUnsigned, "(On the side)")
	w.undo(1)
	w.do("git", "checkout", "--quiet", "side")
	w.do("git", "-c", "gpg.format=ssh", "-c", "user.signingKey="+filepath.Join(w.dir, "bob"), "commit", "--quiet", "--allow-empty", "--amend", "-S", "-m", "On the side")
	w.do("git", "checkout", "--quiet", "main")
	w.merge("stranger")
	w.distrust(fleet.CodeUnknownKey, "(Merge)")
	w.undo(1)
	w.merge("alice")
	w.trust()

	// Who is added may sign when that is released; who is taken away may not, not even what waits for its release.
	w.signers("alice", "bob", "carol")
	w.signed("alice", "Carol comes")
	w.trust()
	w.signed("carol", "Carol's first")
	w.distrust(fleet.CodeUnknownKey, "(Carol's first)", "a commit that adds a key is released before one that the key signs")
	w.undo(1)
	w.release()
	w.signed("carol", "Carol's first")
	w.trust()
	w.signed("bob", "Bob's last")
	w.trust()
	w.signers("alice", "carol")
	w.signed("alice", "Bob goes")
	w.distrust(fleet.CodeUnknownKey, "(Bob's last)", "source.signers does not have that key any more")
	w.undo(2)
	w.signers("alice", "carol")
	w.signed("alice", "Bob goes")
	w.release()
	w.signed("bob", "Bob is back")
	w.distrust(fleet.CodeUnknownKey)
	w.undo(1)

	// CI's own file counts alone: it has only Alice.
	w.signed("carol", "Carol's")
	w.trust()
	o := func(o *release.Options) { o.SourceSigners = allowed }
	w.refuse(fleet.Bad, fleet.CodeUnknownKey, []string{allowed}, o)
	w.undo(1)
	w.push("More")
	w.refuse(fleet.Local, fleet.CodeKey, []string{"cannot read the keys of those who may sign commits"}, func(o *release.Options) {
		o.SourceSigners = filepath.Join(w.dir, "gone")
	})
	w.undo(1)

	// A test branch is held to the same.
	w.do("git", "checkout", "--quiet", "-b", "joker-test")
	w.signed("stranger", "For the joker")
	w.refuse(fleet.Bad, fleet.CodeUnknownKey, []string{"(For the joker)"}, func(o *release.Options) { o.Test = "joker" })
	w.do("git", "checkout", "--quiet", "main")

	// One of ours may say that nobody must sign; from the release of that on, nobody must.
	w.signers()
	w.signed("alice", "Enough")
	w.release()
	w.push("By nobody")
	w.trust()
}

// merge merges the branch side into main, signed by a key, and pushes.
func (w *world) merge(key string) {
	w.t.Helper()
	w.do("git", "-c", "gpg.format=ssh", "-c", "user.signingKey="+filepath.Join(w.dir, key), "merge", "--quiet", "--no-ff", "-S", "-m", "Merge", "side")
	w.do("git", "push", "--quiet", "--force", "origin", "HEAD")
}

// fakeGPG is a program that signs as gpg does, with nothing behind it.
func fakeGPG(w *world) string {
	w.t.Helper()
	file := filepath.Join(w.dir, "gpg")
	w.must(os.WriteFile(file, []byte("#!/bin/sh\ncat >/dev/null\necho '[GNUPG:] SIG_CREATED ' >&2\nprintf -- '-----BEGIN PGP SIGNATURE-----\\n\\nAAAA\\n-----END PGP SIGNATURE-----\\n'\n"), 0o755))
	return file
}

func TestConfigOfSource(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEl0YFxUTZ7YoK5wLPCkqkVSjbAaFbQDCVjLv7m2eyxn"
	for text, want := range map[string]string{
		"[source]\nsigners = [\"" + key + " alice\"]":                           "",
		"[source]\nsigners = [\"alice\"]":                                       "source.signers[0] is not a public SSH key",
		"[source]\nsigners = [\"" + key + "\", \"cert-authority " + key + "\"]": "source.signers[1] is not",
		"[source]\nsigners = [\"" + key + "\\n* " + key + "\"]":                 "source.signers[0] is not",
		"mirrors = [\"https://git.example.org/fleet.git\", \"ssh://git@git.example.org/fleet\", \"git@git.example.org:fleet\", \"/srv/fleet.git\", \"file:///srv/fleet.git\"]": "",
		"mirrors = [\"https://me:secret@git.example.org/fleet.git\"]": "mirrors has \"https://…@git.example.org/fleet.git\": a token must not stand in the repository",
		"mirrors = [\"https://token@git.example.org/fleet.git\"]":     "a token must not stand",
		"mirrors = [\"ext::sh -c date\"]":                             "it is no URL",
		"mirrors = [\"-oProxyCommand=date:fleet\"]":                   "it is no URL",
		"mirrors = [\"origin\"]":                                      "it is no URL",
		"mirrors = [\"ftp://git.example.org/fleet\"]":                 "its scheme is none of",
		"[hub]\nurl = \"https://hub.example.org\"":                    "",
	} {
		_, err := release.ParseConfig("garrison.toml", []byte(text))
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret@")) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
