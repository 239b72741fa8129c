package hub

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// trouble says in the log that reports cannot be kept: once a minute, whatever the number of hosts that report, and when it is over. The zero
// value is ready.
type trouble struct {
	mu    sync.Mutex
	since time.Time // zero: there is none
	said  time.Time
	lost  int // reports since it was said
}

const troubleEvery = time.Minute

func (t *trouble) note(log *slog.Logger, host string, err error, now time.Time) {
	if errors.Is(err, context.Canceled) {
		return // the host went away
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since.IsZero() {
		t.since = now
	}
	t.lost++
	if now.Sub(t.said) < troubleEvery {
		return
	}
	log.Error("reports cannot be kept: hosts will tell again", "host", host, "since", t.since, "reports", t.lost, "err", err)
	t.said, t.lost = now, 0
}

func (t *trouble) over(log *slog.Logger, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since.IsZero() {
		return
	}
	log.Info("reports are kept again", "duration", now.Sub(t.since))
	t.since, t.said, t.lost = time.Time{}, time.Time{}, 0
}
