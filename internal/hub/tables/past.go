package tables

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
)

// PutEvents implements hub.Past.
func (s *Store) PutEvents(ctx context.Context, events []fleet.Event) (kept []fleet.Event, err error) {
	packed := make([][]byte, len(events))
	for i, e := range events {
		e.Seq = 0
		if packed[i], err = s.docs.pack(e); err != nil {
			return nil, err
		}
	}
	err = s.write(ctx, func(x *tx) error {
		kept = kept[:0]
		for i, e := range events {
			isNew, err := x.putEvent(&e, packed[i])
			if err != nil {
				return err
			}
			if isNew {
				kept = append(kept, e)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return kept, nil
}

// putEvent gives e its Seq; false when it is known. It counts as of when it happened, but never as of later than now: clocks of hosts are wrong.
func (x *tx) putEvent(e *fleet.Event, packed []byte) (isNew bool, err error) {
	return x.one([]any{&e.Seq}, `INSERT INTO events (at, type, key, doc) VALUES ($1, $2, $3, $4) ON CONFLICT (key) DO NOTHING RETURNING seq`,
		min(e.Time.UnixMilli(), time.Now().UnixMilli()), e.Type, eventKey(*e), packed)
}

// eventKey stands for what names an event.
func eventKey(e fleet.Event) []byte {
	sum := sha256.Sum256([]byte(e.Source + "\x00" + e.ID))
	return sum[:16]
}

// Events implements hub.Past. The newest of each type are found by the index, however rare they are.
func (s *Store) Events(ctx context.Context, types []string, after int64, most int) ([]fleet.Event, error) {
	where, order := `seq > $1`, `seq`
	if after < 0 {
		where, order, after = `seq <= $1`, `seq DESC`, math.MaxInt64
	}
	limit := fmt.Sprintf(` ORDER BY %s LIMIT $2`, order)
	q := `SELECT seq, doc FROM events WHERE ` + where + limit
	args := []any{after, most}
	if len(types) > 0 {
		types = slices.Compact(slices.Sorted(slices.Values(types)))
		var parts []string
		for i, t := range types {
			parts = append(parts, fmt.Sprintf(`SELECT * FROM (SELECT seq, doc FROM events WHERE type = $%d AND %s%s) AS t%d`, i+3, where, limit, i))
			args = append(args, t)
		}
		q = `SELECT seq, doc FROM (` + strings.Join(parts, ` UNION ALL `) + `) AS t` + limit
	}
	all := []fleet.Event{}
	err := s.each(ctx, func(scan func(...any) error) error {
		var seq int64
		var doc []byte
		var e fleet.Event
		err := scan(&seq, &doc)
		if err == nil {
			err = s.docs.unpack(doc, &e)
		}
		e.Seq = seq
		all = append(all, e)
		return err
	}, q, args...)
	return all, err
}

// PutRelease implements hub.Past.
func (s *Store) PutRelease(ctx context.Context, p fleet.Published) error {
	doc, err := s.docs.pack(p)
	if err != nil {
		return err
	}
	return s.write(ctx, func(x *tx) error {
		_, err := x.exec(`INSERT INTO releases (number, at, doc) VALUES ($1, $2, $3) ON CONFLICT (number) DO NOTHING`, p.Release.Number, p.SeenAt.UnixMilli(), doc)
		return err
	})
}

// Releases implements hub.Past.
func (s *Store) Releases(ctx context.Context, before, most int) ([]fleet.Published, error) {
	if before == 0 {
		before = math.MaxInt
	}
	return list[fleet.Published](ctx, s, `SELECT doc FROM releases WHERE number < $1 ORDER BY number DESC LIMIT $2`, before, most)
}

// DeploymentsOf implements hub.Past.
func (s *Store) DeploymentsOf(ctx context.Context, release int) ([]fleet.Deployment, error) {
	return list[fleet.Deployment](ctx, s, `SELECT doc FROM deployments WHERE release = $1 ORDER BY seq`, release)
}

// Outcomes implements hub.Past.
func (s *Store) Outcomes(ctx context.Context, since time.Time, first, last int) (list []hub.Outcome, err error) {
	from := int64(math.MinInt64)
	if !since.IsZero() {
		from = since.UnixMilli()
	}
	err = s.each(ctx, func(scan func(...any) error) error {
		var o hub.Outcome
		var ended int64
		err := scan(&o.Host, &o.Release, &o.Result, &o.Class, &o.Code, &ended)
		o.EndedAt = time.UnixMilli(ended).UTC()
		list = append(list, o)
		return err
	}, `SELECT host, release, result, class, code, ended_at FROM deployments WHERE release BETWEEN $1 AND $2 AND ended_at >= $3 ORDER BY ended_at, seq`, first, last, from)
	return list, err
}

// PutDrill implements hub.Past.
func (s *Store) PutDrill(ctx context.Context, r fleet.DrillReport) error {
	doc, err := s.docs.pack(r)
	if err != nil {
		return err
	}
	return s.write(ctx, func(x *tx) error {
		_, err := x.exec(`INSERT INTO drills (id, at, doc) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET at = excluded.at, doc = excluded.doc`,
			r.ID, r.EndedAt.UnixMilli(), doc)
		return err
	})
}

// Drills implements hub.Past.
func (s *Store) Drills(ctx context.Context, most int) ([]fleet.DrillReport, error) {
	return list[fleet.DrillReport](ctx, s, `SELECT doc FROM drills ORDER BY at DESC, id LIMIT $1`, most)
}
