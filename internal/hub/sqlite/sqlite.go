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
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite" // the driver "sqlite", too
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub/tables"
)

//go:embed migrations/*.sql
var migrations embed.FS

// readers is the number of connections that only read.
const readers = 4

// busyTime is how long another program's lock is waited for.
const busyTime = 10 * time.Second

// Open opens the database in file, making or migrating it as needed. Its errors have CodeState.
func Open(ctx context.Context, file string) (*tables.Store, error) {
	s, err := open(ctx, file, busyTime)
	if err != nil {
		return nil, failures(file)(err, "be opened")
	}
	return s, nil
}

func open(ctx context.Context, file string, busy time.Duration) (_ *tables.Store, err error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	db, err := connect(path, 1, busy, "journal_mode(WAL)", "synchronous(NORMAL)")
	if err != nil {
		return nil, err
	}
	read, err := connect(path, readers, busy, "query_only(1)")
	if err == nil {
		err = migrate(ctx, db, file)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close(), read.Close())
	}
	return tables.New(db, read, failures(file))
}

func connect(path string, most int, busy time.Duration, pragmas ...string) (*sql.DB, error) {
	q := url.Values{"_txlock": {"immediate"}, "_pragma": append([]string{fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds())}, pragmas...)}
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(most)
	db.SetMaxIdleConns(most)
	return db, nil
}

func migrate(ctx context.Context, db *sql.DB, file string) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	// goose takes a damaged table for none, and would make it.
	if _, err := db.ExecContext(ctx, `SELECT count(*) FROM goose_db_version`); codeOf(err) == sqlite3.SQLITE_CORRUPT {
		return err
	}
	have, know, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if have > know {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "the hub's database %s was made by a newer Garrison: its schema is %d, this program knows %d", file, have, know).
			WithHint("run that newer version, or restore a backup from before it")
	}
	_, err = p.Up(ctx)
	return err
}

// failures says what is wrong with the database in file, and what to do.
func failures(file string) func(error, string) error {
	return func(err error, what string) error {
		var known *fleet.Error
		if err == nil || errors.Is(err, context.Canceled) || errors.As(err, &known) {
			return err
		}
		e := fleet.Errorf(fleet.Local, fleet.CodeState, "the hub's database %s cannot %s", file, what).WithCause(err)
		switch codeOf(err) {
		case sqlite3.SQLITE_FULL:
			return e.WithHint("the disk is full: make space there; hosts tell again what was not kept")
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			e.Class = fleet.Transient
			return e.WithHint("another program has it locked: end that one (fuser %s)", file)
		case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH:
			return e.WithHint("the hub must be able to write it and the folder that it is in: check owner, mode, and whether the file system is mounted for writing")
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return e.WithHint("it is damaged: stop the hub, move it and what is named like it away, start the hub; hosts tell again what they know")
		}
		return e.WithHint("check the disk, and the file's owner")
	}
}

// codeOf is SQLite's code of an error, without what tells more of the same; 0 for one that it did not make.
func codeOf(err error) int {
	var said *sqlite.Error
	if !errors.As(err, &said) {
		return 0
	}
	return said.Code() & 0xff
}
