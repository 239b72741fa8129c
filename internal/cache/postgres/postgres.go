// Package postgres keeps a cache's index in a PostgreSQL database (cache.Index), which any number of servers share.
//
// What is read is read from one statement's snapshot. What is written is written under a lock of the whole index: shared by
// whoever adds or touches, alone for whoever deletes; so nothing is deleted that an addition relies on that is under way.
// A connection is only held for a statement or a transaction, never while a client is waited for; but for Walk and Nars, whose callers compute.
// New archives, touches and upstream paths are written without waiting for the disk: the log is in order, so the commit of the
// path that follows covers them.
//
// The schema is in migrations/; Open brings an older database up to date, one server at a time. Start at Open, then session.go and paths.go.
package postgres

import (
	"context"
	"embed"
	"errors"
	"io/fs"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/garrison-nix/garrison/internal/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Index is a cache.Index in a PostgreSQL database.
type Index struct {
	pool *pgxpool.Pool
	name postgres.Name
}

// Open connects to the database and makes or migrates its tables as needed. Its errors are fleet.Errors.
func Open(ctx context.Context, c postgres.Config) (*Index, error) {
	config, err := c.Pool()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	x := &Index{pool: pool, name: postgres.NameOf(config.ConnConfig)}
	if err := x.migrate(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return x, nil
}

// Close closes all connections, once those in use are given back.
func (x *Index) Close() error {
	x.pool.Close()
	return nil
}

func (x *Index) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(x.pool)
	return errors.Join(x.name.Migrate(ctx, db, files, postgres.Versions{Table: "cache_schema_version", Lock: lockMigration}), db.Close())
}

func (x *Index) failure(err error, what string) error { return x.name.Failure(err, what) }
