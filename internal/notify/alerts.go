package notify

import (
	"context"
	"crypto/rand"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Open are the alerts that are not over, by key.
func (k *Keeper) Open(ctx context.Context) ([]fleet.Alert, error) { return k.Store.OpenAlerts(ctx) }

// Past are the newest alerts, those that are over too, newest first.
func (k *Keeper) Past(ctx context.Context, most int) ([]fleet.Alert, error) {
	return k.Store.Alerts(ctx, most)
}

// Senders says how each sender does.
func (k *Keeper) Senders(ctx context.Context) ([]fleet.SenderState, error) {
	pending, err := k.Store.Deliveries(ctx, maxBacklog)
	if err != nil {
		return nil, err
	}
	const lately = 10
	done, err := k.Store.LastDeliveries(ctx, lately)
	if err != nil {
		return nil, err
	}
	all := []fleet.SenderState{}
	for _, s := range k.rules.all {
		all = append(all, s.state(pending, done))
	}
	return all, nil
}

func (s *sender) state(pending, done []fleet.Delivery) fleet.SenderState {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := fleet.SenderState{Schema: 1, Name: s.name, Type: s.kind, Error: s.failed, Template: s.template}
	for _, d := range pending {
		if d.Sender != s.name {
			continue
		}
		st.Pending++
		if st.Oldest == nil || d.At.Before(*st.Oldest) {
			st.Oldest = &d.At
		}
		if d.Attempts > 0 && (st.NextAt == nil || d.NextAt.Before(*st.NextAt)) {
			st.NextAt, st.Attempts = &d.NextAt, d.Attempts
			if st.Error == "" { // of before this hub was started
				st.Error = d.Error
			}
		}
	}
	for _, d := range done {
		switch {
		case d.Sender != s.name:
		case d.GivenUp:
			st.GivenUp++
			if st.Delivered == nil && st.Error == "" {
				st.Error = d.Error
			}
		case st.Delivered == nil:
			st.Delivered = d.DoneAt
		}
	}
	return st
}

// Test sends something by the senders of those names, none: by all, beside what waits.
func (k *Keeper) Test(ctx context.Context, names []string) ([]fleet.SenderTest, error) {
	for _, name := range names {
		if k.sender(name) == nil {
			return nil, fleet.Errorf(fleet.Local, fleet.CodeNotFound, "the hub has no sender %q", name)
		}
	}
	all := []fleet.SenderTest{}
	for _, s := range k.rules.all {
		if len(names) == 0 || slices.Contains(names, s.name) {
			all = append(all, fleet.SenderTest{Schema: 1, Name: s.name, Type: s.kind})
		}
	}
	now := time.Now().UTC()
	e, err := fleet.NewEvent(EventTest, "/alerts", "test:"+rand.Text(), "test", now, map[string]string{"text": "a test, by hand"})
	if err != nil {
		return nil, err
	}
	var each sync.WaitGroup
	for i := range all {
		each.Go(func() {
			began := time.Now()
			if err := k.sender(all[i].Name).tell(ctx, []fleet.Event{e}); err != nil {
				all[i].Error = err.Error()
			}
			all[i].Seconds = time.Since(began).Seconds()
		})
	}
	each.Wait()
	return all, nil
}

// repeat tells an Alertmanager of the open alerts again and again, as it expects.
func (k *Keeper) repeat(ctx context.Context, s *sender, a *alertmanager) {
	for sleep(ctx, resendEvery) {
		open, err := k.Store.OpenAlerts(ctx)
		if err != nil {
			continue // who looks at what is wrong says so
		}
		open = slices.DeleteFunc(open, func(a fleet.Alert) bool {
			e, err := fleet.NewEvent(fleet.EventAlert, "/alerts", a.Key, a.Key, a.OpenedAt, a)
			return err != nil || !slices.Contains(k.rules.of(e), s)
		})
		within, cancel := context.WithTimeout(ctx, s.timeout)
		err = a.Repeat(within, open)
		cancel()
		s.mu.Lock()
		first := err != nil && s.failed == ""
		if s.failures == 0 { // else its deliveries say how it does
			s.failed = ""
			if err != nil {
				s.failed = err.Error()
			}
		}
		s.mu.Unlock()
		if first && ctx.Err() == nil {
			s.log.Warn("an Alertmanager is not told that alerts are still firing", "sender", s.name, "err", err)
		}
	}
}

// heartbeat tells somebody outside that all works here, as long as it does: so it is seen when a hub is gone, or cannot say what is wrong.
func (k *Keeper) heartbeat(ctx context.Context) {
	c := k.Config.Heartbeat
	if c.URL == "" && c.URLFile == "" {
		return
	}
	p, err := newPoster("")
	if err != nil {
		k.Log.Warn("there is no heartbeat", "err", err)
		return
	}
	for failing := ""; ; {
		why := k.unwell()
		if why == "" {
			if err := k.beat(ctx, p); err != nil && ctx.Err() == nil {
				why = err.Error()
			}
		}
		if why != failing && ctx.Err() == nil {
			if why == "" {
				k.Log.Info("the heartbeat is sent again")
			} else {
				k.Log.Warn("the heartbeat is not sent, or not taken", "err", why)
			}
		}
		failing = why
		if !sleep(ctx, time.Duration(c.Every)) {
			return
		}
	}
}

func (k *Keeper) beat(ctx context.Context, p *poster) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(k.Config.Timeout))
	defer cancel()
	to, _, secrets, err := place{url: k.Config.Heartbeat.URL, urlFile: k.Config.Heartbeat.URLFile}.open()
	if err != nil {
		return err
	}
	_, err = p.do(ctx, http.MethodPost, to, nil, map[string]string{"status": "ok"}, secrets...)
	return err
}

// unwell says why somebody outside should be worried; "" when all works.
func (k *Keeper) unwell() string {
	k.mu.Lock()
	good := k.good
	k.mu.Unlock()
	if time.Since(good) > 4*lookEvery {
		return "what is wrong was not looked at for long"
	}
	for _, s := range k.rules.all {
		s.mu.Lock()
		works := s.failures == 0
		s.mu.Unlock()
		if works {
			return ""
		}
	}
	if len(k.rules.all) > 0 {
		return "no sender works"
	}
	return ""
}
