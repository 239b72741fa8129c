package postgres_test

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/postgres"
	"github.com/garrison-nix/garrison/internal/fleet"
	pg "github.com/garrison-nix/garrison/internal/postgres"
)

var lab cachetest.Lab

func TestMain(m *testing.M) {
	defer lab.Stop()
	m.Run()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, c pg.Config) *postgres.Index {
	t.Helper()
	x, err := postgres.Open(t.Context(), c)
	must(t, err)
	t.Cleanup(func() { must(t, x.Close()) })
	return x
}

// admin runs statements without the index.
func admin(t *testing.T, url string, statements ...string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	must(t, err)
	for _, s := range statements {
		if _, err := c.Exec(t.Context(), s); err != nil {
			t.Fatal(s, err)
		}
	}
	must(t, c.Close(t.Context()))
}

func TestIndex(t *testing.T) {
	cachetest.Index(t, func(t *testing.T) cache.Index { return open(t, pg.Config{URL: lab.PostgresURL(t)}) })
}

// TestStartedTogether: servers that start at once with an empty database make its tables once.
func TestStartedTogether(t *testing.T) {
	c := pg.Config{URL: lab.PostgresURL(t), MaxConnections: 1}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			x, err := postgres.Open(t.Context(), c)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := x.Caches(t.Context()); err != nil {
				t.Error(err)
			}
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestNewerSchemaIsLeftAlone(t *testing.T) {
	c := pg.Config{URL: lab.PostgresURL(t)}
	must(t, open(t, c).CreateCache(t.Context(), cache.Cache{Name: "c"}))
	admin(t, c.URL, `INSERT INTO cache_schema_version (version_id, is_applied) VALUES (999, true)`)
	_, err := postgres.Open(t.Context(), c)
	if fleet.CodeOf(err) != fleet.CodeStorage || !strings.Contains(err.Error(), "newer Garrison") {
		t.Error(err)
	}
}

// TestWalkersLeaveConnections for requests: as many as there are, but for their own.
func TestWalkersLeaveConnections(t *testing.T) {
	x := open(t, pg.Config{URL: lab.PostgresURL(t), MaxConnections: 2})
	must(t, x.CreateCache(t.Context(), cache.Cache{Name: "c"}))
	if _, err := x.PutPaths(t.Context(), []cache.NewPath{{Path: cache.Path{Cache: "c", StorePath: "/nix/store/00000000000000000000000000000000-x", Upstream: "up:key", NarInfo: []byte("x")}}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	must(t, x.Walk(t.Context(), "c", func(cache.Record) error {
		for range 5 { // one connection walks, the other does all else
			if err := x.PutPin(t.Context(), "c", cache.Pin{Name: "p"}); err != nil {
				return err
			}
			if _, err := x.Lookup(t.Context(), "c", []string{"00000000000000000000000000000000"}); err != nil {
				return err
			}
		}
		return nil
	}))
}

func TestErrorsSayWhatToDo(t *testing.T) {
	good := lab.PostgresURL(t)
	u, err := url.Parse(good)
	must(t, err)
	secret := "hunter2"
	for want, c := range map[string]pg.Config{
		"either url or urlFile":   {},
		"not what PostgreSQL can": {URL: "postgres://me:" + secret + "@host:notaport/db"},
		"cannot be read":          {URLFile: filepath.Join(t.TempDir(), "none")},
		"create the database":     {URL: strings.Replace(good, "/postgres?", "/none?", 1)},
		"user and password":       {URL: strings.Replace(good, "postgres@", "nobody-such:"+secret+"@", 1)},
		"PostgreSQL runs":         {URL: strings.Replace(good, u.Host, "127.0.0.1:1", 1)},
		"the owner of":            {URL: strings.Replace(good, "postgres@", "stranger@", 1)},
	} {
		if want == "the owner of" {
			admin(t, good, "CREATE ROLE stranger LOGIN")
		}
		_, err := postgres.Open(t.Context(), c)
		var e *fleet.Error
		if !errors.As(err, &e) || !strings.Contains(e.What+" "+e.Hint, want) {
			t.Errorf("%s: %v", want, err)
			continue
		}
		if strings.Contains(e.Error()+e.Hint, secret) {
			t.Errorf("the password is shown: %v", err)
		}
	}
}

// TestURLIsReadAgain: a user that is replaced in the file replaces the one that connections were made with.
func TestURLIsReadAgain(t *testing.T) {
	base := lab.PostgresURL(t)
	for _, role := range []string{"first", "second"} {
		admin(t, base, "CREATE ROLE "+role+" LOGIN SUPERUSER")
	}
	file := filepath.Join(t.TempDir(), "url")
	write := func(user string) {
		must(t, os.WriteFile(file, []byte(strings.Replace(base, "postgres@", user+"@", 1)+"\n"), 0o600))
	}
	write("first")
	x := open(t, pg.Config{URLFile: file})
	must(t, x.CreateCache(t.Context(), cache.Cache{Name: "c"}))
	write("second")
	admin(t, base, "ALTER ROLE first NOLOGIN", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'first'")
	var err error
	for try := range 5 { // each may meet a connection that was just ended
		if _, err = x.Caches(t.Context()); err == nil {
			break
		}
		t.Logf("try %d: %v", try, err)
	}
	must(t, err)
	must(t, os.Remove(file))
	if _, err := x.Caches(t.Context()); err != nil {
		t.Errorf("while there is no file: %v", err)
	}
}
