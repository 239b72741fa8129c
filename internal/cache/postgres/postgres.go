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
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/garrison-nix/garrison/internal/fleet"
)

//go:embed migrations/*.sql
var migrations embed.FS

// versions is the table that says which migrations were made.
const versions = "cache_schema_version"

// Index is a cache.Index in a PostgreSQL database.
type Index struct {
	pool *pgxpool.Pool
	name string // of the database and where it is, for errors
}

// Open connects to the database and makes or migrates its tables as needed. Its errors are fleet.Errors.
func Open(ctx context.Context, c Config) (*Index, error) {
	config, err := c.pool()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	x := &Index{pool: pool, name: config.ConnConfig.Database + " on " + config.ConnConfig.Host}
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

// migrate brings the tables up to date while other servers that start wait.
func (x *Index) migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, longTime)
	defer cancel()
	conn, err := x.pool.Acquire(ctx)
	if err != nil {
		return x.failure(err, "be opened")
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(`+lockMigration+`)`); err != nil {
		return x.failure(err, "be locked")
	}
	err = x.migrateLocked(ctx)
	if _, uerr := conn.Exec(ctx, `SELECT pg_advisory_unlock(`+lockMigration+`)`); uerr != nil {
		err = errors.Join(err, x.failure(uerr, "be unlocked"), conn.Conn().Close(ctx)) // which unlocks, too
	}
	return err
}

func (x *Index) migrateLocked(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(x.pool)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithDisableGlobalRegistry(true), goose.WithTableName(versions))
	if err != nil {
		return err
	}
	have, know, err := p.GetVersions(ctx)
	if err != nil {
		return x.failure(err, "say which schema it has")
	}
	if have > know {
		return fleet.Errorf(fleet.Local, fleet.CodeStorage, "database %s was made by a newer Garrison: its schema is %d, this program knows %d", x.name, have, know).
			WithHint("run that newer version, or restore a backup from before it")
	}
	_, err = p.Up(ctx)
	return x.failure(err, "be migrated")
}

// failure is err, which the database or the way to it made; nil for nil. An end of the caller's ctx stays what it is.
func (x *Index) failure(err error, what string) error {
	var known *fleet.Error
	if err == nil || errors.Is(err, context.Canceled) || errors.As(err, &known) {
		return err
	}
	e := fleet.Errorf(fleet.Transient, fleet.CodeStorage, "database %s cannot %s", x.name, what).WithCause(err)
	switch code := codeOf(err); {
	case strings.HasPrefix(code, "28"):
		e.Class = fleet.Local
		return e.WithHint("check the user and password in the URL")
	case code == "3D000":
		e.Class = fleet.Local
		return e.WithHint("create the database, or correct its name in the URL")
	case code == "42501", code == "42P01", code == "3F000": // a schema that may not be used is as if it were not there
		e.Class = fleet.Local
		return e.WithHint("make the user the owner of the database, and of the schema that the tables are in")
	case code == "53100":
		return e.WithHint("the database's disk is full")
	}
	return e.WithHint("look whether PostgreSQL runs and can be reached from here")
}
