package tables

import (
	"context"
	"time"

	"github.com/garrison-nix/garrison/internal/hub"
)

// The most that is kept of the whole fleet, whatever comes, and what stays however old it is.
const (
	runsMost      = 10_000
	eventsMost    = 2_000_000
	releasesMost  = 100_000
	drillsMost    = 10_000
	alertsMost    = 100_000
	donesMost     = 100_000
	newestStay    = 20 // releases, runs, drills, and deployments and acts of each host
	pruneTogether = 500
)

// Prune implements hub.Past. Each rule is a transaction of its own, so that others get between.
func (s *Store) Prune(ctx context.Context, k hub.Keep, now time.Time) (more bool, err error) {
	events, history := now.Add(-k.Events).UnixMilli(), now.Add(-k.History).UnixMilli()
	rules := []struct {
		table, key, where string
		args              []any
	}{
		// What has not passed the rules is kept longer: there may be something to tell.
		{"events", "seq", `at < $1 AND (at < $2 OR seq <= coalesce((SELECT seq FROM passed), 9223372036854775807))`, []any{events, now.Add(-2 * k.Events).UnixMilli()}},
		{"events", "seq", `seq <= (SELECT max(seq) FROM events) - $1`, []any{eventsMost}},
		{"alerts", "id", `resolved_at < $1`, []any{events}},
		{"alerts", "id", `resolved_at IS NOT NULL AND id <= (SELECT max(id) FROM alerts) - $1`, []any{alertsMost}},
		{"deliveries", "id", `done_at < $1`, []any{events}},
		{"deliveries", "id", `done_at IS NOT NULL AND id <= (SELECT max(id) FROM deliveries) - $1`, []any{donesMost}},
		{"deployments", "seq", `ended_at < $1 AND release NOT IN (SELECT release FROM hosts)
			AND n <= (SELECT max(n) FROM deployments d WHERE d.host = deployments.host) - $2`, []any{history, newestStay}},
		{"logs", "seq", `n <= (SELECT max(n) FROM deployments d WHERE d.host = logs.host) - $1`, []any{max(k.Logs, 1)}},
		{"acts", "seq", `at < $1 AND n <= (SELECT max(n) FROM acts a WHERE a.host = acts.host) - $2`, []any{history * int64(time.Millisecond), newestStay}},
		{"releases", "number", `at < $1 AND number <= (SELECT max(number) FROM releases) - $2 AND number NOT IN (SELECT release FROM hosts)`, []any{history, newestStay}},
		{"releases", "number", `number <= (SELECT max(number) FROM releases) - $1 AND number NOT IN (SELECT release FROM hosts)`, []any{releasesMost}},
		{"runs", "id", `at < $1 AND id <= (SELECT max(id) FROM runs) - $2`, []any{history, newestStay}},
		{"drills", "id", `at < $1 AND id NOT IN (SELECT id FROM drills ORDER BY at DESC LIMIT $2)`, []any{history, newestStay}},
		{"drills", "id", `id IN (SELECT id FROM drills ORDER BY at DESC LIMIT 1000 OFFSET $1)`, []any{drillsMost}},
	}
	for _, r := range rules {
		var n int64
		err := s.write(ctx, func(x *tx) (err error) {
			n, err = x.exec(`DELETE FROM `+r.table+` WHERE `+r.key+` IN (SELECT `+r.key+` FROM `+r.table+` WHERE `+r.where+` LIMIT 500)`, r.args...)
			return err
		})
		if err != nil {
			return false, err
		}
		more = more || n == pruneTogether
	}
	return more, nil
}
