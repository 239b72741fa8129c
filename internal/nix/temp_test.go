package nix_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
)

// TestNothingStaysInTheTemporaryFolder of what Nix puts there, whether it ends well or not.
func TestNothingStaysInTheTemporaryFolder(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		flake := exampleFleet(t, nil)
		top, module := filepath.Dir(flake.GitDir), t.TempDir()
		for name, value := range map[string]string{"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.file.allow", "GIT_CONFIG_VALUE_0": "always", "TMPDIR": t.TempDir()} {
			t.Setenv(name, value)
		}
		for _, args := range [][]string{
			{"-C", module, "init", "--quiet"}, {"-C", module, "commit", "--quiet", "--allow-empty", "-m", "Module"},
			{"-C", top, "submodule", "--quiet", "add", module, "module"}, {"-C", top, "commit", "--quiet", "-m", "With a module"},
		} {
			if out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v", out, err)
			}
		}
		out, err := exec.CommandContext(t.Context(), "git", "-C", top, "rev-parse", "HEAD").Output()
		must(t, err)
		flake.Commit, flake.Submodules = string(out[:40]), true
		_, err = n.Host(t.Context(), flake, nix.NixOS, "joker")
		must(t, err)
		if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
			t.Errorf("%v, %v", left, err)
		}

		_, err = n.Contents(t.Context(), flake, "no system")
		must(t, err)
		flake.Commit = "nonsense"
		if _, err := n.Contents(t.Context(), flake, ""); fleet.CodeOf(err) != fleet.CodeEvaluate {
			t.Error(err)
		}
		if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
			t.Errorf("%v, %v", left, err)
		}
	})
}

// TestWhatAKilledProcessLeftIsSwept by the next one, but nothing of one that lives, and nothing of others.
func TestWhatAKilledProcessLeftIsSwept(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	for _, path := range []string{"garrison-nix-1/tmp/nix-git-submodules.x", "garrison-nix-2", "garrison-nix-3/tmp/x", "garrison-check-4", "elsewhere/tmp"} {
		must(t, os.MkdirAll(filepath.Join(dir, path), 0o700))
	}
	must(t, os.Symlink("elsewhere", filepath.Join(dir, "garrison-nix-5")))
	lock, err := durable.TryLock(filepath.Join(dir, "garrison-nix-3/lock"))
	must(t, err)
	want := func(names ...string) {
		t.Helper()
		var left []string
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			left = append(left, e.Name())
		}
		if !slices.Equal(left, names) {
			t.Errorf("left are %v, not %v", left, names)
		}
	}
	_, err = nix.Find(t.Context())
	must(t, err)
	want("elsewhere", "garrison-check-4", "garrison-nix-3", "garrison-nix-5")
	must(t, lock.Unlock())
	_, err = nix.Find(t.Context())
	must(t, err)
	want("elsewhere", "garrison-check-4", "garrison-nix-5")

	t.Setenv("TMPDIR", filepath.Join(dir, "nowhere"))
	n, err := nix.Find(t.Context())
	must(t, err)
	_, err = n.Contents(t.Context(), nix.Flake{}, "")
	var e *fleet.Error
	if !errors.As(err, &e) || e.Code != fleet.CodeState || !strings.Contains(e.Error(), "nowhere") {
		t.Error(err)
	}
}
