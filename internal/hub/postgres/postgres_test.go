package postgres_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	cachepostgres "github.com/garrison-nix/garrison/internal/cache/postgres"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub/hubtest"
	hubpostgres "github.com/garrison-nix/garrison/internal/hub/postgres"
	"github.com/garrison-nix/garrison/internal/postgres"
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

func open(t *testing.T, c postgres.Config) hubtest.Kept {
	t.Helper()
	s, err := hubpostgres.Open(t.Context(), c, nil)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// admin runs a statement without the store.
func admin(t *testing.T, url, statement string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	must(t, err)
	_, err = c.Exec(t.Context(), statement)
	must(t, errors.Join(err, c.Close(t.Context())))
}

func TestStore(t *testing.T) { hubtest.Store(t, anew) }

func TestRollout(t *testing.T) { hubtest.Rollout(t, anew) }

// anew makes an empty database, and opens it as often as it was closed.
func anew(t *testing.T) func() hubtest.Kept {
	c := postgres.Config{URL: lab.PostgresURL(t)}
	return func() hubtest.Kept {
		s, err := hubpostgres.Open(t.Context(), c, nil)
		must(t, err)
		return s
	}
}

// TestOneAtATime: a second hub stands by until the first has ended, or lost its connection; what the first writes from then on is refused.
func TestOneAtATime(t *testing.T) {
	c := postgres.Config{URL: lab.PostgresURL(t)}
	first := open(t, c)
	put := func(s hubtest.Kept, host string) error {
		return s.PutStatus(t.Context(), fleet.Status{Schema: 1, Host: host, At: time.Now()})
	}
	must(t, put(first, "one"))
	waits := make(chan struct{})
	opened := make(chan hubtest.Kept)
	go func() {
		s, err := hubpostgres.Open(t.Context(), c, func() { close(waits) })
		if err != nil {
			t.Error(err)
		}
		opened <- s
	}()
	select {
	case <-waits:
	case <-opened:
		t.Fatal("two hubs have one database")
	}
	must(t, put(first, "two"))
	open(t, postgres.Config{URL: lab.PostgresURL(t)}) // another schema is another hub's
	admin(t, c.URL, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = 731086873
		AND objid = current_schema()::regnamespace::oid`)
	second := <-opened
	t.Cleanup(func() { must(t, second.Close()) })
	must(t, put(second, "three"))
	if err := put(first, "four"); fleet.CodeOf(err) != fleet.CodeStorage || !strings.Contains(err.Error(), "another hub has it") {
		t.Errorf("two hubs write: %v", err)
	}
	if list, err := second.Statuses(t.Context()); err != nil || len(list) != 3 {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestStandbyIsStopped: one that waits ends when it is to.
func TestStandbyIsStopped(t *testing.T) {
	c := postgres.Config{URL: lab.PostgresURL(t)}
	open(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := hubpostgres.Open(ctx, c, cancel); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestRestarted: a hub whose database was away goes on.
func TestRestarted(t *testing.T) {
	base := lab.PostgresURL(t)
	u, err := url.Parse(base)
	must(t, err)
	proxy := cachetest.NewProxy(t, u.Host)
	u.Host = proxy.Address
	s := open(t, postgres.Config{URL: u.String()})
	put := func() error { return s.PutStatus(t.Context(), fleet.Status{Schema: 1, Host: "h", At: time.Now()}) }
	must(t, put())
	proxy.Set(cachetest.Refusing)
	for _, f := range map[string]func() error{"written": put, "read": func() error { _, err := s.Statuses(t.Context()); return err }} {
		if err := f(); fleet.CodeOf(err) != fleet.CodeStorage {
			t.Error(err)
		}
	}
	proxy.Set(cachetest.Passing)
	for range 50 {
		if err = put(); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond) // until the server has seen that the connection with the lock is gone
	}
	must(t, err)
	if _, err := s.Statuses(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNewerSchemaIsLeftAlone(t *testing.T) {
	c := postgres.Config{URL: lab.PostgresURL(t)}
	s, err := hubpostgres.Open(t.Context(), c, nil)
	must(t, err)
	must(t, s.Close())
	admin(t, c.URL, `INSERT INTO hub_schema_version (version_id, is_applied) VALUES (999, true)`)
	if _, err := hubpostgres.Open(t.Context(), c, nil); fleet.CodeOf(err) != fleet.CodeStorage || !strings.Contains(err.Error(), "newer Garrison") {
		t.Error(err)
	}
}

// TestBesideACache: the hub's tables and its cache's may share a schema.
func TestBesideACache(t *testing.T) {
	c := postgres.Config{URL: lab.PostgresURL(t)}
	index, err := cachepostgres.Open(t.Context(), c)
	must(t, err)
	s := open(t, c)
	must(t, s.PutStatus(t.Context(), fleet.Status{Schema: 1, Host: "h", At: time.Now()}))
	_, err = index.Caches(t.Context())
	must(t, errors.Join(err, index.Close()))
}
