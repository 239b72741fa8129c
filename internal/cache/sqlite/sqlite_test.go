package sqlite_test

import (
	"crypto/sha256"
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	"github.com/pressly/goose/v3"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/sqlite"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
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

// TestOldDatabase opens one of the first schema, with a path in it.
func TestOldDatabase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "index.sqlite")
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("migrations"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	const glibc, curl = "00000000000000000000000000000000", "11111111111111111111111111111111"
	content := nar.Hash(sha256.Sum256([]byte("content")))
	if _, err := db.Exec(`
		INSERT INTO caches VALUES (7, 'c', 'c:key', 1);
		INSERT INTO nars VALUES (3, ?1, 10, ?1, 5, 1);
		INSERT INTO paths VALUES (7, ?2, '/nix/store/' || ?2 || '-glibc', 3, CAST('its narinfo' AS BLOB), 1)`, content[:], glibc); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	x := open(t, file)
	if err := x.EnsureCache(t.Context(), cache.Cache{Name: "c", PublicKey: "c:key"}); err != nil {
		t.Fatal(err)
	}
	old := cache.Nar{NarHash: content, NarSize: 10, FileHash: content, FileSize: 5}
	if got, n, ok, err := x.Path(t.Context(), "c", glibc); err != nil || !ok || n != old || string(got.NarInfo) != "its narinfo" {
		t.Errorf("%+v, %+v, %v, %v", got, n, ok, err)
	}
	up := cache.Path{Cache: "c", StorePath: "/nix/store/" + curl + "-curl", References: []string{"/nix/store/" + glibc + "-glibc"}, NarInfo: []byte("x")}
	if err := x.PutUpstream(t.Context(), up, "up:key"); err != nil {
		t.Fatal(err)
	}
	got, err := x.Lookup(t.Context(), "c", []string{glibc, curl})
	if err != nil || got[glibc].Nar != old || got[curl].Upstream != "up:key" {
		t.Errorf("%+v, %v", got, err)
	}
}
