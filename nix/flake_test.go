package modules_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/nix/modulestest"
)

// TestFlake has the flake's modules and overlay evaluated with a nixpkgs that is none: whoever looks at anything of it, fails.
func TestFlake(t *testing.T) {
	root := filepath.Dir(modulestest.Dir())
	flake, nixpkgs := t.TempDir(), t.TempDir()
	for _, name := range []string{"modules", "tests"} {
		if err := os.CopyFS(filepath.Join(flake, "nix", name), os.DirFS(filepath.Join(root, "nix", name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"flake.nix", "nix/toml.nix", "nix/package.nix", "nix/vendor-hash"} {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err := errors.Join(err, os.WriteFile(filepath.Join(flake, name), data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(nixpkgs, "flake.nix"), []byte(`{ outputs = _: builtins.throw "there is no nixpkgs here"; }`), 0o644); err != nil {
		t.Fatal(err)
	}
	// What a fleet does: import a module of the flake, and give it options.
	host := `module: let h = import ` + flake + `/nix/tests/eval.nix { modules = [ module { services.garrison.package = "/nix/store/x"; ` + least + ` } ]; };
		in builtins.attrNames h.units ++ h.failed`
	nixtest.Each(t, func(t *testing.T, _ *nix.Nix) {
		for _, c := range []struct{ output, apply, want string }{
			{"nixosModules", "builtins.attrNames", `["agent","default","hub"]`},
			{"nixosModules.agent", host, `["garrison-agent"]`},
			{"nixosModules.default", host, `["garrison-agent"]`},
			{"overlays.default", `o: (o { callPackage = file: args: [ (baseNameOf file) (builtins.attrNames args) ]; } { }).garrison`, `["package.nix",["version"]]`},
			{"packages", "p: map builtins.attrNames (builtins.attrValues p)", `[["default","garrison"],["default","garrison"]]`},
			{"checks.x86_64-linux", "builtins.attrNames", `["modules","package"]`},
		} {
			got, err := evalFlake(t, flake, nixpkgs, c.output, c.apply)
			if err != nil || got != c.want {
				t.Errorf("%s is %s, not %s (%v)", c.output, got, c.want, err)
			}
		}
		// It is really none.
		if got, err := evalFlake(t, flake, nixpkgs, "packages.x86_64-linux.default", "p: p.name"); err == nil || !strings.Contains(err.Error(), "there is no nixpkgs here") {
			t.Errorf("the package is %s, %v", got, err)
		}
	})
}

func evalFlake(t *testing.T, flake, nixpkgs, output, apply string) (string, error) {
	cmd := exec.CommandContext(t.Context(), "nix", "--extra-experimental-features", "nix-command flakes", "eval", "--impure", "--json", "--no-write-lock-file",
		"--override-input", "nixpkgs", "path:"+nixpkgs, "path:"+flake+"#"+output, "--apply", apply)
	cmd.Env = append(os.Environ(), "NIX_REMOTE=local?root="+t.TempDir())
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = errors.New(string(exit.Stderr))
	}
	return strings.TrimSpace(string(out)), err
}

// TestVendorHash has vendorHash be that of what go mod vendor writes.
func TestVendorHash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vendor")
	cmd := exec.CommandContext(t.Context(), "go", "mod", "vendor", "-o", dir)
	cmd.Dir = filepath.Dir(modulestest.Dir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	hash := sha256.New()
	w := nar.NewWriter(hash)
	if err := errors.Join(archive(w, dir), w.Close()); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile("vendor-hash")
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
		return w.Regular(info.Mode()&0o100 != 0, info.Size(), io.Reader(f))
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
