package sqlite

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub/hubtest"
)

func TestStore(t *testing.T) {
	hubtest.Store(t, func(t *testing.T) func() hubtest.Kept {
		file := filepath.Join(t.TempDir(), "a folder?", "hub.db")
		if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		return func() hubtest.Kept {
			s, err := Open(t.Context(), file)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

func TestDamagedDatabase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hub.db")
	if err := os.WriteFile(file, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), file); fleet.CodeOf(err) != fleet.CodeState || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
	if _, err := Open(t.Context(), filepath.Join(file, "hub.db")); fleet.CodeOf(err) != fleet.CodeState {
		t.Errorf("%v", err)
	}
}
