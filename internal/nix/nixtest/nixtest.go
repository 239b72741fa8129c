// Package nixtest lets tests run against the oldest and the newest Nix that Garrison must work with, in stores of their own.
//
// Start at Main, which a package's TestMain calls, and Each.
package nixtest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/nix"
)

// Names of environment variables that tell tests, and the processes that they start, what Main made.
const (
	storeVar = "NIXTEST_STORE"
	cacheVar = "NIXTEST_CACHE" // where fetch-nix keeps what it fetched
)

// Main runs a package's tests with an environment of their own: nothing of this machine's configuration of git and Nix counts.
func Main(m *testing.M) (code int) {
	if os.Getenv(storeVar) != "" {
		return m.Run() // a helper process of a test
	}
	dir, err := os.MkdirTemp("", "nixtest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove(dir)
	cache, _ := os.UserCacheDir()
	for name, value := range map[string]string{
		cacheVar: cache, "HOME": dir, "XDG_CACHE_HOME": filepath.Join(dir, ".cache"), storeVar: filepath.Join(dir, "stores"),
		"NIX_CONFIG":        "build-users-group =\nsubstituters =\nsandbox-paths = /bin/sh=/bin/busybox\nconnect-timeout = 1",
		"NIX_CONF_DIR":      dir,
		"TMPDIR":            dir, // nix leaves some of what it puts there, above all when it is killed
		"GIT_CONFIG_GLOBAL": filepath.Join(dir, ".gitconfig"), "GIT_CONFIG_NOSYSTEM": "1",
		"GIT_AUTHOR_NAME": "Editor", "GIT_AUTHOR_EMAIL": "editor@example.org",
		"GIT_COMMITTER_NAME": "Editor", "GIT_COMMITTER_EMAIL": "editor@example.org",
	} {
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// remove removes dir with the stores in it, whose folders are read-only.
func remove(dir string) {
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(p, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}

// System is the Nix on PATH, working on a store that the tests of a package share.
func System(t testing.TB) *nix.Nix {
	t.Helper()
	n, err := nix.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(os.Getenv(storeVar), n.Version)
	n.Store = "local?root=" + root
	if err := os.MkdirAll(root, 0o700); err != nil {
		t.Fatal(err)
	}
	return n
}

// StoreRoot is what /nix/store of System's store is below.
func StoreRoot(n *nix.Nix) string { return strings.TrimSuffix(n.RealStoreDir(), "/nix/store") }

// Elsewhere is n with a store that is empty.
func Elsewhere(t testing.TB, n *nix.Nix) *nix.Nix {
	t.Helper()
	dir, err := os.MkdirTemp(os.Getenv(storeVar), "elsewhere-")
	if err != nil {
		t.Fatal(err)
	}
	other := *n
	other.Store = "local?root=" + dir
	return &other
}

// Each runs f with the system's Nix and with the newest.
func Each(t *testing.T, f func(t *testing.T, n *nix.Nix)) {
	t.Run("system", func(t *testing.T) { f(t, System(t)) })
	t.Run("newest", func(t *testing.T) {
		t.Setenv("PATH", Newest(t)+":"+os.Getenv("PATH"))
		f(t, System(t))
	})
}

// Newest is the folder with the programs of the newest Nix that Debian has.
func Newest(t testing.TB) string {
	t.Helper()
	root, err := filepath.Abs(".")
	for err == nil && root != "/" {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		root = filepath.Dir(root)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "scripts/fetch-nix"), "sid")
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+os.Getenv(cacheVar))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("fetch-nix: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "bin")
}
