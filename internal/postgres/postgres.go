// Package postgres is what all that is kept in PostgreSQL databases has in common: how they are reached, how their tables are brought up to date,
// and what is said when they do not answer. Start at Config and Name.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Name is that of a database and where it is, for errors.
type Name string

// NameOf is the name of what c connects to.
func NameOf(c *pgx.ConnConfig) Name { return Name(c.Database + " on " + c.Host) }

// Versions says which migrations were made.
type Versions struct {
	Table string
	Lock  string // key of an advisory lock: programs that start together wait for each other
}

// migrateTime bounds how long all migrations take.
const migrateTime = 15 * time.Minute

// Migrate brings the tables up to date while other programs that start wait. It needs two connections. Its errors are fleet.Errors.
func (n Name) Migrate(ctx context.Context, db *sql.DB, migrations fs.FS, v Versions) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTime)
	defer cancel()
	conn, err := db.Conn(ctx)
	if err != nil {
		return n.Failure(err, "be opened")
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock(`+v.Lock+`)`); err != nil {
		return n.Failure(err, "be locked")
	}
	err = n.migrateLocked(ctx, db, migrations, v.Table)
	if _, uerr := conn.ExecContext(ctx, `SELECT pg_advisory_unlock(`+v.Lock+`)`); uerr != nil {
		// Closing the connection unlocks, too.
		err = errors.Join(err, n.Failure(uerr, "be unlocked"), conn.Raw(func(c any) error { return c.(interface{ Close() error }).Close() }))
	}
	return err
}

func (n Name) migrateLocked(ctx context.Context, db *sql.DB, migrations fs.FS, table string) error {
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations, goose.WithDisableGlobalRegistry(true), goose.WithTableName(table))
	if err != nil {
		return err
	}
	have, know, err := p.GetVersions(ctx)
	if err != nil {
		return n.Failure(err, "say which schema it has")
	}
	if have > know {
		return fleet.Errorf(fleet.Local, fleet.CodeStorage, "database %s was made by a newer Garrison: its schema is %d, this program knows %d", n, have, know).
			WithHint("run that newer version, or restore a backup from before it")
	}
	_, err = p.Up(ctx)
	return n.Failure(err, "be migrated")
}

// Failure is err, which the database or the way to it made; nil for nil. An end of the caller's ctx stays what it is.
func (n Name) Failure(err error, what string) error {
	var known *fleet.Error
	if err == nil || errors.Is(err, context.Canceled) || errors.As(err, &known) {
		return err
	}
	e := fleet.Errorf(fleet.Transient, fleet.CodeStorage, "database %s cannot %s", n, what).WithCause(err)
	switch code := CodeOf(err); {
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

// CodeOf is PostgreSQL's code of an error; "" for one that it did not make.
func CodeOf(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
