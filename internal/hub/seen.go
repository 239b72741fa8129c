package hub

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// mostPoll bounds what a host may say of when it looks next, and so reports next: beyond that its silence counts.
const mostPoll = 24 * time.Hour

// sight is what a hub knows besides its store.
type sight struct {
	started time.Time
	newest  atomic.Pointer[newest]

	mu     sync.Mutex
	before *time.Time // when the hub before this one last took a report in; nil before that was looked up
}

// newest is the newest release, and since when its hosts have been named by the releases that were seen.
type newest struct {
	*fleet.Manifest
	since map[string]time.Time
}

// after is m as the newest release after n, which may be nil.
func (n *newest) after(m *fleet.Manifest, now time.Time) *newest {
	next := &newest{Manifest: m, since: make(map[string]time.Time, len(m.Hosts)+len(m.Manual))}
	at := m.CreatedAt
	if at.After(now) {
		at = now
	}
	for _, host := range append(slices.Collect(maps.Keys(m.Hosts)), m.Manual...) {
		next.since[host] = at
		if n != nil && !n.since[host].IsZero() {
			next.since[host] = n.since[host]
		}
	}
	return next
}

// SetNewest tells what the newest release is. It is for one goroutine at a time.
func (h *Hub) SetNewest(m *fleet.Manifest) {
	h.sight.newest.Store(h.sight.newest.Load().after(m, time.Now().UTC()))
}

// Newest is the newest release; nil while none is known.
func (h *Hub) Newest() *fleet.Manifest {
	if n := h.sight.newest.Load(); n != nil {
		return n.Manifest
	}
	return nil
}

// Started is when this hub began to listen.
func (h *Hub) Started() time.Time { return h.sight.started }

// Hosts are all that reported, or that the newest release names, by name, with Seen.
func (h *Hub) Hosts(ctx context.Context) ([]fleet.Status, error) {
	e, err := h.eye(ctx)
	if err != nil {
		return nil, err
	}
	list, err := h.Store.Statuses(ctx)
	if err != nil {
		return nil, err
	}
	return e.all(list), nil
}

// Host is one of Hosts; false when there is none of that name.
func (h *Hub) Host(ctx context.Context, name string) (fleet.Status, bool, error) {
	e, err := h.eye(ctx)
	if err != nil {
		return fleet.Status{}, false, err
	}
	s, found, err := h.Store.Status(ctx, name)
	switch {
	case err != nil:
		return s, false, err
	case found:
		return e.see(s), true, nil
	}
	_, named := e.named(name)
	return e.unheard(name), named, nil
}

// eye is with what statuses are looked at now.
func (h *Hub) eye(ctx context.Context) (eye, error) {
	before, err := h.heardBefore(ctx)
	return eye{newest: h.sight.newest.Load(), now: time.Now().UTC(), started: h.sight.started, before: before, silent: h.Silent}, err
}

// heardBefore is when the hub before this one last took a report in, looked up before this one takes its first: a host that had
// been silent for too long by then had its time, and is not given it again because the hub was started anew.
func (h *Hub) heardBefore(ctx context.Context) (time.Time, error) {
	h.sight.mu.Lock()
	defer h.sight.mu.Unlock()
	if h.sight.before == nil {
		list, err := h.Store.Statuses(ctx)
		if err != nil {
			return time.Time{}, err
		}
		var last time.Time
		for _, s := range list {
			last = later(last, heard(s))
		}
		h.sight.before = &last
	}
	return *h.sight.before, nil
}

// eye sees of statuses what they do not say themselves.
type eye struct {
	newest  *newest // may be nil
	now     time.Time
	started time.Time // since when the hub listens
	before  time.Time // until when the one before it did; zero for never
	silent  time.Duration
}

// all are the statuses, and those of hosts that are named and never reported, by name.
func (e eye) all(list []fleet.Status) []fleet.Status {
	seen, reported := make([]fleet.Status, 0, len(list)), make(map[string]bool, len(list))
	for _, s := range list {
		seen, reported[s.Host] = append(seen, e.see(s)), true
	}
	if e.newest != nil {
		for host := range e.newest.since {
			if !reported[host] {
				seen = append(seen, e.unheard(host))
			}
		}
	}
	slices.SortFunc(seen, func(a, b fleet.Status) int { return cmp.Compare(a.Host, b.Host) })
	return seen
}

// named says whether the newest release names the host, and since when releases do.
func (e eye) named(host string) (since time.Time, ok bool) {
	if e.newest != nil {
		since, ok = e.newest.since[host]
	}
	return since, ok
}

// see returns s with Seen. A host that the newest release does not name need not report.
func (e eye) see(s fleet.Status) fleet.Status {
	_, named := e.named(s.Host)
	seen := fleet.Seen{At: heard(s), Gone: e.newest != nil && !named}
	if !seen.Gone && e.tooLong(expected(s)) {
		since := seen.At
		seen.Silent = &since
	}
	s.Seen = &seen
	return s
}

// unheard is the status of a host that is named and never reported. One that is deployed by hand may have no agent: nobody waits for its word.
func (e eye) unheard(host string) fleet.Status {
	s := fleet.Status{Schema: fleet.StatusSchema, Host: host, Phase: fleet.PhaseUnheard, Seen: &fleet.Seen{}}
	since, _ := e.named(host)
	switch {
	case e.newest != nil && slices.Contains(e.newest.Manual, host):
		s.Phase = fleet.PhaseManual
	case e.tooLong(since):
		s.Seen.Silent = &since
	}
	return s
}

// tooLong says whether a host that was due then had its time, with a hub that listened.
func (e eye) tooLong(due time.Time) bool {
	return e.silent > 0 && (e.now.Sub(later(due, e.started)) > e.silent || e.before.Sub(due) > e.silent)
}

// heard is when a report of s was last taken in, by our clock where that is known.
func heard(s fleet.Status) time.Time {
	if s.Seen != nil {
		return s.Seen.At
	}
	return s.At
}

// expected is when a host was to report again at the latest, if all is well there.
func expected(s fleet.Status) time.Time {
	return heard(s).Add(min(max(0, s.NextPoll.Sub(s.At)), mostPoll))
}
