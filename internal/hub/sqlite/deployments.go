package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// What is kept of each host.
const (
	deploymentsKept = 100
	logsKept        = 10
	actsKept        = 200
)

// Status implements hub.Store.
func (s *Store) Status(ctx context.Context, host string) (fleet.Status, bool, error) {
	return first(query[fleet.Status](ctx, s.db, `SELECT status FROM hosts WHERE name = ?`, host))
}

// PutDeployment implements hub.Store.
func (s *Store) PutDeployment(ctx context.Context, d fleet.DeploymentReport) error {
	doc, err := json.Marshal(d.Deployment)
	if err != nil {
		return err
	}
	host := d.Deployment.Host
	return s.all(ctx, []statement{
		{`INSERT OR REPLACE INTO deployments (host, release, ended_at, deployment, log) VALUES (?, ?, ?, ?, ?)`,
			[]any{host, d.Deployment.Release.Number, d.Deployment.EndedAt.UnixMilli(), string(doc), d.Log}},
		{`DELETE FROM deployments WHERE host = ? AND seq <= (SELECT seq FROM deployments WHERE host = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)`, []any{host, host, deploymentsKept}},
		{`UPDATE deployments SET log = '' WHERE host = ? AND log <> '' AND seq <= (SELECT seq FROM deployments WHERE host = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)`, []any{host, host, logsKept}},
	})
}

// PutAct implements hub.Store.
func (s *Store) PutAct(ctx context.Context, a fleet.Act) error {
	doc, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return s.all(ctx, []statement{
		{`INSERT OR REPLACE INTO acts (host, at, name, act) VALUES (?, ?, ?, ?)`, []any{a.Host, a.At.UnixNano(), a.Act, string(doc)}},
		{`DELETE FROM acts WHERE host = ? AND seq <= (SELECT seq FROM acts WHERE host = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)`, []any{a.Host, a.Host, actsKept}},
	})
}

// Acts implements hub.Store.
func (s *Store) Acts(ctx context.Context, host string, most int) ([]fleet.Act, error) {
	return query[fleet.Act](ctx, s.db, `SELECT act FROM acts WHERE host = ? ORDER BY seq DESC LIMIT ?`, host, most)
}

type statement struct {
	text string
	args []any
}

// all runs statements, all or none.
func (s *Store) all(ctx context.Context, statements []statement) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing once it is committed
	for _, q := range statements {
		if _, err := tx.ExecContext(ctx, q.text, q.args...); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Deployments implements hub.Store.
func (s *Store) Deployments(ctx context.Context, host string, most int) ([]fleet.Deployment, error) {
	return query[fleet.Deployment](ctx, s.db, `SELECT deployment FROM deployments WHERE host = ? ORDER BY seq DESC LIMIT ?`, host, most)
}

// DeploymentLog implements hub.Store.
func (s *Store) DeploymentLog(ctx context.Context, host string, release int) (log string, found bool, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT log FROM deployments WHERE host = ? AND ? IN (0, release) ORDER BY seq DESC LIMIT 1`, host, release).Scan(&log)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	return log, err == nil && log != "", err
}

// PutDiff implements hub.Store.
func (s *Store) PutDiff(ctx context.Context, d fleet.HostDiff) error {
	doc, err := json.Marshal(d)
	if err != nil {
		return err
	}
	_, err = s.db.ExecContext(ctx, `INSERT OR REPLACE INTO diffs (host, diff) VALUES (?, ?)`, d.Host, string(doc))
	return err
}

// Diff implements hub.Store.
func (s *Store) Diff(ctx context.Context, host string) (fleet.HostDiff, bool, error) {
	return first(query[fleet.HostDiff](ctx, s.db, `SELECT diff FROM diffs WHERE host = ?`, host))
}

// first is the only one of a list that may be empty.
func first[T any](list []T, err error) (v T, found bool, _ error) {
	if err != nil || len(list) == 0 {
		return v, false, err
	}
	return list[0], true, nil
}
