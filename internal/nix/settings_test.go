package nix

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Settings are read from the Nix of the system, and from the newest.
func TestSettings(t *testing.T) {
	newest, err := exec.Command("../../scripts/fetch-nix", "sid").Output()
	if err != nil {
		t.Fatal(err)
	}
	conf := t.TempDir()
	if err := os.WriteFile(filepath.Join(conf, "nix.conf"), []byte("experimental-features = nix-command flakes\nsandbox = false\nextra-substituters = https://cache.example.org/fleet\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NIX_CONF_DIR", conf)
	t.Setenv("NIX_CONFIG", "")
	for _, path := range []string{os.Getenv("PATH"), filepath.Join(strings.TrimSpace(string(newest)), "bin") + ":" + os.Getenv("PATH")} {
		t.Setenv("PATH", path)
		n, err := Find(t.Context())
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
