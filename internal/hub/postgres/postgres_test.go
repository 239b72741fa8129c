package postgres_test

import (
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/hub/hubtest"
	hubpostgres "github.com/garrison-nix/garrison/internal/hub/postgres"
	"github.com/garrison-nix/garrison/internal/postgres"
)

var lab cachetest.Lab

func TestMain(m *testing.M) {
	defer lab.Stop()
	m.Run()
}

func open(t *testing.T, c postgres.Config) hubtest.Kept {
	t.Helper()
	s, err := hubpostgres.Open(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	hubtest.Store(t, func(t *testing.T) func() hubtest.Kept {
		c := postgres.Config{URL: lab.PostgresURL(t)}
		return func() hubtest.Kept { return open(t, c) }
	})
}
