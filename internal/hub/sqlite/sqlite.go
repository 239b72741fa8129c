// Package sqlite keeps what the hub knows in a SQLite database (hub.Store).
//
// All of it can be lost, so writes are synced by the log alone
// (synchronous=NORMAL): a power cut may take the last moments, never the database.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/garrison-nix/garrison/internal/fleet"
)

//go:embed migrations/*.sql
var migrations embed.FS

// runsKept bounds the table of runs.
const runsKept = 10_000

// Store is a hub.Store in a SQLite database.
type Store struct{ db *sql.DB }

// Open opens the database in file, making or migrating it as needed. Its errors have CodeState.
func Open(ctx context.Context, file string) (*Store, error) {
	s := &Store{}
	if err := s.open(ctx, file); err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeState, "the hub's database %s cannot be opened", file).WithCause(errors.Join(err, s.Close())).
			WithHint("check its owner and free space; a damaged one can be removed, the hosts report again")
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	q := url.Values{"_txlock": {"immediate"}, "_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(NORMAL)"}}
	u := url.URL{Scheme: "file", Path: file, RawQuery: q.Encode()}
	if s.db, err = sql.Open("sqlite", u.String()); err != nil {
		return err
	}
	s.db.SetMaxOpenConns(1)
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// Close closes the database.
func (s *Store) Close() error {
	if s.db == nil {
		return nil
	}
	return s.db.Close()
}

// PutStatus implements hub.Store.
func (s *Store) PutStatus(ctx context.Context, st fleet.Status) error {
	doc, err := json.Marshal(st)
	if err != nil {
		return err
	}
	_, err = s.db.ExecContext(ctx, `INSERT INTO hosts (name, at, status) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET at = excluded.at, status = excluded.status WHERE excluded.at >= hosts.at`,
		st.Host, st.At.UnixMilli(), string(doc))
	return err
}

// Statuses implements hub.Store.
func (s *Store) Statuses(ctx context.Context) ([]fleet.Status, error) {
	return query[fleet.Status](ctx, s.db, `SELECT status FROM hosts ORDER BY name`)
}

// PutRun implements hub.Store.
func (s *Store) PutRun(ctx context.Context, r fleet.Run) (int64, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() // does nothing once it is committed
	if r.ID == 0 {
		res, err := tx.ExecContext(ctx, `INSERT INTO runs (run) VALUES ('')`)
		if err != nil {
			return 0, err
		}
		if r.ID, err = res.LastInsertId(); err != nil {
			return 0, err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM runs WHERE id <= ?`, r.ID-runsKept); err != nil {
			return 0, err
		}
	}
	doc, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	res, err := tx.ExecContext(ctx, `UPDATE runs SET run = ? WHERE id = ?`, string(doc), r.ID)
	if err != nil {
		return 0, err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return 0, errors.Join(err, fmt.Errorf("there is no run %d", r.ID))
	}
	return r.ID, tx.Commit()
}

// Runs implements hub.Store.
func (s *Store) Runs(ctx context.Context, most int) ([]fleet.Run, error) {
	return query[fleet.Run](ctx, s.db, `SELECT run FROM runs ORDER BY id DESC LIMIT ?`, most)
}

// query reads one column of JSON documents.
func query[T any](ctx context.Context, db *sql.DB, q string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []T{}
	for rows.Next() {
		var doc string
		if err := rows.Scan(&doc); err != nil {
			return nil, err
		}
		var v T
		if err := json.Unmarshal([]byte(doc), &v); err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}
