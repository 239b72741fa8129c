package web

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// An order about the roll-out is a form that says what it will do, and its answer what was done. It is carried out as the API's are (hub.Order): by a token of
// scope rollout, which is that of the session or is typed for this order alone. Releases stand in the form: what was confirmed is done, or nothing.

const orderAt = "/-/rollout/order"

// orderPath is where an order is confirmed.
func orderPath(c fleet.RolloutCommand) string {
	v := url.Values{"act": {c.Act}}
	for name, value := range map[string]string{"ring": c.Ring, "release": number(c.Release), "to": number(c.To)} {
		if value != "" {
			v.Set(name, value)
		}
	}
	return orderAt + "?" + v.Encode()
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// orderView is an order that is to be confirmed, or was done.
type orderView struct {
	fleet.RolloutCommand
	Title    string
	Will     []string // what happens, a sentence each
	Hosts    []string // that go back
	MayForce bool     // promote: it can be given at once, whatever the gates say
	Until    string   // as it was typed
	Error    string   // why it was not done
	Done     bool
	By       string
	After    *fleet.Rollout
}

// orderForm asks whether an order is meant.
func (s *server) orderForm(r *http.Request) (page, error) {
	c, _, err := orderOf(r.URL.Query(), time.Now())
	if err != nil {
		return page{}, errNotFound
	}
	v, err := s.described(r.Context(), c)
	return orderPage(v), err
}

func orderPage(v orderView) page {
	return page{Title: v.Title, Template: "order.html", Still: true, Body: v}
}

// orderOf reads what is ordered; wrong is what the person is to type otherwise. An error is a form that is none of ours.
func orderOf(f url.Values, now time.Time) (c fleet.RolloutCommand, wrong string, err error) {
	c = fleet.RolloutCommand{Act: f.Get("act"), Ring: f.Get("ring"), Reason: strings.TrimSpace(f.Get("reason")), AtOnce: f.Get("atOnce") != "", Force: f.Get("force") != ""}
	for name, to := range map[string]*int{"release": &c.Release, "to": &c.To} {
		if text := f.Get(name); text != "" {
			n, ok := fleet.TagNumber(fleet.TagPrefix + text)
			if !ok {
				return c, "", errNotFound
			}
			*to = n
		}
	}
	if text := strings.TrimSpace(f.Get("until")); text != "" && c.Act == fleet.RolloutFreeze {
		until, err := tomlfile.ParseUntil(text, now, time.UTC)
		if err != nil {
			return c, "The end is " + err.Error() + ".", nil
		}
		c.Until = &until
	}
	return c, "", nil
}

// described says what an order will do, by how the rings stand now. An error is errNotFound where there is nothing to order, or the store's.
func (s *server) described(ctx context.Context, c fleet.RolloutCommand) (orderView, error) {
	o := orderView{RolloutCommand: c}
	if s.Hub.Rollout == nil {
		return o, errNotFound
	}
	v, err := s.Hub.Rollout.View(ctx)
	if err != nil {
		o.Title, o.Error = "The roll-out", sentence(err)
		return o, nil
	}
	will := func(format string, args ...any) { o.Will = append(o.Will, fmt.Sprintf(format, args...)) }
	release := fleet.TagName(c.Release)
	switch c.Act {
	case fleet.RolloutPromote:
		i := slices.IndexFunc(v.Rings, func(r fleet.RolloutRing) bool { return r.Name == c.Ring })
		if i < 0 || c.Release == 0 {
			return o, errNotFound
		}
		r := v.Rings[i]
		o.Title = "Let ring " + r.Name + " have " + release
		if o.MayForce = r.Manual; r.Manual {
			will("Ring %s (%s) may be given %s. It is as soon as nothing else keeps it: now %s.", r.Name, plural(r.Hosts, "host", "hosts"), release, r.Lasting())
		} else {
			o.Force = true
			will("Ring %s (%s) is given %s now, though %s. Soak times, windows, drills, and how the rings before it are, are not waited for.", r.Name, plural(r.Hosts, "host", "hosts"), release, r.Lasting())
		}
	case fleet.RolloutPause:
		o.Title = "Pause the roll-out"
		will("No ring is given a release until somebody resumes. Hosts that were given one already go on with it.")
	case fleet.RolloutResume:
		o.Title = "Resume the roll-out"
		will("Rings are given releases again, as what is asked of each allows.")
		for _, r := range v.Rings {
			if n := r.Failed.Count + r.Silent.Count; n > 0 {
				will("Ring %s: what failed until now does not stop it any more (%s).", r.Name, strings.Join(slices.DeleteFunc([]string{r.Failed.Some(10), r.Silent.Some(10)}, func(s string) bool { return s == "" }), ", "))
			}
		}
	case fleet.RolloutFreeze:
		o.Title = "Freeze the roll-out"
		will("No ring is given a release until the end of the freeze, nor is the first one when a release is published. Hosts that were given one already go on with it.")
	case fleet.RolloutUnfreeze:
		o.Title = "End the freeze"
		if f := v.Freeze; f != nil && f.Until != nil {
			will("The freeze by %s until %s ends now (%s). Rings are given releases again, as what is asked of each allows.", f.By, utc(*f.Until), f.Reason)
		} else {
			will("No freeze is in force.")
		}
	case fleet.RolloutAbort:
		return o, s.describeAbort(ctx, v, &o)
	default:
		return o, errNotFound
	}
	return o, nil
}

// mostNamedBack is how many hosts are named that an abort takes back.
const mostNamedBack = 200

// describeAbort says which hosts go back to what.
func (s *server) describeAbort(ctx context.Context, v fleet.Rollout, o *orderView) error {
	if o.To == 0 || o.Release == 0 {
		return errNotFound
	}
	to, release := fleet.TagName(o.To), fleet.TagName(o.Release)
	o.Title = fmt.Sprintf("Abort %s: back to %s", release, to)
	hosts, err := s.Hub.Hosts(ctx)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if h.Active != nil && h.Active.Release.Number > o.To && h.Phase != fleet.PhaseManual && (h.Seen == nil || !h.Seen.Gone) {
			o.Hosts = append(o.Hosts, h.Host)
		}
	}
	o.Will = append(o.Will,
		fmt.Sprintf("What %s has is released again, as a new release: by the hub's CI, or by the next run of another one.", to),
		fmt.Sprintf("%s, and whatever came after %s, is given to no further ring.", release, to))
	var rings []string
	for _, r := range v.Rings {
		if r.Offered > o.To {
			rings = append(rings, fmt.Sprintf("%s (has %s)", r.Name, r.Has()))
		}
	}
	if len(rings) > 0 {
		o.Will = append(o.Will, "Rings that go back: "+strings.Join(rings, ", ")+". The others keep what they have.")
	}
	n := len(o.Hosts)
	o.Hosts = o.Hosts[:min(n, mostNamedBack)]
	if n == 0 {
		o.Will = append(o.Will, "No host said that it has anything newer than "+to+".")
	} else {
		o.Will = append(o.Will, fmt.Sprintf("%s what %s has for them, when their ring is given the new release.", plural(n, "host goes back to", "hosts go back to"), to))
	}
	return nil
}

// sentence is an error for people.
func sentence(err error) string {
	_, text := hub.OrderStatus(err)
	return text
}

// order does what was confirmed.
func (s *server) order(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "that is no form of this page", http.StatusBadRequest)
		return
	}
	c, wrong, err := orderOf(r.PostForm, time.Now())
	var v orderView
	if err == nil {
		v, err = s.described(r.Context(), c)
	}
	if err != nil {
		s.show(w, r, func(*http.Request) (page, error) { return page{}, err })
		return
	}
	v.Force, v.Until = c.Force, r.PostForm.Get("until")
	status, hash := http.StatusOK, ""
	if wrong == "" {
		hash, status, wrong = s.mayOrder(r)
	} else {
		status = http.StatusBadRequest
	}
	if wrong == "" {
		after, err := s.Hub.Order(r.Context(), hash, c)
		if err != nil {
			status, wrong = hub.OrderStatus(err)
		} else {
			v.Done, v.After = true, &after
		}
	}
	v.Error = wrong
	p := orderPage(v)
	p.Status = status
	s.show(w, r, func(*http.Request) (page, error) { return p, nil })
}

// mayOrder is the hash of the token by which something is ordered: the one that was typed, else the visitor's. said is why there is none.
func (s *server) mayOrder(r *http.Request) (hash string, status int, said string) {
	secret := strings.TrimSpace(r.PostForm.Get("token"))
	if v := visitorOf(r); secret == "" {
		if !v.Orders {
			return "", http.StatusForbidden, "This takes a token of scope rollout."
		}
		return v.hash, http.StatusOK, ""
	}
	now := time.Now()
	if !s.tries.Admit(ofOneAddress(), s.From(r), now) || !s.tries.Admit(ofAll(), "", now) {
		return "", http.StatusTooManyRequests, "Too many tries; wait a little."
	}
	tokens, err := s.Hub.Tokens()
	if err != nil {
		s.Log.Error("nothing can be ordered", "err", err)
		return "", http.StatusServiceUnavailable, "The hub cannot read its tokens."
	}
	if scopes, known := tokens.Scopes(secret); !known || !slices.Contains(scopes, hub.ScopeRollout) {
		s.Log.Warn("somebody tried to order something with what is no token of scope rollout", "from", s.From(r))
		return "", http.StatusForbidden, "That is no token of scope rollout."
	}
	return hub.HashToken(secret), http.StatusOK, ""
}
