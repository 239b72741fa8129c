package cachetest

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/nar"
)

// Store is a Nix store of a test's own.
type Store struct {
	Root string // its files are in Root/nix/store
	Bin  string // folder of the Nix that works on it; "" = the system's
}

// NewStore returns an empty store.
func NewStore(t testing.TB) Store {
	t.Helper()
	s := Store{Root: t.TempDir()}
	t.Cleanup(func() { // a store's directories are read-only
		_ = filepath.WalkDir(s.Root, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(p, 0o700)
			}
			return err
		})
	})
	return s
}

// URL is the store's, for --to and --store.
func (s Store) URL() string { return "local?root=" + s.Root }

// Dir is where the store's files really are.
func (s Store) Dir() string { return filepath.Join(s.Root, "nix/store") }

// Nix runs nix and returns what it printed; it fails the test when nix fails.
func (s Store) Nix(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.TryNix(t, args...)
	if err != nil {
		t.Fatalf("nix %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// TryNix runs nix; its error holds what it complained of.
func (s Store) TryNix(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(s.Bin, "nix"), args...)
	cmd.Env = append(os.Environ(), "HOME="+s.Root, "NIX_REMOTE="+s.URL(), "NIX_CONFIG="+strings.Join([]string{
		"experimental-features = nix-command flakes ca-derivations", "build-users-group =", "substituters =",
		"sandbox-paths = /bin/sh=/bin/busybox", "narinfo-cache-negative-ttl = 0", "narinfo-cache-positive-ttl = 0",
	}, "\n"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), &nixError{err, stderr.String()}
	}
	return stdout.String(), nil
}

type nixError struct {
	err    error
	stderr string
}

func (e *nixError) Error() string { return e.err.Error() + "\n" + e.stderr }

// closure is a small system: paths that refer to each other, one to itself, and one that was not built.
const closure = `
let
  sh = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; };
  lib = sh "lib" "echo salt > $out";
  app = sh "app" "echo uses ${lib} and $out > $out";
  text = builtins.toFile "text" "salt";
in sh "toplevel" "echo ${app} ${lib} ${text} > $out"
`

// BuildClosure builds a closure of four paths in the store and describes it;
// the last path is the toplevel. salt makes it different from others.
func (s Store) BuildClosure(t testing.TB, salt string) []nar.PathInfo {
	t.Helper()
	return s.build(t, strings.ReplaceAll(closure, "salt", salt))
}

// BuildOn builds a path that refers to storePath, and describes its closure; it is the last.
func (s Store) BuildOn(t testing.TB, storePath string) []nar.PathInfo {
	t.Helper()
	return s.build(t, `derivation { name = "system"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo ${builtins.storePath `+
		storePath+`} > $out" ]; }`)
}

func (s Store) build(t testing.TB, expr string) []nar.PathInfo {
	t.Helper()
	out := strings.TrimSpace(s.Nix(t, "build", "--no-link", "--json", "--impure", "--expr", expr))
	var built []struct {
		Outputs map[string]string `json:"outputs"`
	}
	must(t, json.Unmarshal([]byte(out), &built))
	return s.Closure(t, built[0].Outputs["out"])
}

// Closure describes the closure of a path, the path itself last.
func (s Store) Closure(t testing.TB, storePath string) []nar.PathInfo {
	t.Helper()
	var list []struct {
		Path, NarHash, Deriver, CA string
		NarSize                    int64
		References, Signatures     []string
	}
	must(t, json.Unmarshal([]byte(s.Nix(t, "path-info", "--json", "--recursive", storePath)), &list))
	var infos []nar.PathInfo
	var last nar.PathInfo
	for _, p := range list {
		hash, err := nar.ParseHash(p.NarHash)
		must(t, err)
		info := nar.PathInfo{StorePath: p.Path, NarHash: hash, NarSize: p.NarSize, References: p.References, Deriver: p.Deriver, CA: p.CA, Sigs: p.Signatures}
		if p.Path == storePath {
			last = info
			continue
		}
		infos = append(infos, info)
	}
	return append(infos, last)
}
