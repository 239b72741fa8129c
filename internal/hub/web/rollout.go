package web

import (
	"context"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// rolloutView is the newest release's way through the rings, and what may be ordered about it.
type rolloutView struct {
	fleet.Rollout
	Unknown bool // how the rings stand is not known yet
	Orders  []orderLink
}

// orderLink leads to the form of an order.
type orderLink struct {
	Text, Link string
	Most       bool // what is waited for
}

// rollout is the roll-out for a page: of that release alone, or whichever is the newest (0). nil where there is nothing of it to show: the fleet has no rings.
func (s *server) rollout(ctx context.Context, release int) *rolloutView {
	if s.Hub.Rollout == nil {
		return nil
	}
	m := s.Hub.Newest()
	v, err := s.Hub.Rollout.View(ctx)
	switch {
	case err != nil && (m == nil || len(m.Rings) == 0):
		return nil
	case err != nil:
		return &rolloutView{Unknown: true}
	case len(v.Rings) == 0 || release > 0 && v.Release != release:
		return nil
	}
	return &rolloutView{Rollout: v, Orders: ordersOf(v)}
}

// ordersOf are the orders that make sense now.
func ordersOf(v fleet.Rollout) (list []orderLink) {
	add := func(text string, most bool, c fleet.RolloutCommand) {
		list = append(list, orderLink{text, orderPath(c), most})
	}
	stopped := slices.ContainsFunc(v.Rings, func(r fleet.RolloutRing) bool {
		return r.State == fleet.RolloutStopped && r.Failed.Count+r.Silent.Count > 0
	})
	for _, r := range v.Rings {
		if r.Candidate > r.Offered {
			add("Let ring "+r.Name+" have "+fleet.TagName(r.Candidate), r.Approve, fleet.RolloutCommand{Act: fleet.RolloutPromote, Ring: r.Name, Release: r.Candidate})
		}
	}
	if v.Paused != nil || stopped {
		add("Resume", true, fleet.RolloutCommand{Act: fleet.RolloutResume, Release: v.Release})
	}
	if v.Paused == nil {
		add("Pause", false, fleet.RolloutCommand{Act: fleet.RolloutPause, Release: v.Release})
	}
	if v.Freeze != nil {
		add("End the freeze", false, fleet.RolloutCommand{Act: fleet.RolloutUnfreeze})
	} else {
		add("Freeze", false, fleet.RolloutCommand{Act: fleet.RolloutFreeze})
	}
	if v.LastGood > 0 {
		add("Abort: back to "+fleet.TagName(v.LastGood), stopped, fleet.RolloutCommand{Act: fleet.RolloutAbort, Release: v.Release, To: v.LastGood})
	}
	return list
}

// countdown is how long until t; the script counts it down.
func countdown(t, now time.Time) template.HTML {
	said := fleet.Left(t.Sub(now)) + " left"
	if !now.Before(t) {
		said = "over"
	}
	return template.HTML(fmt.Sprintf(`<time class="left" datetime="%s" title="%s">%s</time>`, t.UTC().Format(time.RFC3339), utc(t), said)) // digits and words of ours
}

// ringPart is a part of a ring's bar, in percent.
type ringPart struct {
	Class string
	X, W  float64
}

// ringParts are the parts of a ring's bar: its hosts by how they are with what they were given.
func ringParts(r fleet.RolloutRing) (list []ringPart) {
	if r.Hosts == 0 || r.Offered == 0 {
		return nil
	}
	x := 0.0
	for _, p := range []struct {
		class string
		n     int
	}{{"converged", r.Done.Count}, {"under-way", r.Pending.Count}, {"silent", r.Silent.Count}, {"failed", r.Failed.Count}} {
		if p.n > 0 {
			w := 100 * float64(p.n) / float64(r.Hosts)
			list = append(list, ringPart{p.class, x, w})
			x += w
		}
	}
	return list
}

// rolloutBody is the roll-out's own page.
type rolloutBody struct {
	Rollout *rolloutView
	Acts    []fleet.RolloutAct
}

const auditShown = 100

func (s *server) rolloutPage(r *http.Request) (page, error) {
	acts, err := s.Hub.Acts(r.Context(), auditShown)
	b := rolloutBody{Rollout: s.rollout(r.Context(), 0), Acts: acts}
	if err == nil && b.Rollout == nil && len(b.Acts) == 0 {
		err = errNotFound // a fleet without rings has nothing of it
	}
	return page{Title: "Roll-out", Template: "rollout.html", Live: "host event", Body: b}, err
}
