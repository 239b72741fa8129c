package git_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// TestWorkTree: what was changed is taken, or it is an error; never is an older state taken for what stands there.
func TestWorkTree(t *testing.T) {
	dir, _ := newClone(t)
	head := do(t, dir, "git", "rev-parse", "HEAD")
	got, dirty, err := git.WorkTree(t.Context(), filepath.Join(dir, "sub"))
	if err != nil || dirty || got != head {
		t.Errorf("unchanged: %s, %v, %v", got, dirty, err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("changed\n"), 0o644))
	got, dirty, err = git.WorkTree(t.Context(), dir)
	must(t, err)
	if text := do(t, dir, "git", "show", got+":a"); !dirty || text != "changed" {
		t.Errorf("changed: %v, %q", dirty, text)
	}

	do(t, dir, "git", "commit", "--quiet", "--all", "-m", "Ours")
	do(t, dir, "git", "checkout", "--quiet", "-b", "other", head)
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("other\n"), 0o644))
	do(t, dir, "git", "commit", "--quiet", "--all", "-m", "Other")
	if out, err := exec.CommandContext(t.Context(), "git", "-C", dir, "merge", "main").CombinedOutput(); err == nil {
		t.Fatalf("no conflict: %s", out)
	}
	_, _, err = git.WorkTree(t.Context(), dir)
	wantCode(t, err, fleet.Local, fleet.CodeGit)

	empty := t.TempDir()
	do(t, "", "git", "init", "--quiet", empty)
	_, _, err = git.WorkTree(t.Context(), empty)
	wantCode(t, err, fleet.Bad, fleet.CodeNotFound)
}
