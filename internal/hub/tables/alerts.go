package tables

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// OpenAlerts implements notify.Store.
func (s *Store) OpenAlerts(ctx context.Context) ([]fleet.Alert, error) {
	return list[fleet.Alert](ctx, s, `SELECT doc FROM alerts WHERE resolved_at IS NULL ORDER BY key`)
}

// Alerts implements notify.Store.
func (s *Store) Alerts(ctx context.Context, most int) ([]fleet.Alert, error) {
	return list[fleet.Alert](ctx, s, `SELECT doc FROM alerts ORDER BY id DESC LIMIT $1`, most)
}

// PutAlert implements notify.Store.
func (s *Store) PutAlert(ctx context.Context, a fleet.Alert, event func(fleet.Alert) (*fleet.Event, error)) (kept fleet.Alert, told *fleet.Event, err error) {
	err = s.write(ctx, func(x *tx) (err error) {
		kept, told = a, nil
		if a.ID == 0 {
			var open []byte
			known, err := x.one([]any{&open}, `SELECT doc FROM alerts WHERE key = $1 AND resolved_at IS NULL`, a.Key)
			if err == nil && known {
				kept = fleet.Alert{}
				return s.docs.unpack(open, &kept)
			}
			if err == nil {
				_, err = x.one([]any{&kept.ID}, `INSERT INTO alerts (key, resolved_at, doc) VALUES ($1, $2, $3) RETURNING id`, a.Key, millis(a.ResolvedAt), blank())
			}
			if err != nil {
				return err
			}
		}
		doc, err := s.docs.pack(kept)
		if err != nil {
			return err
		}
		n, err := x.exec(`UPDATE alerts SET key = $1, resolved_at = $2, doc = $3 WHERE id = $4`, kept.Key, millis(kept.ResolvedAt), doc, kept.ID)
		if err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("there is no alert %d", kept.ID)
		}
		told, err = x.putEventOf(kept, event)
		return err
	})
	if err != nil {
		return fleet.Alert{}, nil, err
	}
	return kept, told, nil
}

// putEventOf keeps what event says of a; nil where it says nothing, or what is known.
func (x *tx) putEventOf(a fleet.Alert, event func(fleet.Alert) (*fleet.Event, error)) (*fleet.Event, error) {
	said, err := event(a)
	if err != nil || said == nil {
		return nil, err
	}
	e := *said
	e.Seq = 0
	doc, err := x.s.docs.pack(e)
	if err != nil {
		return nil, err
	}
	isNew, err := x.putEvent(&e, doc)
	if err != nil || !isNew {
		return nil, err
	}
	return &e, nil
}

// millis is t for the database; NULL for none.
func millis(t *time.Time) sql.NullInt64 {
	if t == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: t.UnixMilli(), Valid: true}
}

// Cursor implements notify.Store.
func (s *Store) Cursor(ctx context.Context) (seq int64, found bool, err error) {
	err = s.each(ctx, func(scan func(...any) error) error {
		found = true
		return scan(&seq)
	}, `SELECT seq FROM passed`)
	return seq, found && err == nil, err
}

// Queue implements notify.Store.
func (s *Store) Queue(ctx context.Context, cursor int64, d []fleet.Delivery) error {
	return s.write(ctx, func(x *tx) error {
		for _, d := range d {
			d.ID = 0
			if _, err := x.one([]any{&d.ID}, `INSERT INTO deliveries (sender, next_at, done_at, doc) VALUES ($1, $2, $3, $4) RETURNING id`,
				d.Sender, d.NextAt.UnixMilli(), millis(d.DoneAt), blank()); err != nil {
				return err
			}
			if err := x.putDelivery(d); err != nil {
				return err
			}
		}
		_, err := x.exec(`INSERT INTO passed (one, seq) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET seq = excluded.seq`, cursor)
		return err
	})
}

// PutDelivery implements notify.Store.
func (s *Store) PutDelivery(ctx context.Context, d fleet.Delivery) error {
	return s.write(ctx, func(x *tx) error { return x.putDelivery(d) })
}

func (x *tx) putDelivery(d fleet.Delivery) error {
	doc, err := x.s.docs.pack(d)
	if err != nil {
		return err
	}
	n, err := x.exec(`UPDATE deliveries SET sender = $1, next_at = $2, done_at = $3, doc = $4 WHERE id = $5`, d.Sender, d.NextAt.UnixMilli(), millis(d.DoneAt), doc, d.ID)
	if err == nil && n != 1 {
		err = fmt.Errorf("there is no delivery %d", d.ID)
	}
	return err
}

// Deliveries implements notify.Store.
func (s *Store) Deliveries(ctx context.Context, most int) ([]fleet.Delivery, error) {
	return list[fleet.Delivery](ctx, s, `SELECT doc FROM (
			SELECT id, next_at, doc, row_number() OVER (PARTITION BY sender ORDER BY next_at, id) AS nth FROM deliveries WHERE done_at IS NULL) AS d
		WHERE nth <= $1 ORDER BY next_at, id`, most)
}

// LastDeliveries implements notify.Store.
func (s *Store) LastDeliveries(ctx context.Context, most int) ([]fleet.Delivery, error) {
	return list[fleet.Delivery](ctx, s, `SELECT doc FROM (
			SELECT id, done_at, doc, row_number() OVER (PARTITION BY sender ORDER BY done_at DESC, id DESC) AS nth FROM deliveries WHERE done_at IS NOT NULL) AS d
		WHERE nth <= $1 ORDER BY done_at DESC, id DESC`, most)
}
