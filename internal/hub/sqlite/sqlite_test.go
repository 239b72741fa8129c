package sqlite

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/hubtest"
)

func open(t *testing.T, file string) *Store {
	t.Helper()
	s, err := Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStore(t *testing.T) {
	hubtest.Store(t, func(t *testing.T) (hub.Store, func() hub.Store) {
		file := filepath.Join(t.TempDir(), "a folder?", "hub.db")
		if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		return open(t, file), func() hub.Store { return open(t, file) }
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

func TestOldRunsGo(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "hub.db"))
	if _, err := s.db.Exec(`INSERT INTO runs (id, run) VALUES (1, '{}'), (?, '{}')`, runsKept); err != nil {
		t.Fatal(err)
	}
	id, err := s.PutRun(t.Context(), fleet.Run{})
	if err != nil || id != runsKept+1 {
		t.Fatal(id, err)
	}
	if list, err := s.Runs(t.Context(), 10); err != nil || len(list) != 2 {
		t.Errorf("%d runs are left, %v", len(list), err)
	}
}
