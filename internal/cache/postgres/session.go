package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/garrison-nix/garrison/internal/postgres"
)

// Time limits: for what one request needs, and for what looks at everything.
const (
	shortTime = 30 * time.Second
	longTime  = 15 * time.Minute
)

// Keys of PostgreSQL's advisory locks.
const (
	lockMigration = "7310868735423016301"
	lockWrites    = "7310868735423016302" // see the package's comment
)

// how a transaction is begun. One whose server died in the middle must not hold the lock for long.
type mode string

const (
	begin = `BEGIN; SET LOCAL idle_in_transaction_session_timeout = '30s'; `

	adding  mode = begin + `SELECT pg_advisory_xact_lock_shared(` + lockWrites + `)`
	relaxed mode = begin + `SET LOCAL synchronous_commit = off; SELECT pg_advisory_xact_lock_shared(` + lockWrites + `)`
	alone   mode = begin + `SELECT pg_advisory_xact_lock(` + lockWrites + `)`
)

// querier is what asks: the pool, or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// session asks the database; its errors say which one.
type session struct {
	ctx context.Context
	x   *Index
	q   querier
}

// exec returns how many rows were written.
func (s *session) exec(sql string, args ...any) (int64, error) {
	tag, err := s.q.Exec(s.ctx, sql, args...)
	return tag.RowsAffected(), s.x.failure(err, "be written to")
}

// each calls f with every row, and ends with its first error.
func (s *session) each(f func(scan func(...any) error) error, sql string, args ...any) error {
	rows, err := s.q.Query(s.ctx, sql, args...)
	if err != nil {
		return s.x.failure(err, "be read")
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return s.x.failure(rows.Err(), "be read")
}

// one reads one row into dest; false if there is none.
func (s *session) one(dest []any, sql string, args ...any) (ok bool, err error) {
	err = s.each(func(scan func(...any) error) error {
		ok = true
		return scan(dest...)
	}, sql, args...)
	return ok && err == nil, err
}

// read runs f without a transaction: each statement sees one moment.
func (x *Index) read(ctx context.Context, limit time.Duration, f func(*session) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(&session{ctx, x, x.pool})
}

// all returns what scan makes of every row.
func all[T any](ctx context.Context, x *Index, scan func(scan func(...any) error) (T, error), sql string, args ...any) ([]T, error) {
	var list []T
	err := x.read(ctx, shortTime, func(s *session) error {
		return s.each(func(row func(...any) error) error {
			v, err := scan(row)
			list = append(list, v)
			return err
		}, sql, args...)
	})
	return list, err
}

const tries = 5

// write runs f in a transaction, again when the database undid it in favour of another.
func (x *Index) write(ctx context.Context, m mode, f func(*session) error) error {
	ctx, cancel := context.WithTimeout(ctx, shortTime)
	defer cancel()
	for try := 1; ; try++ {
		err := x.writeOnce(ctx, m, f)
		if err == nil || try == tries || !undone(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(time.Duration(rand.Int64N(int64(20 * time.Millisecond)))):
		}
	}
}

func (x *Index) writeOnce(ctx context.Context, m mode, f func(*session) error) error {
	tx, err := x.pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: string(m)})
	if err != nil {
		return x.failure(err, "be written to")
	}
	if err := f(&session{ctx, x, tx}); err != nil {
		return errors.Join(err, ignoreClosed(tx.Rollback(ctx)))
	}
	return x.failure(tx.Commit(ctx), "be written to")
}

// ignoreClosed is for a transaction that its connection took with it.
func ignoreClosed(err error) error {
	if errors.Is(err, pgx.ErrTxClosed) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}

// undone says whether the database refused a transaction that may succeed when tried again: a deadlock, or what
// it refers to went away.
func undone(err error) bool {
	switch postgres.CodeOf(err) {
	case "40001", "40P01", "23503":
		return true
	}
	return false
}
