package notify

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/mail"
	"slices"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// begin gives up what waits for senders that were removed, and lets the past be: a hub that is told to tell of things tells of what comes. False when ctx ended.
func (k *Keeper) begin(ctx context.Context) bool {
	for failures := 0; ; {
		err := k.tidy(ctx)
		if err == nil {
			return true
		}
		failures++
		pause := backoff(failures, time.Second, time.Minute)
		if failures == 1 && ctx.Err() == nil {
			k.Log.Warn("what is to be told cannot be looked at", "retryIn", pause.Round(time.Millisecond), "err", err)
		}
		if !sleep(ctx, pause) {
			return false
		}
	}
}

func (k *Keeper) tidy(ctx context.Context) error {
	_, found, err := k.Store.Cursor(ctx)
	if err == nil && !found {
		var newest []fleet.Event
		if newest, err = k.Store.Events(ctx, nil, -1, 1); err == nil {
			var seq int64
			if len(newest) > 0 {
				seq = newest[0].Seq
			}
			err = k.Store.Queue(ctx, seq, nil)
		}
	}
	for err == nil {
		var list []fleet.Delivery
		if list, err = k.Store.Deliveries(ctx, maxBacklog); err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(d fleet.Delivery) bool { return k.sender(d.Sender) != nil })
		if len(list) == 0 {
			return nil
		}
		for _, d := range list {
			k.Log.Warn("a message is given up: its sender is not in the configuration any more", "sender", d.Sender, "event", d.Event.ID)
			now := time.Now().UTC()
			d.DoneAt, d.GivenUp, d.Error = &now, true, "this sender is not in the configuration any more"
			if err = k.Store.PutDelivery(ctx, d); err != nil {
				return err
			}
		}
	}
	return err
}

// route has events pass the rules, in their order. What they queue is kept together with how far they came.
func (k *Keeper) route(ctx context.Context) (due time.Time, err error) {
	for {
		cursor, _, err := k.Store.Cursor(ctx)
		if err != nil {
			return due, err
		}
		events, err := k.Store.Events(ctx, nil, cursor, perPass)
		if err != nil || len(events) == 0 {
			return time.Now().Add(lookEvery), err
		}
		now := time.Now().UTC()
		var list []fleet.Delivery
		wake := map[*sender]bool{}
		for _, e := range events {
			for _, s := range k.rules.of(e) {
				list = append(list, fleet.Delivery{Sender: s.name, Event: e, At: now, NextAt: now})
				wake[s] = true
			}
		}
		if err := k.Store.Queue(ctx, events[len(events)-1].Seq, list); err != nil {
			return due, err
		}
		for s := range wake {
			poke(s.poke)
		}
	}
}

// sender is a Sender with what is to be sent by it. Each has a goroutine of its own, so that one that is slow holds up nobody else.
type sender struct {
	Sender
	name, kind string
	manner     manner
	texts      Texts
	hub        string
	perHour    int
	timeout    time.Duration
	giveUp     time.Duration
	store      Store
	log        *slog.Logger
	poke       chan struct{}

	tokens   float64 // messages that may go out at once; of the goroutine alone
	tokensAt time.Time
	paused   time.Time
	catchUp  bool // it works again: what waits for its turn need not

	mu       sync.Mutex
	failures int    // in a row
	failed   string // the last error, "" when it works
	template string // what is wrong with its template
}

const (
	burst      = 10 // messages to people that go out at once
	defPerHour = 60
	mostWait   = 10 * time.Minute // between two attempts at a message
	mostRest   = time.Minute      // of a sender that failed, before anything else is tried
)

func newSender(c SenderConfig, o Options) (*sender, error) {
	t := senderTypes[c.Type]
	s := &sender{name: c.Name, kind: c.Type, manner: t.manner, hub: o.Config.Hub, perHour: defPerHour, timeout: time.Duration(o.Config.Timeout), giveUp: time.Duration(o.Config.GiveUp),
		store: o.Store, log: o.Log, poke: make(chan struct{}, 1), tokens: burst, tokensAt: time.Now()}
	if c.PerHour > 0 {
		s.perHour = c.PerHour
	}
	title, text := c.Title, c.Text
	if title == "" {
		title = o.Config.Title
	}
	if text == "" {
		text = o.Config.Text
	}
	var err error
	if s.texts, err = ParseTexts(title, text); err == nil {
		s.Sender, err = c.open(o.Config.Hub)
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeConfig, "the sender %s cannot be used", c.Name).WithCause(err)
	}
	return s, nil
}

func (c SenderConfig) open(hub string) (Sender, error) {
	if c.Type != "email" {
		p, err := newPoster(c.CAFile)
		if err != nil {
			return nil, err
		}
		return senderTypes[c.Type].make(c, p, hub), nil
	}
	conf, err := tlsConfig(c.CAFile)
	if err != nil {
		return nil, err
	}
	s := &email{server: c.Server, security: c.Security, user: c.User, password: c.PasswordFile, tls: conf, now: time.Now}
	from, err := mail.ParseAddress(c.From)
	if err != nil {
		return nil, err
	}
	s.from = *from
	for _, a := range c.To {
		to, err := mail.ParseAddress(a)
		if err != nil {
			return nil, err
		}
		s.to = append(s.to, *to)
	}
	return s, nil
}

// run sends what there is until ctx ends.
func (s *sender) run(ctx context.Context) {
	for troubled := false; ctx.Err() == nil; {
		due, err := s.once(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			if !troubled {
				s.log.Warn("what waits for a sender cannot be looked at or kept", "sender", s.name, "err", err)
			}
			troubled, due = true, time.Now().Add(mostPause)
		case err == nil:
			troubled = false
		}
		t := time.NewTimer(max(0, time.Until(due)))
		select {
		case <-ctx.Done():
		case <-s.poke:
		case <-t.C:
		}
		t.Stop()
	}
}

// once sends what is to be sent now, and says when there may be more.
func (s *sender) once(ctx context.Context) (due time.Time, err error) {
	for ctx.Err() == nil {
		now := time.Now().UTC()
		list, err := s.waiting(ctx, now)
		if err != nil || len(list) == 0 {
			s.catchUp = s.catchUp && err != nil
			return now.Add(lookEvery), err
		}
		batch, due := s.choose(list, now)
		if len(batch) == 0 {
			return due, nil
		}
		if err := s.attempt(ctx, batch); err != nil {
			return due, err
		}
	}
	return due, nil
}

// waiting are its deliveries, in the order of their events, but for those that are too old, which are given up.
func (s *sender) waiting(ctx context.Context, now time.Time) (list []fleet.Delivery, err error) {
	all, err := s.store.Deliveries(ctx, maxBacklog)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		switch {
		case d.Sender != s.name:
		case d.Attempts > 0 && now.Sub(d.At) > s.giveUp:
			s.log.Warn("a message is given up", "sender", s.name, "event", d.Event.ID, "attempt", d.Attempts, "err", d.Error)
			d.DoneAt, d.GivenUp = &now, true
			if err := s.store.PutDelivery(ctx, d); err != nil {
				return nil, err
			}
		default:
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b fleet.Delivery) int { return int(a.ID - b.ID) })
	return list, nil
}

// choose says which of its deliveries to send as one message now; none: not before due.
func (s *sender) choose(list []fleet.Delivery, now time.Time) (batch []fleet.Delivery, due time.Time) {
	if s.paused.After(now) {
		return nil, s.paused
	}
	due = now.Add(lookEvery)
	held := map[string]bool{} // that it is over is not told before that it began
	for _, d := range list {
		if held[d.Event.Subject] || d.NextAt.After(now) && !s.catchUp {
			held[d.Event.Subject] = true
			due = earlier(due, d.NextAt)
			continue
		}
		batch = append(batch, d)
	}
	if len(batch) == 0 || s.manner == alertsOnly {
		return batch, due
	}
	if s.manner == toPeople {
		rate := float64(s.perHour) / time.Hour.Seconds()
		s.tokens, s.tokensAt = min(burst, s.tokens+rate*now.Sub(s.tokensAt).Seconds()), now
		switch {
		case s.tokens < 1:
			return nil, now.Add(time.Duration((1 - s.tokens) / rate * float64(time.Second)))
		case s.tokens < 2: // the last one for a while: all that waits goes with it
			return batch, due
		}
	}
	return batch[:1], due
}

// attempt sends, and keeps what came of it. Killed in between, it sends these once more.
func (s *sender) attempt(ctx context.Context, batch []fleet.Delivery) error {
	events := make([]fleet.Event, len(batch))
	for i, d := range batch {
		events[i] = d.Event
	}
	began := time.Now()
	err := s.tell(ctx, events)
	if ctx.Err() != nil {
		return nil
	}
	now := time.Now().UTC()
	var said *SendError
	never := errors.As(err, &said) && said.Never
	after := time.Duration(0)
	if said != nil {
		after = said.After
	}
	s.account(err, after, now)
	if err == nil && s.manner == toPeople {
		s.tokens--
	}
	for _, d := range batch {
		d.Attempts++
		d.Error = ""
		switch {
		case err == nil:
			d.DoneAt = &now
		case never:
			d.DoneAt, d.GivenUp, d.Error = &now, true, err.Error()
			s.log.Warn("a message is given up: it is not taken", "sender", s.name, "event", d.Event.ID, "err", err)
		default:
			d.Error, d.NextAt = err.Error(), now.Add(max(after, backoff(d.Attempts, 2*time.Second, mostWait)))
			s.log.Debug("a message is not taken", "sender", s.name, "event", d.Event.ID, "attempt", d.Attempts, "duration", time.Since(began).Seconds(), "err", err)
		}
		if err := s.store.PutDelivery(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// account notes how it does, and says so in the log when that changes.
func (s *sender) account(err error, after time.Duration, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		if s.failures > 0 {
			s.log.Info("a sender works again", "sender", s.name, "attempt", s.failures+1)
			s.catchUp = true
		}
		s.failures, s.failed, s.paused = 0, "", time.Time{}
		return
	}
	if s.failures == 0 {
		s.log.Warn("a sender does not take what it is sent; it is tried again", "sender", s.name, "err", err)
	}
	s.failures++
	s.failed, s.catchUp = err.Error(), false
	s.paused = now.Add(max(after, backoff(s.failures, time.Second, mostRest)))
}

// tell sends one message of events, within the time for that.
func (s *sender) tell(ctx context.Context, events []fleet.Event) error {
	m, bad := s.texts.Message(events, s.hub)
	s.mu.Lock()
	was := s.template
	s.template = ""
	if bad != nil {
		s.template = oneLine(bad.Error(), maxSaid)
	}
	changed := s.template != "" && s.template != was
	s.mu.Unlock()
	if changed {
		s.log.Warn("the configured text cannot be made; the default is sent", "sender", s.name, "err", bad)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return s.Send(ctx, m)
}

// backoff doubles from first to most, less up to half of it by chance.
func backoff(attempt int, first, most time.Duration) time.Duration {
	d := min(most, first<<min(max(attempt, 1)-1, 16))
	return d/2 + rand.N(d/2+1)
}
