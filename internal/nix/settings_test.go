package nix_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
)

// Settings are read from the Nix of the system, and from the newest.
func TestSettings(t *testing.T) {
	conf := t.TempDir()
	if err := os.WriteFile(filepath.Join(conf, "nix.conf"), []byte("experimental-features = nix-command flakes\nsandbox = false\nextra-substituters = https://cache.example.org/fleet\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NIX_CONF_DIR", conf)
	t.Setenv("NIX_CONFIG", "")
	for _, path := range []string{os.Getenv("PATH"), nixtest.Newest(t) + ":" + os.Getenv("PATH")} {
		t.Setenv("PATH", path)
		n, err := nix.Find(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s, err := n.Settings(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s["sandbox"] != "false" || !strings.Contains(s["experimental-features"], "flakes") || !strings.Contains(s["substituters"], "https://cache.example.org/fleet") {
			t.Errorf("Nix %s: %v", n.Version, s)
		}
		if n.Parses(t.Context(), "{ a = [ 1 ]; }") != nil || n.Parses(t.Context(), "{ a = [ 1 }") == nil {
			t.Errorf("Nix %s does not tell what parses", n.Version)
		}
	}
}
