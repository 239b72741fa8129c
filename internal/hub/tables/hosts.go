package tables

import (
	"context"
	"errors"
	"fmt"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
)

// The most that is kept of a host, whatever it tells. hub.Keep says what is kept in the ordinary.
const (
	deploymentsMost = 10_000
	logsMost        = 200
	actsMost        = 2_000
)

// PutStatus implements hub.Store.
func (s *Store) PutStatus(ctx context.Context, st fleet.Status) error {
	doc, err := s.docs.pack(st)
	if err != nil {
		return err
	}
	active := 0
	if st.Active != nil {
		active = st.Active.Release.Number
	}
	return s.write(ctx, func(x *tx) error {
		_, err := x.exec(`INSERT INTO hosts (name, at, release, doc) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO UPDATE SET at = excluded.at, release = excluded.release, doc = excluded.doc WHERE excluded.at >= hosts.at`,
			st.Host, st.At.UnixMilli(), active, doc)
		return err
	})
}

// Statuses implements hub.Store.
func (s *Store) Statuses(ctx context.Context) ([]fleet.Status, error) {
	return list[fleet.Status](ctx, s, `SELECT doc FROM hosts ORDER BY name`)
}

// Status implements hub.Store.
func (s *Store) Status(ctx context.Context, host string) (fleet.Status, bool, error) {
	return first(list[fleet.Status](ctx, s, `SELECT doc FROM hosts WHERE name = $1`, host))
}

// Known implements hub.Store.
func (s *Store) Known(ctx context.Context, host string) (k hub.Known, err error) {
	err = s.each(ctx, func(scan func(...any) error) error {
		var status, deployment, act []byte
		if err := scan(&status, &deployment, &act); err != nil {
			return err
		}
		var errs [3]error
		k.Status, errs[0] = maybe[fleet.Status](s, status)
		k.Deployment, errs[1] = maybe[fleet.Deployment](s, deployment)
		k.Act, errs[2] = maybe[fleet.Act](s, act)
		return errors.Join(errs[:]...)
	}, `SELECT (SELECT doc FROM hosts WHERE name = $1), (SELECT doc FROM deployments WHERE host = $1 ORDER BY n DESC LIMIT 1),
		(SELECT doc FROM acts WHERE host = $1 ORDER BY n DESC LIMIT 1)`, host)
	return k, err
}

// maybe is what was packed; nil where nothing was.
func maybe[T any](s *Store, doc []byte) (*T, error) {
	if doc == nil {
		return nil, nil
	}
	v := new(T)
	return v, s.docs.unpack(doc, v)
}

// PutDeployment implements hub.Store. n counts what a host told of, so that how much is kept of it is found without counting.
func (s *Store) PutDeployment(ctx context.Context, d fleet.DeploymentReport) error {
	doc, err := s.docs.pack(d.Deployment)
	if err != nil {
		return err
	}
	log := s.docs.packText([]byte(d.Log))
	o := hub.OutcomeOf(d.Deployment)
	host, release, ended := d.Deployment.Host, d.Deployment.Release.Number, d.Deployment.EndedAt.UnixMilli()
	return s.write(ctx, func(x *tx) error {
		var seq, n int64
		put := func() (bool, error) {
			return x.one([]any{&seq, &n}, `INSERT INTO deployments (host, n, release, ended_at, result, class, code, doc)
				VALUES ($1, (SELECT coalesce(max(n), 0) + 1 FROM deployments WHERE host = $1), $2, $3, $4, $5, $6, $7)
				ON CONFLICT (release, host, ended_at) DO NOTHING RETURNING seq, n`, host, release, ended, string(o.Result), string(o.Class), string(o.Code), doc)
		}
		isNew, err := put()
		if err == nil && !isNew {
			if _, err = x.one([]any{&seq}, `DELETE FROM deployments WHERE release = $1 AND host = $2 AND ended_at = $3 RETURNING seq`, release, host, ended); err == nil {
				_, err = x.exec(`DELETE FROM logs WHERE seq = $1`, seq)
			}
			if err == nil {
				_, err = put()
			}
		}
		if err == nil && d.Log != "" {
			_, err = x.exec(`INSERT INTO logs (seq, host, n, log) VALUES ($1, $2, $3, $4)`, seq, host, n, log)
		}
		if err == nil && n > deploymentsMost {
			_, err = x.exec(`DELETE FROM deployments WHERE host = $1 AND n <= $2`, host, n-deploymentsMost)
		}
		if err == nil && n > logsMost {
			_, err = x.exec(`DELETE FROM logs WHERE host = $1 AND n <= $2`, host, n-logsMost)
		}
		return err
	})
}

// Deployments implements hub.Store.
func (s *Store) Deployments(ctx context.Context, host string, most int) ([]fleet.Deployment, error) {
	return list[fleet.Deployment](ctx, s, `SELECT doc FROM deployments WHERE host = $1 ORDER BY n DESC LIMIT $2`, host, most)
}

// DeploymentLog implements hub.Store.
func (s *Store) DeploymentLog(ctx context.Context, host string, release int) (log string, found bool, err error) {
	err = s.each(ctx, func(scan func(...any) error) error {
		var packed []byte
		if err := scan(&packed); err != nil || packed == nil {
			return err
		}
		text, err := s.docs.text(packed)
		log, found = string(text), err == nil
		return err
	}, `SELECT l.log FROM deployments d LEFT JOIN logs l ON l.seq = d.seq WHERE d.host = $1 AND (d.release = $2 OR CAST($2 AS bigint) = 0) ORDER BY d.n DESC LIMIT 1`, host, release)
	return log, found, err
}

// PutAct implements hub.Store.
func (s *Store) PutAct(ctx context.Context, a fleet.Act) error {
	doc, err := s.docs.pack(a)
	if err != nil {
		return err
	}
	return s.write(ctx, func(x *tx) error {
		_, err := x.exec(`DELETE FROM acts WHERE host = $1 AND at = $2 AND name = $3`, a.Host, a.At.UnixNano(), a.Act)
		var n int64
		if err == nil {
			_, err = x.one([]any{&n}, `INSERT INTO acts (host, n, at, name, doc)
				VALUES ($1, (SELECT coalesce(max(n), 0) + 1 FROM acts WHERE host = $1), $2, $3, $4) RETURNING n`, a.Host, a.At.UnixNano(), a.Act, doc)
		}
		if err == nil && n > actsMost {
			_, err = x.exec(`DELETE FROM acts WHERE host = $1 AND n <= $2`, a.Host, n-actsMost)
		}
		return err
	})
}

// Acts implements hub.Store.
func (s *Store) Acts(ctx context.Context, host string, most int) ([]fleet.Act, error) {
	return list[fleet.Act](ctx, s, `SELECT doc FROM acts WHERE host = $1 ORDER BY n DESC LIMIT $2`, host, most)
}

// PutDiff implements hub.Store.
func (s *Store) PutDiff(ctx context.Context, d fleet.HostDiff) error {
	doc, err := s.docs.pack(d)
	if err != nil {
		return err
	}
	return s.write(ctx, func(x *tx) error {
		_, err := x.exec(`INSERT INTO diffs (host, doc) VALUES ($1, $2) ON CONFLICT (host) DO UPDATE SET doc = excluded.doc`, d.Host, doc)
		return err
	})
}

// Diff implements hub.Store.
func (s *Store) Diff(ctx context.Context, host string) (fleet.HostDiff, bool, error) {
	return first(list[fleet.HostDiff](ctx, s, `SELECT doc FROM diffs WHERE host = $1`, host))
}

// PutRun implements hub.Store.
func (s *Store) PutRun(ctx context.Context, r fleet.Run) (id int64, err error) {
	err = s.write(ctx, func(x *tx) error {
		r, at := r, r.StartedAt.UnixMilli()
		if r.ID == 0 {
			if _, err := x.one([]any{&r.ID}, `INSERT INTO runs (at, doc) VALUES ($1, $2) RETURNING id`, at, blank()); err != nil {
				return err
			}
			if _, err := x.exec(`DELETE FROM runs WHERE id <= $1`, r.ID-runsMost); err != nil {
				return err
			}
		}
		doc, err := s.docs.pack(r)
		if err != nil {
			return err
		}
		n, err := x.exec(`UPDATE runs SET at = $1, doc = $2 WHERE id = $3`, at, doc, r.ID)
		if err == nil && n != 1 {
			err = fmt.Errorf("there is no run %d", r.ID)
		}
		id = r.ID
		return err
	})
	if err != nil {
		return 0, err
	}
	return id, nil
}

// Runs implements hub.Store.
func (s *Store) Runs(ctx context.Context, most int) ([]fleet.Run, error) {
	return list[fleet.Run](ctx, s, `SELECT doc FROM runs ORDER BY id DESC LIMIT $1`, most)
}

// Forget implements hub.Past.
func (s *Store) Forget(ctx context.Context, host string) (was bool, err error) {
	err = s.write(ctx, func(x *tx) error {
		was = false
		for _, q := range []string{`DELETE FROM hosts WHERE name = $1`, `DELETE FROM deployments WHERE host = $1`, `DELETE FROM logs WHERE host = $1`,
			`DELETE FROM acts WHERE host = $1`, `DELETE FROM diffs WHERE host = $1`} {
			n, err := x.exec(q, host)
			if err != nil {
				return err
			}
			was = was || n > 0
		}
		return nil
	})
	return was && err == nil, err
}
