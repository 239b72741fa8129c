package modules_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
			{"nixosModules", "builtins.attrNames", `["agent","cache","default","drill","hub","push"]`},
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
