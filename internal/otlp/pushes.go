package otlp

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	mostOpen   = 50             // pushes whose end is waited for
	mostClosed = 200            // whose end was told, and is told no second time
	mostQuiet  = 24 * time.Hour // after which nothing more is expected of a push
)

// Pushes turns what a hub is told into spans, in the order in which it is told. Of each push it makes one root span, when the push is over: the last of the hosts
// that get another system by it is healthy or failed; CI made no release of it, and will not by itself; a newer release came; or nothing was
// heard of it for a day. The zero value is ready; it is JSON, to be kept.
type Pushes struct {
	Open   []*Push  `json:"open,omitempty"`
	Closed []string `json:"closed,omitempty"` // IDs of traces, the newest last
}

// Push is one that is not over.
type Push struct {
	Trace   string       `json:"traceparent"`
	Source  fleet.Source `json:"source"`
	Release string       `json:"release,omitempty"` // its tag
	Number  int          `json:"number,omitempty"`  // 0 for a test release
	Began   time.Time    `json:"began"`             // the first that was heard of it
	Last    time.Time    `json:"last"`              // and the last
	Noted   time.Time    `json:"noted"`             // when that was
	Known   bool         `json:"known,omitempty"`   // which hosts it changes
	Changed []string     `json:"changed,omitempty"` // those that have not ended
	Done    []string     `json:"done,omitempty"`    // that ended before they were known to be changed
	Failed  string       `json:"failed,omitempty"`
}

// Types are those of the events that Event takes.
func Types() []string {
	return []string{fleet.EventRun, fleet.EventReleased, fleet.EventDeployment}
}

// Event returns the spans that end with e, which is heard of now. What is not of these types, or cannot be read, has none.
func (p *Pushes) Event(e fleet.Event, now time.Time) []Span {
	switch e.Type {
	case fleet.EventRun:
		var r fleet.Run
		if json.Unmarshal(e.Data, &r) == nil {
			return p.run(r, now)
		}
	case fleet.EventReleased:
		var r fleet.Published
		if json.Unmarshal(e.Data, &r) == nil {
			return p.released(r, now)
		}
	case fleet.EventDeployment:
		var d fleet.Deployment
		if json.Unmarshal(e.Data, &d) == nil {
			return p.deployment(d, now)
		}
	}
	return nil
}

// run notes a run, when it has ended.
func (p *Pushes) run(r fleet.Run, now time.Time) []Span {
	if r.EndedAt == nil {
		return nil
	}
	spans, o := Run(r), p.of(traceOfRun(r), r.Source, r.StartedAt, now)
	if o == nil {
		return spans
	}
	o.until(*r.EndedAt)
	switch f := r.Failure; {
	case superseded(f):
		return append(spans, p.close(o, "superseded")...)
	case f != nil && f.Class == fleet.Bad:
		o.Failed = fmt.Sprintf("%s: %s", cmp.Or(string(f.Stage), "CI"), f.Message)
		return append(spans, p.close(o, "failed")...)
	case f != nil: // it is tried again
	case r.State == fleet.RunUnchanged && o.Release == "":
		return append(spans, p.close(o, "unchanged")...)
	case r.Release != nil:
		o.Release, o.Number = r.Release.Name(), r.Release.Number
	}
	return spans
}

// released notes that a release was seen; those before it are over.
func (p *Pushes) released(r fleet.Published, now time.Time) (spans []Span) {
	for _, old := range slices.Clone(p.Open) {
		if old.Number > 0 && old.Number < r.Release.Number {
			spans = append(spans, p.close(old, "superseded")...)
		}
	}
	o := p.of(r.Release.Push(), r.Release.Source, r.CreatedAt, now)
	if o == nil || o.Known {
		return spans
	}
	o.until(r.CreatedAt)
	o.Release, o.Number, o.Known = r.Release.Name(), r.Release.Number, true
	o.Changed = slices.DeleteFunc(slices.Clone(r.Changed), func(h string) bool { return slices.Contains(o.Done, h) })
	o.Done = nil
	return append(spans, p.ended(o)...)
}

// deployment notes one. What an operator chose for a host is no part of a push.
func (p *Pushes) deployment(d fleet.Deployment, now time.Time) []Span {
	if d.Choice != nil {
		return nil
	}
	spans := Deployment(d)
	o := p.of(d.Release.Push(), d.Release.Source, spans[0].Start, now)
	if o == nil {
		return spans
	}
	o.until(d.EndedAt)
	o.Release, o.Number = d.Release.Name(), d.Release.Number
	bad := d.Failure != nil
	if bad && d.Failure.Class != fleet.Bad {
		return spans // it is tried again
	}
	if bad && o.Failed == "" {
		o.Failed = fmt.Sprintf("%s: %s", d.Host, d.Failure.Message)
	}
	switch {
	case d.Release.Test != "": // for this one host
		o.Known = true
	case o.Known:
		if i := slices.Index(o.Changed, d.Host); i >= 0 {
			o.Changed = slices.Delete(o.Changed, i, i+1)
		}
	case !slices.Contains(o.Done, d.Host):
		o.Done = append(o.Done, d.Host)
	}
	return append(spans, p.ended(o)...)
}

// Expire ends the pushes that nothing was heard of for long and, of too many, the oldest.
func (p *Pushes) Expire(now time.Time) (spans []Span) {
	for i, o := range slices.Clone(p.Open) {
		if now.Sub(o.Noted) > mostQuiet || len(p.Open) > mostOpen && i < mostOpen {
			spans = append(spans, p.close(o, "quiet")...)
		}
	}
	return spans
}

// of is the push of that trace, opened where it is new; nil when it is over.
func (p *Pushes) of(t fleet.Trace, source fleet.Source, began, now time.Time) *Push {
	for _, o := range p.Open {
		if o.Trace == t.String() {
			if began.Before(o.Began) {
				o.Began = began
			}
			o.Source.PushedAt = cmp.Or(o.Source.PushedAt, source.PushedAt)
			o.Noted = now
			return o
		}
	}
	if slices.Contains(p.Closed, t.ID) {
		return nil
	}
	o := &Push{Trace: t.String(), Source: source, Began: began, Last: began, Noted: now}
	p.Open = append(p.Open, o)
	return o
}

func (o *Push) until(t time.Time) {
	if t.After(o.Last) {
		o.Last = t
	}
}

// ended closes o when all of its hosts have ended.
func (p *Pushes) ended(o *Push) []Span {
	switch {
	case o.Known && len(o.Changed) == 0 && o.Failed == "":
		return p.close(o, "done")
	case o.Known && len(o.Changed) == 0:
		return p.close(o, "failed")
	}
	return nil
}

// close makes the root span of o, which is over.
func (p *Pushes) close(o *Push, how string) []Span {
	p.Open = slices.DeleteFunc(p.Open, func(other *Push) bool { return other == o })
	t, _ := fleet.ParseTraceparent(o.Trace)
	p.Closed = append(p.Closed, t.ID)
	p.Closed = p.Closed[max(0, len(p.Closed)-mostClosed):]
	s := Span{Trace: t.ID, ID: t.Span("push"), Name: "push", Kind: Internal, Start: o.Began, End: o.Last, Service: servicePush, Error: o.Failed}
	if !t.Own() {
		s.Parent = t.Parent
	}
	if at := o.Source.PushedAt; at != nil {
		s.Start = *at
	}
	s.source(o.Source)
	s.set(attrSubject, o.Source.Subject)
	s.set(attrRelease, o.Release)
	s.set(attrEnd, how)
	return []Span{s}
}

// RunAlone is Run, with the root span: of a push that nobody else tells the end of, because no hub hears of it.
func RunAlone(r fleet.Run) []Span {
	var p Pushes
	spans := p.run(r, time.Now())
	if len(p.Open) == 0 {
		return spans
	}
	o, how := p.Open[0], "released"
	if r.Failure != nil {
		how, o.Failed = "failed", r.Failure.Message
	}
	return append(spans, p.close(o, how)...)
}
