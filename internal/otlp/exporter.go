package otlp

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// Told is where an Exporter hears of what happened: a hub's store.
type Told interface {
	// Events are those of the types asked for with a Seq above after, oldest first; or, where after is -1, the newest, newest first. At most so many.
	Events(ctx context.Context, types []string, after int64, most int) ([]fleet.Event, error)
	// Releases are those with a number below before, newest first, at most so many.
	Releases(ctx context.Context, before, most int) ([]fleet.Published, error)
}

// Exporter sends the spans of all that a hub is told to a collector. What it has sent it notes in a file; the events that it has not are the
// store's to keep, so what waits while the collector is away is bounded by how long that keeps them.
type Exporter struct {
	Told   Told
	Client *Client
	File   string // with what was sent; lost, it begins with what is told from then on
	Poll   time.Duration
	Log    *slog.Logger

	kept kept
	mu   sync.Mutex
	now  Standing
}

// kept is what stands in the file.
type kept struct {
	Schema int    `json:"schema"`
	Seq    int64  `json:"seq"` // of the last event whose spans were sent
	Pushes Pushes `json:"pushes"`
}

// Standing is how an export goes.
type Standing struct {
	Sent     int       // spans, since the start
	Refused  int       // spans that the collector does not take, since the start
	Failing  time.Time // since when it takes none; zero while it does
	Waiting  time.Time // when the first of what is not sent happened; zero for none
	LastSent time.Time
}

const (
	mostEvents = 100      // whose spans are sent together: some thousand
	maxKept    = 64 << 20 // bytes of the file
	leastPause = time.Second
	mostPause  = 5 * time.Minute
)

// Standing is how it goes now.
func (x *Exporter) Standing() Standing {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.now
}

func (x *Exporter) change(f func(*Standing)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f(&x.now)
}

// Run exports until ctx ends.
func (x *Exporter) Run(ctx context.Context) {
	x.begin(ctx)
	for ctx.Err() == nil {
		more, err := x.step(ctx)
		if err != nil && ctx.Err() == nil {
			x.Log.Error("what is to be traced cannot be read or noted", "err", err)
		}
		if err != nil || !more {
			pause(ctx, x.Poll)
		}
	}
}

// begin reads what was sent. Without that, or with another store than then, it begins with what is told from now on.
func (x *Exporter) begin(ctx context.Context) {
	found, err := durable.ReadJSON(x.File, maxKept, &x.kept)
	if err != nil {
		x.Log.Warn("which traces were sent is not known: those of what happens from now on are", "err", err)
		found = false
	}
	for ctx.Err() == nil {
		last, err := x.Told.Events(ctx, nil, -1, 1)
		if err != nil {
			x.Log.Error("what is to be traced cannot be read", "err", err)
			pause(ctx, x.Poll)
			continue
		}
		newest := int64(0)
		if len(last) > 0 {
			newest = last[0].Seq
		}
		if !found || x.kept.Seq > newest {
			x.kept = kept{Schema: 1, Seq: newest}
			err = durable.WriteJSON(x.File, x.kept, 0o640)
		}
		if err != nil {
			x.Log.Error("what was traced cannot be noted", "err", err)
		}
		return
	}
}

// step sends the spans of the next events; more says that there may be others.
func (x *Exporter) step(ctx context.Context) (more bool, err error) {
	events, err := x.Told.Events(ctx, Types(), x.kept.Seq, mostEvents)
	if err != nil {
		return false, err
	}
	spans := x.kept.Pushes.Expire(time.Now())
	for _, e := range events {
		spans = append(spans, x.kept.Pushes.Event(x.whole(ctx, e), time.Now())...)
		x.kept.Seq = e.Seq
	}
	if len(events) == 0 && len(spans) == 0 {
		return false, nil
	}
	if len(spans) > 0 {
		waiting := time.Now()
		if len(events) > 0 {
			waiting = events[0].Time
		}
		x.change(func(s *Standing) { s.Waiting = waiting })
		if !x.send(ctx, spans) {
			return false, nil
		}
	}
	return len(events) == mostEvents, durable.WriteJSON(x.File, x.kept, 0o640)
}

// whole is e with all hosts of a release, of which an event names the first alone.
func (x *Exporter) whole(ctx context.Context, e fleet.Event) fleet.Event {
	var named fleet.Published
	if e.Type != fleet.EventReleased || json.Unmarshal(e.Data, &named) != nil {
		return e
	}
	list, err := x.Told.Releases(ctx, named.Release.Number+1, 1)
	if err != nil || len(list) == 0 || list[0].Release.Number != named.Release.Number {
		return e // the end of the push is the end of the hosts named
	}
	if data, err := json.Marshal(list[0]); err == nil {
		e.Data = data
	}
	return e
}

// send tries until the collector has taken spans, or will not; it is false when ctx ended before.
func (x *Exporter) send(ctx context.Context, spans []Span) bool {
	for failures := 0; ctx.Err() == nil; {
		rejected, said, err := x.Client.Export(ctx, spans)
		switch {
		case ctx.Err() != nil:
			return false
		case fleet.ClassOf(err) == fleet.Bad && err != nil:
			x.Log.Warn("the trace collector does not take some spans, which are dropped", "spans", len(spans), "err", err)
			rejected = len(spans)
		case err != nil:
			if failures == 0 {
				x.Log.Warn("traces cannot be sent; they wait", "err", err)
				x.change(func(s *Standing) { s.Failing = time.Now() })
			}
			pause(ctx, min(mostPause, leastPause<<min(failures, 12)))
			failures++
			continue
		case rejected > 0:
			x.Log.Warn("the trace collector does not take some spans, which are dropped", "spans", rejected, "err", said)
		}
		if failures > 0 {
			x.Log.Info("traces are sent again", "attempt", failures+1)
		}
		x.change(func(s *Standing) {
			s.Failing, s.Waiting, s.LastSent = time.Time{}, time.Time{}, time.Now()
			s.Sent += len(spans) - rejected
			s.Refused += rejected
		})
		return true
	}
	return false
}

// pause waits for about d.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d - d/10 + rand.N(d/5+1)):
	}
}
