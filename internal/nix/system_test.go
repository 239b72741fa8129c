package nix

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestBuilderSystems(t *testing.T) {
	file := filepath.Join(t.TempDir(), "machines")
	if err := os.WriteFile(file, []byte("# ours\nssh://a aarch64-linux,armv7l-linux /key 4\n\nssh://b - -\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := builderSystems("ssh-ng://mac x86_64-darwin ; @"+file+"; @/nowhere", 0)
	if want := []string{"x86_64-darwin", "aarch64-linux", "armv7l-linux"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSystems(t *testing.T) {
	t.Setenv("NIX_CONFIG", "extra-platforms = riscv64-linux\nbuilders = ssh://b aarch64-linux\n")
	n, err := Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := n.Systems(t.Context())
	if err != nil || len(got) < 3 || !slices.Contains(got, "riscv64-linux") || got[len(got)-1] != "aarch64-linux" {
		t.Errorf("%v, %v", got, err)
	}
}
