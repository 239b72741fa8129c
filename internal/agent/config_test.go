package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestMetricsAddress: nothing listens unless asked to, and everywhere only where that is written.
func TestMetricsAddress(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.toml")
	read := func(metrics string) (Config, error) {
		text := "host = 'joker'\nremote = '/r'\nallowedSigners = '/s'\n" + metrics
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return ReadConfig(file)
	}
	for metrics, want := range map[string]string{"": "", "[metrics]\n": "", "[metrics]\nlisten = '127.0.0.1:9101'\n": "127.0.0.1:9101", "[metrics]\nlisten = '[::]:9101'\n": "[::]:9101"} {
		if c, err := read(metrics); err != nil || c.Metrics.Listen != want {
			t.Errorf("%q: %q, %v", metrics, c.Metrics.Listen, err)
		}
	}
	for metrics, want := range map[string]string{"[metrics]\nlisten = ':9101'\n": "names no address", "[metrics]\nlisten = '9101'\n": "is not host:port", "[metrics]\nport = 1\n": "unknown key"} {
		if _, err := read(metrics); fleet.CodeOf(err) != fleet.CodeConfig || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", metrics, err)
		}
	}
}
