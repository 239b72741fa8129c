// Package sqlite keeps a cache's index in a SQLite database (cache.Index).
//
// Two connections write, one at a time under a lock of this package. Paths are
// written with synchronous=FULL: a push that was answered survives a power cut.
// New archives are written with synchronous=NORMAL, without a sync of their own:
// the log that SQLite writes ahead is in order, so the sync of the path that
// follows covers them, and an archive without a path is worth nothing.
// Readers never wait for writers.
//
// The schema is in migrations/; Open brings an older database up to date.
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
	"sync"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/garrison-nix/garrison/internal/fleet"
)

//go:embed migrations/*.sql
var migrations embed.FS

// readers is the number of connections that only read.
const readers = 4

// mapped has readers map the file: reading its pages one by one is most of what a question after many paths takes. What it costs: docs/decisions/0011.
const mapped = "mmap_size(268435456)"

// Index is a cache.Index in a SQLite database.
type Index struct {
	mu      sync.Mutex // held by whoever writes
	durable *sql.DB    // one connection, synchronous=FULL
	relaxed *sql.DB    // one connection, synchronous=NORMAL
	read    *sql.DB
	hot     map[string]*sql.Stmt // of read: SQLite takes longer to parse a question than to answer it
}

// Open opens the database in file, making or migrating it as needed. Its
// errors are of class fleet.Local and code fleet.CodeState.
func Open(ctx context.Context, file string) (*Index, error) {
	x := &Index{}
	if err := x.open(ctx, file); err != nil {
		err = errors.Join(err, x.Close())
		return nil, fleet.Errorf(fleet.Local, fleet.CodeState, "the cache's index %s cannot be opened", file).WithCause(err).
			WithHint("check the file's owner and free space; a damaged index can be removed, and what hosts need be pushed again")
	}
	return x, nil
}

func (x *Index) open(ctx context.Context, file string) (err error) {
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	if x.durable, err = connect(file, 1, "synchronous(FULL)"); err != nil {
		return err
	}
	if err := migrate(ctx, x.durable); err != nil {
		return err
	}
	if x.relaxed, err = connect(file, 1, "synchronous(NORMAL)"); err != nil {
		return err
	}
	if x.read, err = connect(file, readers, "query_only(1)", mapped); err != nil {
		return err
	}
	x.hot = map[string]*sql.Stmt{}
	for _, q := range []string{narQuery, narOfQuery, narsForQuery, lookupQuery, presentQuery} {
		if x.hot[q], err = x.read.PrepareContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

func connect(file string, connections int, pragmas ...string) (*sql.DB, error) {
	q := url.Values{"_txlock": {"immediate"}}
	for _, p := range append([]string{"busy_timeout(10000)", "journal_mode(WAL)", "foreign_keys(1)"}, pragmas...) {
		q.Add("_pragma", p)
	}
	u := url.URL{Scheme: "file", Path: file, RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
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
		return fmt.Errorf("it was made by a newer Garrison: its schema is %d, this program knows %d", have, know)
	}
	_, err = p.Up(ctx)
	return err
}

// Close closes the database.
func (x *Index) Close() error {
	var errs []error
	for _, stmt := range x.hot {
		if stmt != nil {
			errs = append(errs, stmt.Close())
		}
	}
	for _, db := range []*sql.DB{x.read, x.relaxed, x.durable} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// write runs f in a transaction on db, alone.
func (x *Index) write(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin to write to the index: %w", err)
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("write to the index: %w", err)
	}
	return nil
}

// query returns what each makes of every row; what says what was to be read.
func query[T any](ctx context.Context, x *Index, what, q string, scan func(*sql.Rows) (T, error), args ...any) ([]T, error) {
	var all []T
	err := x.each(ctx, what, q, func(rows *sql.Rows) error {
		v, err := scan(rows)
		all = append(all, v)
		return err
	}, args...)
	return all, err
}

// each calls f with every row.
func (x *Index) each(ctx context.Context, what, q string, f func(*sql.Rows) error, args ...any) (err error) {
	var rows *sql.Rows
	if stmt := x.hot[q]; stmt != nil {
		rows, err = stmt.QueryContext(ctx, args...)
	} else {
		rows, err = x.read.QueryContext(ctx, q, args...)
	}
	if err != nil {
		return fmt.Errorf("read %s in the index: %w", what, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read %s in the index: %w", what, err)
	}
	return nil
}

// found turns the result of a query for one row into an answer.
func found(err error) (bool, error) {
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the index: %w", err)
	}
	return true, nil
}
