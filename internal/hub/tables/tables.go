// Package tables is the hub's store (hub.Store, notify.Store) in the tables of a SQL database, the same for every kind of database that
// package database/sql has a driver for: how one is opened and its tables made is in the packages beside this one.
//
// One hub writes, and one at a time in it: what several want to write at the same moment goes into one transaction. So the order of
// what is kept is the order in which it can be seen. Readers never wait for writers. Start at New and Store.write.
package tables

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"sync"
	"time"
)

// Store is a hub.Store and a notify.Store.
type Store struct {
	db, read *sql.DB
	failure  func(err error, what string) error
	docs     *docs
	writes   chan *write
	closing  chan struct{}
	ended    sync.WaitGroup
	hot      map[string]*sql.Stmt // of db, by their text: databases take longer to parse a statement than to do it
	asked    sync.Map             // of read, likewise
}

// New makes a store in a database that has the tables. It writes through db, and reads through read, which may be the same; Close closes
// both. failure makes a fleet.Error of what the database answers ("cannot " + what); it keeps nil, and what is no word of the database.
func New(db, read *sql.DB, failure func(err error, what string) error) (*Store, error) {
	d, err := newDocs()
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, read: read, failure: failure, docs: d, writes: make(chan *write), closing: make(chan struct{}), hot: map[string]*sql.Stmt{}}
	s.ended.Go(s.writer)
	return s, nil
}

// Close waits for what is being written, and closes the database. It is called once.
func (s *Store) Close() error {
	close(s.closing)
	s.ended.Wait()
	var errs []error
	for _, stmt := range s.hot {
		errs = append(errs, stmt.Close())
	}
	s.asked.Range(func(_, stmt any) bool {
		errs = append(errs, stmt.(*sql.Stmt).Close())
		return true
	})
	if s.read != s.db {
		errs = append(errs, s.read.Close())
	}
	return errors.Join(append(errs, s.db.Close())...)
}

const (
	mostTogether = 256 // writes, in one transaction
	writeTime    = 30 * time.Second
)

// write is something to be done in a transaction.
type write struct {
	ctx  context.Context
	do   func(*tx) error // may be called again, in another transaction
	done chan error
}

var errClosed = errors.New("the store is closed")

// write runs do in a transaction, which may be one with other writes; all that do did is kept, or nothing.
func (s *Store) write(ctx context.Context, do func(*tx) error) error {
	w := &write{ctx: ctx, do: do, done: make(chan error, 1)}
	select {
	case s.writes <- w:
		return <-w.done
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return errClosed
	}
}

// writer does what write is asked for.
func (s *Store) writer() {
	for {
		select {
		case w := <-s.writes:
			s.together(s.waiting(w))
		case <-s.closing:
			return
		}
	}
}

// waiting are w and those that wait now.
func (s *Store) waiting(w *write) []*write {
	all := []*write{w}
	for len(all) < mostTogether {
		select {
		case w := <-s.writes:
			all = append(all, w)
		default:
			return all
		}
	}
	return all
}

// together does all in one transaction; where one fails, each in one of its own, so that it fails alone.
func (s *Store) together(all []*write) {
	if len(all) > 1 {
		failed, err := s.transact(all)
		if failed == nil {
			for _, w := range all {
				w.done <- err
			}
			return
		}
	}
	var broken error // the database, not what one of them wanted: the others need not find out for themselves
	for _, w := range all {
		if broken != nil {
			w.done <- broken
			continue
		}
		failed, err := s.transact([]*write{w})
		if failed == nil {
			broken = err
		}
		w.done <- err
	}
}

// transact does all in one transaction, or nothing. When that is for one of them, failed is that one.
func (s *Store) transact(all []*write) (failed *write, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), writeTime)
	defer cancel()
	t, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, s.failure(err, "be written to")
	}
	x := &tx{ctx: ctx, t: t, s: s, fresh: map[string]bool{}}
	for _, w := range all {
		if err = w.ctx.Err(); err == nil {
			err = w.do(x)
		}
		if err != nil {
			return w, errors.Join(err, undo(t))
		}
	}
	err = s.failure(t.Commit(), "be written to")
	for q := range maps.Keys(x.fresh) {
		if stmt, err := s.db.PrepareContext(ctx, q); err == nil { // else it is tried again, and done unprepared
			s.hot[q] = stmt
		}
	}
	return nil, err
}

// undo rolls back; a transaction that its connection took with it is gone.
func undo(t *sql.Tx) error {
	if err := t.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return err
	}
	return nil
}

// tx is a transaction.
type tx struct {
	ctx   context.Context
	t     *sql.Tx
	s     *Store
	fresh map[string]bool // statements that are not prepared
}

func (x *tx) prepared(q string) *sql.Stmt {
	if stmt := x.s.hot[q]; stmt != nil {
		return x.t.StmtContext(x.ctx, stmt)
	}
	x.fresh[q] = true
	return nil
}

// exec returns how many rows were written.
func (x *tx) exec(q string, args ...any) (n int64, err error) {
	var res sql.Result
	if stmt := x.prepared(q); stmt != nil {
		res, err = stmt.ExecContext(x.ctx, args...)
	} else {
		res, err = x.t.ExecContext(x.ctx, q, args...)
	}
	if err == nil {
		n, err = res.RowsAffected()
	}
	return n, x.s.failure(err, "be written to")
}

// one reads one row into dest; false if there is none.
func (x *tx) one(dest []any, q string, args ...any) (bool, error) {
	var row *sql.Row
	if stmt := x.prepared(q); stmt != nil {
		row = stmt.QueryRowContext(x.ctx, args...)
	} else {
		row = x.t.QueryRowContext(x.ctx, q, args...)
	}
	err := row.Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, x.s.failure(err, "be written to")
}

// prepared is a question that is prepared once. There are few: texts of this package, of which one is made of parts, in order.
func (s *Store) prepared(ctx context.Context, q string) (*sql.Stmt, error) {
	if stmt, ok := s.asked.Load(q); ok {
		return stmt.(*sql.Stmt), nil
	}
	stmt, err := s.read.PrepareContext(ctx, q)
	if err != nil {
		return nil, err
	}
	if first, known := s.asked.LoadOrStore(q, stmt); known {
		return first.(*sql.Stmt), stmt.Close()
	}
	return stmt, nil
}

// each calls f with every row.
func (s *Store) each(ctx context.Context, f func(scan func(...any) error) error, q string, args ...any) error {
	stmt, err := s.prepared(ctx, q)
	if err != nil {
		return s.failure(err, "be read")
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return s.failure(err, "be read")
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return s.failure(err, "be read")
		}
	}
	return s.failure(rows.Err(), "be read")
}

// list reads one column of documents.
func list[T any](ctx context.Context, s *Store, q string, args ...any) ([]T, error) {
	all := []T{}
	err := s.each(ctx, func(scan func(...any) error) error {
		var doc []byte
		var v T
		err := scan(&doc)
		if err == nil {
			err = s.docs.unpack(doc, &v)
		}
		all = append(all, v)
		return err
	}, q, args...)
	return all, err
}

// first is the only one of a list that may be empty.
func first[T any](list []T, err error) (v T, found bool, _ error) {
	if err != nil || len(list) == 0 {
		return v, false, err
	}
	return list[0], true, nil
}
