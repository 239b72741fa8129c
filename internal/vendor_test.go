package internal_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/nar"
)

// TestVendorHash has the vendorHash of nix/package.nix be that of what go mod vendor writes.
func TestVendorHash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vendor")
	cmd := exec.CommandContext(t.Context(), "go", "mod", "vendor", "-o", dir)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	hash := sha256.New()
	w := nar.NewWriter(hash)
	if err := errors.Join(archive(w, dir), w.Close()); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile("../nix/vendor-hash")
	if want := "sha256-" + base64.StdEncoding.EncodeToString(hash.Sum(nil)); err != nil || strings.TrimSpace(string(written)) != want {
		t.Errorf("nix/vendor-hash is %q, %v; it must be %s: run scripts/vendor-hash --write", written, err, want)
	}
}

// archive writes a file or folder as a NAR.
func archive(w *nar.Writer, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return w.Regular(info.Mode()&0o100 != 0, info.Size(), f)
	}
	entries, err := fs.ReadDir(os.DirFS(path), ".")
	if err := errors.Join(err, w.Directory()); err != nil {
		return err
	}
	for _, e := range entries {
		if err := errors.Join(w.Entry(e.Name()), archive(w, filepath.Join(path, e.Name())), w.EndEntry()); err != nil {
			return err
		}
	}
	return w.EndDirectory()
}
