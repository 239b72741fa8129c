package sqlite_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/sqlite"
	"github.com/garrison-nix/garrison/internal/fleet"
)

func open(t *testing.T, file string) *sqlite.Index {
	t.Helper()
	x, err := sqlite.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

func TestIndex(t *testing.T) {
	cachetest.Index(t, func(t *testing.T) cache.Index { return open(t, filepath.Join(t.TempDir(), "index.sqlite")) })
}

func TestTwoProcessesAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "odd name?&#%.sqlite")
	a, b := open(t, file), open(t, file)
	c := cache.Cache{Name: "c", PublicKey: "c:key"}
	for _, x := range []*sqlite.Index{a, b, a} {
		if err := x.EnsureCache(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the database is not where it was asked for: %v", err)
	}
}

func TestDamagedDatabaseIsReported(t *testing.T) {
	file := filepath.Join(t.TempDir(), "index.sqlite")
	if err := os.WriteFile(file, []byte("this is not a database, and never was one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), file); fleet.CodeOf(err) != fleet.CodeState {
		t.Error(err)
	}
}
