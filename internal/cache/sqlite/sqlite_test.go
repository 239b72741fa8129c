package sqlite_test

import (
	"crypto/sha256"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

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
	for name, x := range map[string]*sqlite.Index{"a": a, "b": b} {
		if err := x.CreateCache(t.Context(), cache.Cache{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := a.Caches(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
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

func TestNewerDatabaseIsLeftAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "index.sqlite")
	open(t, file)
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), file); fleet.CodeOf(err) != fleet.CodeState || !strings.Contains(err.Error(), "newer Garrison") {
		t.Error(err)
	}
}

// TestOldDatabases opens one of each schema that was released before this one, with something in it.
func TestOldDatabases(t *testing.T) {
	const glibc, curl = "00000000000000000000000000000000", "11111111111111111111111111111111"
	key, err := nar.GenerateKey("c-1")
	if err != nil {
		t.Fatal(err)
	}
	content := nar.Hash(sha256.Sum256([]byte("content")))
	const path = `INSERT INTO paths VALUES (7, ?2, '/nix/store/' || ?2 || '-glibc', 3, CAST('its narinfo' AS BLOB), 1)`
	fill := []string{`INSERT INTO caches VALUES (7, 'c', ?3, 1)`, `INSERT INTO nars VALUES (3, ?1, 10, ?1, 5, 1)`, path}
	old := map[int64][]string{
		1: nil,
		2: {`INSERT INTO upstream_paths VALUES (7, ?4, '/nix/store/' || ?4 || '-curl', 'up:key', CAST('x' AS BLOB), 1)`},
	}
	if schemas, err := filepath.Glob("migrations/*.sql"); err != nil || len(schemas) != len(old)+1 {
		t.Errorf("there are %d schemas, and %d older ones are tested, %v", len(schemas), len(old), err)
	}
	for version, more := range old {
		file := filepath.Join(t.TempDir(), "index.sqlite")
		db, err := sql.Open("sqlite", file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("migrations"), goose.WithDisableGlobalRegistry(true))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.UpTo(t.Context(), version); err != nil {
			t.Fatal(err)
		}
		for _, q := range append(fill, more...) {
			args := []any{content[:], glibc, key.Public().String(), curl}
			if _, err := db.Exec(q, args[:most(q)]...); err != nil {
				t.Fatal(q, err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}

		x := open(t, file)
		all, err := x.Caches(t.Context())
		if err != nil || len(all) != 1 || all[0].Keys[0].String() != key.Public().String() || all[0].Keys[0].Private != nil || !all[0].Public {
			t.Errorf("schema %d: %+v, %v", version, all, err)
		}
		got, err := x.Lookup(t.Context(), "c", []string{glibc, curl})
		want := cache.Nar{NarHash: content, NarSize: 10, FileHash: content, FileSize: 5, Blob: content.Nix32() + ".nar.zst"}
		if err != nil || got[glibc].Nar != want || string(got[glibc].NarInfo) != "its narinfo" || (got[curl].Upstream == "up:key") != (version > 1) {
			t.Errorf("schema %d: %+v, %v", version, got, err)
		}
		now := time.Now()
		if _, err := x.DeletePaths(t.Context(), "c", map[string]time.Time{glibc: got[glibc].UsedAt}, now); err != nil {
			t.Fatal(err)
		}
		if blobs, err := x.Expire(t.Context(), now.Add(time.Second)); err != nil || !slices.Equal(blobs, []string{want.Blob}) {
			t.Errorf("schema %d: an old archive expires as %q, %v", version, blobs, err)
		}
	}
}

// most is the highest number of a parameter of q.
func most(q string) (n int) {
	for i := range 9 {
		if strings.Contains(q, "?"+strconv.Itoa(i)) {
			n = i
		}
	}
	return n
}
