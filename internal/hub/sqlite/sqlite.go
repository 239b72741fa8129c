// Package sqlite keeps what the hub knows in a SQLite database (hub.Store).
//
// All of it can be lost, so writes are synced by the log alone
// (synchronous=NORMAL): a power cut may take the last moments, never the database. What is in it: package tables.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"io/fs"
	"net/url"
	"path/filepath"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub/tables"
)

//go:embed migrations/*.sql
var migrations embed.FS

// readers is the number of connections that only read.
const readers = 4

// Open opens the database in file, making or migrating it as needed. Its errors have CodeState.
func Open(ctx context.Context, file string) (*tables.Store, error) {
	s, err := open(ctx, file)
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeState, "the hub's database %s cannot be opened", file).WithCause(err).
			WithHint("check its owner and free space; a damaged one can be removed, the hosts report again")
	}
	return s, nil
}

func open(ctx context.Context, file string) (_ *tables.Store, err error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	db, err := connect(path, 1, "journal_mode(WAL)", "synchronous(NORMAL)")
	if err != nil {
		return nil, err
	}
	read, err := connect(path, readers, "query_only(1)")
	if err == nil {
		err = migrate(ctx, db)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close(), read.Close())
	}
	return tables.New(db, read, failures(file))
}

func connect(path string, most int, pragmas ...string) (*sql.DB, error) {
	q := url.Values{"_txlock": {"immediate"}, "_pragma": append([]string{"busy_timeout(10000)"}, pragmas...)}
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(most)
	db.SetMaxIdleConns(most)
	return db, nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	have, know, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if have > know {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "it was made by a newer Garrison: its schema is %d, this program knows %d", have, know)
	}
	_, err = p.Up(ctx)
	return err
}

// failures says what is wrong with the database in file.
func failures(file string) func(error, string) error {
	return func(err error, what string) error {
		var known *fleet.Error
		if err == nil || errors.Is(err, context.Canceled) || errors.As(err, &known) {
			return err
		}
		return fleet.Errorf(fleet.Local, fleet.CodeState, "the hub's database %s cannot %s", file, what).WithCause(err).
			WithHint("check its owner and free space")
	}
}
