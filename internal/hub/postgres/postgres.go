// Package postgres keeps what the hub knows in a PostgreSQL database (hub.Store, notify.Store).
//
// One hub at a time has the database: the one connection that writes holds a lock as long as it lasts, so nothing is ever written by a hub that
// lost it. All of it can be lost, so nobody waits for the database's disk (synchronous_commit=off): a power cut there may
// take the last moments. What is in it: package tables.
package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub/tables"
	"github.com/garrison-nix/garrison/internal/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Keys of PostgreSQL's advisory locks. A hub's tables are in a schema, and so is its lock: the number of the schema is its second key.
const (
	lockMigration = "7310868735423016303"
	lockHub       = `pg_try_advisory_lock(731086873, current_schema()::regnamespace::oid::int)`
)

// errTaken says that another hub has the database.
var errTaken = errors.New("another hub has it")

const (
	mostWait  = time.Second           // between two looks whether another hub is gone
	leastWait = 20 * time.Millisecond // between the first ones: one that was just stopped may need a moment
)

// Open connects to the database and makes or migrates its tables as needed. While another hub has the database it waits for that to end,
// before anything is migrated; standby is called when that takes long. Its errors are fleet.Errors.
func Open(ctx context.Context, c postgres.Config, standby func()) (*tables.Store, error) {
	pool, err := c.Pool()
	if err != nil {
		return nil, err
	}
	name := postgres.NameOf(pool.ConnConfig)
	db := stdlib.OpenDB(*pool.ConnConfig, stdlib.OptionBeforeConnect(pool.BeforeConnect), stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		err := take(ctx, name, conn)
		if err != nil {
			err = errors.Join(err, conn.Close(ctx)) // nobody else does
		}
		return err
	}))
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	read := stdlib.OpenDB(*pool.ConnConfig, stdlib.OptionBeforeConnect(pool.BeforeConnect))
	read.SetMaxOpenConns(int(pool.MaxConns)) // while tables are migrated, two are needed
	read.SetMaxIdleConns(int(pool.MaxConns) - 1)
	if err := prepare(ctx, name, db, read, standby); err != nil {
		return nil, errors.Join(err, db.Close(), read.Close())
	}
	read.SetMaxOpenConns(int(pool.MaxConns) - 1)
	return tables.New(db, read, name.Failure)
}

// take has conn hold the lock. Where there is no schema to have tables in there is nothing to lock; migrating says what is wrong.
func take(ctx context.Context, name postgres.Name, conn *pgx.Conn) error {
	var got bool
	err := conn.QueryRow(ctx, `SELECT coalesce(`+lockHub+`, true), set_config('synchronous_commit', 'off', false)`).Scan(&got, nil)
	if err == nil && !got {
		err = fleet.Errorf(fleet.Transient, fleet.CodeStorage, "the hub cannot use the database %s", name).WithCause(errTaken).
			WithHint("one at a time may: stop the other, or leave it; this one goes on when that one has ended")
	}
	return err
}

// wait waits until db is this hub's.
func wait(ctx context.Context, name postgres.Name, db *sql.DB, standby func()) error {
	for pause := leastWait; ; pause = min(2*pause, mostWait) {
		err := db.PingContext(ctx)
		if !errors.Is(err, errTaken) {
			return name.Failure(err, "be opened")
		}
		if pause == mostWait && standby != nil {
			standby()
			standby = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func prepare(ctx context.Context, name postgres.Name, db, read *sql.DB, standby func()) error {
	if err := wait(ctx, name, db, standby); err != nil {
		return err
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	return name.Migrate(ctx, read, files, postgres.Versions{Table: "hub_schema_version", Lock: lockMigration})
}
