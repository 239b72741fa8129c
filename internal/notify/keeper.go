package notify

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Options are what a Keeper needs.
type Options struct {
	Store   Store
	Facts   func(ctx context.Context) (Facts, error) // all but Now and what Store knows
	Config  Config                                   // checked
	Publish func(fleet.Event)                        // is told of what the Keeper notes; may be nil
	Log     *slog.Logger
}

// Keeper opens and resolves alerts, and has what happens told. There is one for a store.
type Keeper struct {
	Options
	limits Limits
	rules  rules
	look   chan struct{} // what is wrong may have changed
	told   chan struct{} // there may be events that have not passed the rules

	mu    sync.Mutex
	stale bool                   // all facts are to be asked for
	hosts map[string][]Condition // those where something is wrong
	seen  map[string]heard       // when hosts last reported
	wide  []Condition            // what is wrong elsewhere
	known bool                   // which hosts there are
	blind bool                   // whether the hub sees what is published is not known
	dark  bool                   // nothing is known of the roll-out
	good  time.Time              // when all was last looked at, and kept

	first, gone, updated map[string]time.Time // by key; of the loop alone
}

const (
	lookEvery  = 30 * time.Second // at everything
	leastPause = 50 * time.Millisecond
	mostPause  = 10 * time.Second
	perPass    = 200 // events that pass the rules at once
	// What lasts already may concern many hosts, which are seen one after the other; people wait that long to hear of all at once.
	gather      = 30 * time.Second
	gatherGroup = 10 * time.Second
	updateLeast = time.Minute // between two updates of an open alert of which nobody is told
)

// settles is how long something must be gone before people are told that it is over, where it may come back at once. A deployment, a run, a drill
// end once; what is told only after it has lasted does not flap.
var settles = map[fleet.AlertKind]time.Duration{
	fleet.AlertDisk:       10 * time.Minute,
	fleet.AlertClock:      2 * time.Minute,
	fleet.AlertDrift:      time.Minute,
	fleet.AlertRefused:    time.Minute,
	fleet.AlertCredential: 2 * time.Minute,
}

// New makes a Keeper. Errors have CodeConfig.
func New(o Options) (*Keeper, error) {
	k := &Keeper{Options: o, limits: o.Config.limits(), good: time.Now(), look: make(chan struct{}, 1), told: make(chan struct{}, 1), stale: true,
		hosts: map[string][]Condition{}, seen: map[string]heard{}, first: map[string]time.Time{}, gone: map[string]time.Time{}, updated: map[string]time.Time{}}
	k.rules.list = o.Config.Rules
	for _, c := range o.Config.Senders {
		s, err := newSender(c, o)
		if err != nil {
			return nil, err
		}
		k.rules.all = append(k.rules.all, s)
	}
	return k, nil
}

// Run works until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	if !k.begin(ctx) {
		return
	}
	var all sync.WaitGroup
	defer all.Wait()
	for _, s := range k.rules.all {
		all.Go(func() { s.run(ctx) })
		if a, is := s.Sender.(*alertmanager); is {
			all.Go(func() { k.repeat(ctx, s, a) })
		}
	}
	all.Go(func() { k.persist(ctx, "events cannot be told", k.told, k.route) })
	all.Go(func() { k.heartbeat(ctx) })
	k.persist(ctx, "what is wrong cannot be looked at", k.look, k.pass)
}

// Reported takes in what a host says, with Seen. It costs next to nothing unless something became wrong there, or right.
func (k *Keeper) Reported(s fleet.Status) {
	now := time.Now()
	found := k.limits.Host(s, now)
	k.mu.Lock()
	if s.At.Before(k.seen[s.Host].said) { // it has said more since
		k.mu.Unlock()
		return
	}
	was := k.hosts[s.Host]
	k.note(s, found, now)
	k.mu.Unlock()
	if !slices.EqualFunc(was, found, func(a, b Condition) bool { return a.Key == b.Key && a.Severity == b.Severity }) {
		poke(k.look)
	}
}

// heard is when a host last reported, by our clock and by its own, and when the Keeper was told so.
type heard struct{ at, said, told time.Time }

// note keeps what is wrong on a host; k.mu is held.
func (k *Keeper) note(s fleet.Status, found []Condition, told time.Time) {
	delete(k.hosts, s.Host)
	if len(found) > 0 {
		k.hosts[s.Host] = found
	}
	if s.Seen != nil {
		k.seen[s.Host] = heard{at: s.Seen.At, said: s.At, told: told}
	}
}

// Noted says that there are new events in the store. Those of hosts come with a report; by others, more than one host may be concerned.
func (k *Keeper) Noted(events ...fleet.Event) {
	poke(k.told)
	if slices.ContainsFunc(events, func(e fleet.Event) bool {
		return e.Type == fleet.EventRun || e.Type == fleet.EventReleased || e.Type == fleet.EventDrill || e.Type == fleet.EventRollout
	}) {
		k.mu.Lock()
		k.stale = true
		k.mu.Unlock()
		poke(k.look)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// persist does a step when it is woken, and when the step says that it is due again. Steps that take long come the more seldom.
func (k *Keeper) persist(ctx context.Context, what string, woken <-chan struct{}, step func(context.Context) (time.Time, error)) {
	for failures := 0; ctx.Err() == nil; {
		began := time.Now()
		due, err := step(ctx)
		pause := min(max(leastPause, 4*time.Since(began)), mostPause)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			failures = 0
		default:
			failures++
			pause = backoff(failures, time.Second, time.Minute)
			if failures == 1 {
				k.Log.Warn(what, "retryIn", pause.Round(time.Millisecond), "err", err)
			}
			due = time.Now()
		}
		if !sleep(ctx, pause) {
			return
		}
		t := time.NewTimer(max(0, time.Until(due)))
		select {
		case <-ctx.Done():
		case <-woken:
		case <-t.C:
		}
		t.Stop()
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// ask looks at all facts.
func (k *Keeper) ask(ctx context.Context, now time.Time) error {
	began := time.Now()
	f, err := k.Facts(ctx)
	if err != nil {
		return err
	}
	f.Now = now
	if f.Pending, f.Done, err = k.deliveries(ctx); err != nil {
		return err
	}
	wide := k.limits.fleetWide(f)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wide, k.known = wide, f.Newest != nil
	k.blind = f.Follower != nil && f.Follower.Failure == nil && f.Follower.LastOK.IsZero()
	late := func(host string) bool { return !k.seen[host].told.Before(began) } // it reported meanwhile
	k.dark = f.Rollout == nil
	maps.DeleteFunc(k.hosts, func(host string, _ []Condition) bool { return !late(host) })
	maps.DeleteFunc(k.seen, func(host string, _ heard) bool { return !late(host) })
	for _, s := range f.Hosts {
		if !late(s.Host) {
			k.note(s, k.limits.Host(s, now), time.Time{})
		}
	}
	return nil
}

// deliveries are those of senders that there are.
func (k *Keeper) deliveries(ctx context.Context) (pending, done []fleet.Delivery, err error) {
	removed := func(d fleet.Delivery) bool { return k.sender(d.Sender) == nil }
	if pending, err = k.Store.Deliveries(ctx, maxBacklog); err == nil {
		done, err = k.Store.LastDeliveries(ctx, 1)
	}
	return slices.DeleteFunc(pending, removed), slices.DeleteFunc(done, removed), err
}

func (k *Keeper) sender(name string) *sender {
	if i := slices.IndexFunc(k.rules.all, func(s *sender) bool { return s.name == name }); i >= 0 {
		return k.rules.all[i]
	}
	return nil
}

// pass holds what is wrong against the open alerts, and says when it must be done again.
func (k *Keeper) pass(ctx context.Context) (due time.Time, err error) {
	now := time.Now().UTC()
	k.mu.Lock()
	all := k.stale || now.Sub(k.good) >= lookEvery
	k.stale = false
	k.mu.Unlock()
	if all {
		if err := k.ask(ctx, now); err != nil {
			return now, err
		}
	}
	k.mu.Lock()
	found := slices.Clone(k.wide)
	for _, list := range k.hosts {
		found = append(found, list...)
	}
	k.mu.Unlock()
	slices.SortStableFunc(found, func(a, b Condition) int { return compareKeys(a, b) })
	found = slices.CompactFunc(found, func(a, b Condition) bool { return a.Key == b.Key })
	open, err := k.Store.OpenAlerts(ctx)
	if err != nil {
		return now, err
	}
	due = now.Add(lookEvery)
	if err := k.compare(ctx, Group(found, open, k.limits.Group), open, now, &due); err != nil {
		return now, err
	}
	if all {
		k.mu.Lock()
		k.good = now
		k.mu.Unlock()
	}
	return due, nil
}

// compare opens, updates and resolves; due becomes earlier where something is waited for.
func (k *Keeper) compare(ctx context.Context, found []Condition, open []fleet.Alert, now time.Time, due *time.Time) error {
	alerts := map[string]fleet.Alert{}
	for _, a := range open {
		alerts[a.Key] = a
	}
	is := map[string]bool{}
	for _, c := range found {
		is[c.Key] = true
		delete(k.gone, c.Key)
		if a, opened := alerts[c.Key]; opened {
			if err := k.update(ctx, a, c, now); err != nil {
				return err
			}
			continue
		}
		if k.first[c.Key].IsZero() {
			k.first[c.Key] = now
		}
		if at := k.first[c.Key].Add(gathers(c)); at.After(now) {
			*due = earlier(*due, at)
			continue
		}
		if err := k.open(ctx, c, now); err != nil {
			return err
		}
	}
	for _, a := range open {
		if is[a.Key] || k.unknown(a) {
			continue
		}
		if k.gone[a.Key].IsZero() {
			k.gone[a.Key] = now
		}
		if at := k.gone[a.Key].Add(settles[a.Kind]); at.After(now) {
			*due = earlier(*due, at)
			continue
		}
		if err := k.resolve(ctx, a, now); err != nil {
			return err
		}
	}
	maps.DeleteFunc(k.first, func(key string, _ time.Time) bool { return !is[key] })
	maps.DeleteFunc(k.gone, func(key string, _ time.Time) bool { _, opened := alerts[key]; return !opened })
	maps.DeleteFunc(k.updated, func(key string, _ time.Time) bool { _, opened := alerts[key]; return !opened })
	return nil
}

// gathers is how long a condition must have been seen before people are told.
func gathers(c Condition) time.Duration {
	if c.Host == "" && c.Of != "" {
		return gatherGroup
	}
	switch c.Kind {
	case fleet.AlertSilent, fleet.AlertFetch, fleet.AlertPush, fleet.AlertRetrying:
		return gather
	}
	return 0
}

// unknown says of an alert that is not seen any more whether that is because the hub has not seen enough yet.
func (k *Keeper) unknown(a fleet.Alert) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch a.Kind {
	case fleet.AlertSilent:
		return !k.known && !k.seen[a.Host].at.After(a.OpenedAt)
	case fleet.AlertFollow:
		return k.blind
	case fleet.AlertRollout, fleet.AlertLate:
		return k.dark
	}
	return false
}

func (k *Keeper) open(ctx context.Context, c Condition, now time.Time) error {
	a := fleet.Alert{Schema: 1, Key: c.Key, Kind: c.Kind, OpenedAt: now, Since: c.Since}
	if a.Since.IsZero() || a.Since.After(now) { // a host's clock
		a.Since = now
	}
	delete(k.first, c.Key)
	k.Log.Info("an alert is firing", "alert", c.Key, "host", c.Host, "severity", c.Severity, "what", c.What)
	return k.keep(ctx, shown(a, c), fleet.EventAlert, now)
}

// shown is a with what c says now.
func shown(a fleet.Alert, c Condition) fleet.Alert {
	a.Severity, a.Host, a.Release, a.What, a.Detail, a.Commands = c.Severity, c.Host, c.Release, oneLine(c.What, 500), c.Detail, c.Commands
	return a
}

// update keeps what is known of an open alert. People are told again when it became worse.
func (k *Keeper) update(ctx context.Context, a fleet.Alert, c Condition, now time.Time) error {
	next := shown(a, c)
	if a.Severity != next.Severity && next.Severity == fleet.Critical {
		return k.keep(ctx, next, fleet.EventAlert, now)
	}
	same := a.Severity == next.Severity && a.What == next.What && a.Detail == next.Detail && slices.Equal(a.Commands, next.Commands)
	if same || now.Sub(k.updated[a.Key]) < updateLeast {
		return nil
	}
	k.updated[a.Key] = now
	_, _, err := k.Store.PutAlert(ctx, next, func(fleet.Alert) (*fleet.Event, error) { return nil, nil })
	return err
}

func (k *Keeper) resolve(ctx context.Context, a fleet.Alert, now time.Time) error {
	a.ResolvedAt = &now
	delete(k.gone, a.Key)
	k.Log.Info("an alert is resolved", "alert", a.Key, "host", a.Host, "duration", now.Sub(a.Since).Round(time.Second))
	return k.keep(ctx, a, fleet.EventResolved, now)
}

// keep keeps an alert and the event that says so. Its ID is the same if it is made again.
func (k *Keeper) keep(ctx context.Context, a fleet.Alert, kind string, now time.Time) error {
	_, e, err := k.Store.PutAlert(ctx, a, func(a fleet.Alert) (*fleet.Event, error) {
		id := fmt.Sprintf("%s:%s:%s", a.Key, a.OpenedAt.Format(time.RFC3339Nano), a.Severity)
		if kind == fleet.EventResolved {
			id += ":resolved"
		}
		e, err := fleet.NewEvent(kind, "/alerts", id, a.Key, now, a)
		return &e, err
	})
	if err != nil || e == nil {
		return err
	}
	poke(k.told)
	if k.Publish != nil {
		k.Publish(*e)
	}
	return nil
}

func compareKeys(a, b Condition) int {
	switch {
	case a.Key < b.Key:
		return -1
	case a.Key > b.Key:
		return 1
	}
	return 0
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
