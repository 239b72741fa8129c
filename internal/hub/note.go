package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// What happened, as events. Each has an ID that follows from what it is about, so that what is told again is no other event; and each is kept before
// what it is about is: a hub that is killed in between is told again, because it does not know yet.

const (
	mostSaid   = 4 << 10  // bytes of a text of others in an event
	mostStages = 100      // of a deployment or run
	mostListed = 100      // hosts of a release
	mostData   = 64 << 10 // bytes of an event's data
	mostNamed  = 512      // bytes of what names an event
)

// A host's events are bounded: what it says of its phase beyond that makes no event, and deployments and acts it is asked to tell later.
var eventRate = Rate{PerSecond: 1.0 / 60, Burst: 500}

// errNoEvent is of a report that no event can be made of, and that is not taken therefore.
var errNoEvent = errors.New("the report says more, or of other times, than an event can hold")

// errTooMany is of a report to be told later.
var errTooMany = errors.New("this host told of too much for now")

// phaseEvent is of a host that now says is and was known as was, nil when it was not; no event when its phase is the same, or it said more since.
func phaseEvent(was *fleet.Status, is fleet.Status, now time.Time) ([]fleet.Event, error) {
	change := fleet.PhaseChange{Schema: fleet.StatusSchema, Host: is.Host, At: is.Since, Phase: is.Phase, Failure: short(is.Failure)}
	if was != nil {
		if was.At.After(is.At) || was.Phase == is.Phase {
			return nil, nil
		}
		change.Was = was.Phase
	}
	if change.At.After(now) || change.At.IsZero() {
		change.At = now
	}
	if target := cmp.Or(is.Target, is.Active); target != nil {
		release := target.Release
		release.Source.Subject = cut(release.Source.Subject)
		change.Release = &release
	}
	return one(fleet.NewEvent(fleet.EventPhase, hostSource(is.Host), fmt.Sprintf("%s-%d", is.Phase, is.Since.UnixNano()), is.Host, change.At, change))
}

func deploymentEvent(d fleet.Deployment) ([]fleet.Event, error) {
	d.Failure, d.Checks, d.Release.Source.Subject = short(d.Failure), nil, cut(d.Release.Source.Subject)
	d.Stages = d.Stages[:min(len(d.Stages), mostStages)]
	return one(fleet.NewEvent(fleet.EventDeployment, hostSource(d.Host), fmt.Sprintf("%s-%d", d.Release.Name(), d.EndedAt.UnixNano()), d.Release.Name(), d.EndedAt, d))
}

func actEvent(a fleet.Act) ([]fleet.Event, error) {
	a.Reason = cut(a.Reason)
	return one(fleet.NewEvent(fleet.EventAct, hostSource(a.Host), fmt.Sprintf("%s-%d", a.Act, a.At.UnixNano()), a.Host, a.At, a))
}

// runEvent is of a run that began, came to a stage, or ended.
func runEvent(r fleet.Run) ([]fleet.Event, error) {
	came, at := string(r.State), r.StartedAt
	switch {
	case r.EndedAt != nil:
		at = *r.EndedAt
	case r.Stage != "":
		came = string(r.Stage)
		for _, s := range r.Stages {
			if s.Stage == r.Stage {
				at = s.StartedAt
			}
		}
	}
	r.Failure = short(r.Failure)
	return one(fleet.NewEvent(fleet.EventRun, "/ci", fmt.Sprintf("%d-%d-%s", r.ID, r.StartedAt.UnixNano(), came), r.Source.Commit, at, r))
}

// releaseEvent names the first of the hosts.
func releaseEvent(p fleet.Published) ([]fleet.Event, error) {
	p.Changed, p.Manual = p.Changed[:min(len(p.Changed), mostListed)], p.Manual[:min(len(p.Manual), mostListed)]
	p.Release.Source.Subject = cut(p.Release.Source.Subject)
	return one(fleet.NewEvent(fleet.EventReleased, "/release", p.Release.Name()+"-"+p.Release.Tag, p.Release.Name(), p.CreatedAt, p))
}

// drillEvent has what was drilled, without the checks that passed.
func drillEvent(r fleet.DrillReport) ([]fleet.Event, error) {
	r.Scenarios = slices.Clone(r.Scenarios)
	for i, s := range r.Scenarios {
		s.Checks = slices.DeleteFunc(slices.Clone(s.Checks), func(c fleet.DrillCheck) bool { return c.Result == fleet.DrillPass })
		r.Scenarios[i] = s
	}
	return one(fleet.NewEvent(fleet.EventDrill, "/drills", r.ID, r.Host, r.EndedAt, r))
}

func one(e fleet.Event, err error) ([]fleet.Event, error) { return []fleet.Event{e}, err }

func hostSource(host string) string { return "/hosts/" + host }

func short(f *fleet.Failure) *fleet.Failure { return shorter(f, mostSaid) }

func shorter(f *fleet.Failure, most int) *fleet.Failure {
	if f == nil {
		return nil
	}
	s := *f
	s.Message, s.Hint = cutTo(s.Message, most), cut(s.Hint)
	return &s
}

func cut(text string) string { return cutTo(text, mostSaid) }

func cutTo(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len("…")], "") + "…"
}

// note keeps events, shows those that are new to whoever listens, and has them looked at. It takes what made them, and their error.
func (h *Hub) note(ctx context.Context, events []fleet.Event, err error) error {
	return h.noteWith(ctx, events, err, func() error { return nil })
}

// noteWith is note, of something that is kept in between: what happened is not lost then, and who is told of it finds it.
func (h *Hub) noteWith(ctx context.Context, events []fleet.Event, err error, keep func() error) error {
	for _, e := range events {
		if y := e.Time.Year(); err != nil || len(e.Data) > mostData || len(e.ID)+len(e.Source)+len(e.Subject) > mostNamed || y < 0 || y > 9999 {
			return errNoEvent
		}
	}
	var kept []fleet.Event
	if err == nil && len(events) > 0 {
		kept, err = h.Store.PutEvents(ctx, events)
	}
	if err != nil {
		return err
	}
	err = keep()
	for _, e := range kept {
		h.counts.event(e)
	}
	h.Show(kept...)
	if len(kept) > 0 && h.Noted != nil {
		h.Noted(kept)
	}
	return err
}

// noteOf is note for a host, within its bounds. It fails with errTooMany.
func (h *Hub) noteOf(ctx context.Context, host string, events []fleet.Event, err error) error {
	if err == nil && len(events) > 0 && !h.told.Admit(eventRate, host, time.Now()) {
		return errTooMany
	}
	return h.note(ctx, events, err)
}

// Show sends events that are in the store to whoever listens.
func (h *Hub) Show(events ...fleet.Event) {
	for _, e := range events {
		h.events.send(fleet.StreamEvent{Kind: kindEvent, Event: &e})
	}
}

const maxEventsAsk = 1000

// serveEvents answers with what was noted after a Seq, oldest first; without one, with the newest, newest first.
func (h *Hub) serveEvents(w http.ResponseWriter, r *http.Request) {
	n, ok := number(w, r, maxEventsAsk)
	if !ok {
		return
	}
	q, after := r.URL.Query(), int64(-1)
	if s := q.Get("after"); s != "" {
		var err error
		if after, err = strconv.ParseInt(s, 10, 64); err != nil || after < 0 {
			http.Error(w, "after must be the seq of an event, or 0", http.StatusBadRequest)
			return
		}
	}
	types := named(q["types"])
	for _, t := range types {
		if !slices.Contains(fleet.EventTypes(), t) {
			http.Error(w, fmt.Sprintf("there is no type %q; there are %s", t, strings.Join(fleet.EventTypes(), ", ")), http.StatusBadRequest)
			return
		}
	}
	list, err := h.Store.Events(r.Context(), types, after, n)
	if list == nil {
		list = []fleet.Event{}
	}
	h.answer(w, list, err)
}

// named are the names in a parameter that may be given several times, and may hold several each.
func named(values []string) (names []string) {
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			if name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}
