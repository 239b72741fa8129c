package git_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

func TestLook(t *testing.T) {
	dir, origin := newClone(t)
	r := open(t, dir)
	if v, err := git.Version(t.Context()); err != nil || !strings.Contains(do(t, "", "git", "version"), v) || v == "" {
		t.Errorf("%q, %v", v, err)
	}
	for remote, want := range map[string]string{"origin": origin, "nowhere": "", "https://forge.example.org/fleet.git": "https://forge.example.org/fleet.git"} {
		if got, err := r.RemoteURL(t.Context(), remote, false); err != nil || got != want {
			t.Errorf("%s: %q, %v", remote, got, err)
		}
	}
	do(t, dir, "git", "remote", "set-url", "--push", "origin", "/elsewhere.git")
	if got, err := r.RemoteURL(t.Context(), "origin", true); err != nil || got != "/elsewhere.git" {
		t.Errorf("to push to: %q, %v", got, err)
	}

	do(t, dir, "git", "push", "--quiet", origin, "HEAD:trunk")
	do(t, origin, "git", "symbolic-ref", "HEAD", "refs/heads/trunk")
	if got, err := r.DefaultBranch(t.Context(), "origin"); err != nil || got != "trunk" {
		t.Errorf("asked: %q, %v", got, err)
	}
	do(t, dir, "git", "remote", "set-head", "origin", "main")
	if got, err := r.DefaultBranch(t.Context(), "origin"); err != nil || got != "main" {
		t.Errorf("as the clone noted it: %q, %v", got, err)
	}
	if got, err := r.Branch(t.Context()); err != nil || got != "main" {
		t.Errorf("%q, %v", got, err)
	}
	do(t, dir, "git", "checkout", "--quiet", "--detach")
	if got, err := r.Branch(t.Context()); err != nil || got != "" {
		t.Errorf("on no branch: %q, %v", got, err)
	}

	head := do(t, dir, "git", "rev-parse", "HEAD")
	before := do(t, origin, "git", "for-each-ref")
	must(t, r.MayPush(t.Context(), origin, head))
	wantCode(t, r.MayPush(t.Context(), filepath.Join(t.TempDir(), "nowhere.git"), head), fleet.Transient, fleet.CodeRemote)
	url := forge(t, filepath.Dir(origin), nil) + "/origin.git" // which may be read, but is not set to take pushes
	must(t, r.Fetch(t.Context(), url, "+refs/heads/*:refs/garrison/heads/*"))
	do(t, origin, "git", "config", "http.receivepack", "false")
	if err := r.MayPush(t.Context(), url, head); err == nil {
		t.Error("a remote that takes no pushes would take one")
	}
	if got := do(t, origin, "git", "for-each-ref"); got != before {
		t.Errorf("the remote has now\n%s", got)
	}
}

// A patch changes, makes, and is taken by git apply, whatever git is set to.
func TestDiff(t *testing.T) {
	dir, _ := newClone(t)
	r := open(t, dir)
	for _, s := range [][]string{{"diff.noprefix", "true"}, {"diff.mnemonicPrefix", "true"}, {"color.ui", "always"}, {"diff.external", "false"}} {
		do(t, dir, "git", "config", s[0], s[1])
	}
	patch, err := r.Diff(t.Context(), "HEAD", map[string]string{"a": "a\n"}, map[string]string{"a": "b\n", "new/it's": "new\n"})
	must(t, err)
	file := filepath.Join(t.TempDir(), "patch")
	must(t, os.WriteFile(file, []byte(patch), 0o644))
	do(t, dir, "git", "apply", "--index", file)
	for name, want := range map[string]string{"a": "b\n", "new/it's": "new\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if patch, err := r.Diff(t.Context(), "HEAD", map[string]string{"a": "x\n"}, map[string]string{"a": "x\n"}); err != nil || patch != "" {
		t.Errorf("of equals: %q, %v", patch, err)
	}
}
