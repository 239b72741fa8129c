package cachetest

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/nar"
)

// Row is a path with an archive of its own.
type Row struct {
	Nar  cache.Nar
	Path cache.Path
	At   int64 // when it came and was last used
}

var (
	narColumns  = []string{"nar_hash", "nar_size", "file_hash", "file_size", "stored_at", "blob"}
	pathColumns = []string{"cache_id", "hash_part", "store_path", "nar_id", "upstream", "narinfo", "created_at", "used_at"}
)

func (r Row) nar() []any {
	n := r.Nar
	return []any{n.NarHash[:], n.NarSize, n.FileHash[:], n.FileSize, r.At, n.Blob}
}

// path is the ith row of the table of paths, of the first cache.
func (r Row) path(i int) ([]any, error) {
	h, err := nar.HashPart(r.Path.StorePath)
	if err != nil {
		return nil, fmt.Errorf("row %d: %w", i, err)
	}
	return []any{1, h, r.Path.StorePath, i + 1, "", r.Path.NarInfo, r.At, r.At}, nil
}

// Fill writes n paths into an index that has a cache and nothing else, past the protocol: a million of them in a minute. row may be called several times.
func (s *Storage) Fill(t testing.TB, n int, row func(i int) Row) {
	t.Helper()
	if s.Dir == "" {
		s.fillPostgres(t, n, row)
		return
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.Dir, "index.sqlite")+"?_pragma=synchronous(OFF)")
	must(t, err)
	tx, err := db.BeginTx(t.Context(), nil)
	must(t, err)
	insert := func(table string, columns []string) *sql.Stmt {
		stmt, err := tx.Prepare("INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES (?" + strings.Repeat(", ?", len(columns)-1) + ")")
		must(t, err)
		return stmt
	}
	nars, paths := insert("nars", narColumns), insert("paths", pathColumns)
	for i := range n {
		r := row(i)
		path, err := r.path(i)
		must(t, err)
		_, err = nars.Exec(r.nar()...)
		must(t, err)
		_, err = paths.Exec(path...)
		must(t, err)
	}
	must(t, errors.Join(tx.Commit(), db.Close()))
}

func (s *Storage) fillPostgres(t testing.TB, n int, row func(i int) Row) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.Database)
	must(t, err)
	_, err = conn.CopyFrom(t.Context(), pgx.Identifier{"nars"}, narColumns, pgx.CopyFromSlice(n, func(i int) ([]any, error) { return row(i).nar(), nil }))
	must(t, err)
	_, err = conn.CopyFrom(t.Context(), pgx.Identifier{"paths"}, pathColumns, pgx.CopyFromSlice(n, func(i int) ([]any, error) { return row(i).path(i) }))
	must(t, err)
	_, err = conn.Exec(t.Context(), "ANALYZE nars, paths") // as the server does by itself, a minute later
	must(t, errors.Join(err, conn.Close(t.Context())))
}
