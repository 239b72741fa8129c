package notify_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/notify"
)

const toWebhook = `
[[senders]]
name = "hook"
type = "webhook"
url = "URL"
`

func held(s *fleet.Status) {
	s.At = time.Now()
	s.Phase, s.Target, s.Failure = fleet.PhaseHeld, target(413), fail(fleet.CodeCheck, fleet.Bad)
}

// TestFiresAndResolves: people are told once that something is wrong, and once that it is over, also by a hub that was started anew in between.
func TestFiresAndResolves(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	l.put(nil, "before") // nobody is told of the past
	k := l.keeper(toWebhook, "URL", r.URL)
	stop := l.run(k)
	l.report(k, host("web2", nil))
	l.report(k, host("web1", held))
	l.eventually("it fires", func() bool { return r.count() == 1 })
	k.Reported(host("web1", held))
	stop()

	k = l.keeper(toWebhook, "URL", r.URL)
	l.run(k)
	well := host("web1", func(s *fleet.Status) { s.At = time.Now().Add(time.Second) })
	l.report(k, well)
	l.eventually("it is resolved", func() bool { return r.count() == 2 })
	if got, want := r.told(t), []string{"alert.firing deployment-failed:web1:release-413", "alert.resolved deployment-failed:web1:release-413"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	list, err := k.Past(t.Context(), 10)
	l.must(err)
	if len(list) != 1 || list[0].ResolvedAt == nil || list[0].Severity != fleet.Critical || len(list[0].Commands) == 0 {
		t.Errorf("kept %+v", list)
	}
}

// TestWorse: what becomes critical is told again, what only changes is not.
func TestWorse(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	k := l.keeper(toWebhook, "URL", r.URL)
	l.run(k)
	low := func(free int64) fleet.Status {
		return host("web1", func(s *fleet.Status) {
			s.At, s.Disks = time.Now(), []fleet.Disk{{Of: "store", FreeBytes: free, TotalBytes: 100 << 30}}
		})
	}
	for i, free := range []int64{4 << 30, 3 << 30, 1 << 30, 1 << 20} {
		l.report(k, low(free))
		want := []int{1, 1, 2, 2}[i]
		l.eventually("it is told", func() bool { return r.count() >= want })
	}
	// Once more for each, so that what should not have come would be here.
	l.report(k, host("web2", held))
	l.eventually("the last is told", func() bool { return slices.Contains(r.told(t), "alert.firing deployment-failed:web2:release-413") })
	if got := r.told(t); len(got) != 3 {
		t.Errorf("told %q", got)
	}
}

// TestNotFlapping: what may come back at once is not resolved before it was gone for a while; nor what is not known any more.
func TestNotFlapping(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	silent := ago(time.Hour)
	l.know(func(f *notify.Facts) {
		f.Newest = &fleet.Manifest{Number: 412}
		f.Hosts = []fleet.Status{host("web1", func(s *fleet.Status) { s.Drift = true }), host("web2", func(s *fleet.Status) { s.Seen = &fleet.Seen{At: silent, Silent: &silent} })}
	})
	// It takes people half a minute to hear of silence; here it is open already.
	_, _, err := l.store.PutAlert(t.Context(), fleet.Alert{Schema: 1, Key: "host-silent:web2", Kind: fleet.AlertSilent, Host: "web2", OpenedAt: time.Now(), Since: silent}, func(fleet.Alert) (*fleet.Event, error) { return nil, nil })
	l.must(err)
	k := l.keeper(toWebhook, "URL", r.URL)
	stop := l.run(k)
	l.eventually("it fires", func() bool { return slices.Equal(l.open(), []string{"drift:web1", "host-silent:web2"}) })
	stop()
	// A hub that was just started knows neither the newest release nor who is silent.
	l.know(func(f *notify.Facts) { f.Newest, f.Hosts = nil, []fleet.Status{host("web1", nil)} })
	k = l.keeper(toWebhook, "URL", r.URL)
	l.run(k)
	l.report(k, host("web3", held))
	l.eventually("another fires", func() bool { return slices.Contains(l.open(), "deployment-failed:web3:release-413") })
	if got := l.open(); !slices.Contains(got, "drift:web1") || !slices.Contains(got, "host-silent:web2") {
		t.Errorf("open are %q", got)
	}
}

// TestReplayedReport: an older report of a host than what is known of it opens nothing.
func TestReplayedReport(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	k := l.keeper(toWebhook, "URL", r.URL)
	l.run(k)
	l.report(k, host("web1", func(s *fleet.Status) { s.At = time.Now() }))
	k.Reported(host("web1", func(s *fleet.Status) { held(s); s.At = time.Now().Add(-time.Hour) }))
	l.report(k, host("web2", held))
	l.eventually("the other fires", func() bool { return r.count() == 1 })
	if got := l.open(); !slices.Equal(got, []string{"deployment-failed:web2:release-413"}) {
		t.Errorf("open are %q", got)
	}
}

// TestManyHosts: what 200 hosts have in common is some messages, not 200.
func TestManyHosts(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	k := l.keeper(toWebhook+"[limits]\ngroup = 2\n", "URL", r.URL)
	l.run(k)
	for i := range 200 {
		l.report(k, host(fmt.Sprintf("web%d", i), held))
	}
	l.eventually("the group fires", func() bool { return slices.Contains(l.open(), "deployment-failed:*:release-413") })
	l.eventually("all is told", func() bool { return r.count() == len(l.open()) })
	if n := r.count(); n > 5 {
		t.Errorf("there were %d messages: %q", n, r.told(t))
	}
	l.know(func(f *notify.Facts) { f.Hosts = nil })
	k.Noted(fleet.Event{Type: fleet.EventReleased})
	l.eventually("all is over", func() bool { return len(l.open()) == 0 })
}

// TestRules: events go to whom the rules say, once.
func TestRules(t *testing.T) {
	l, all, critical, acts := newLab(t), newReceiver(t), newReceiver(t), newReceiver(t)
	k := l.keeper(`
[[senders]]
name = "all"
type = "webhook"
url = "ALL"
[[senders]]
name = "critical"
type = "webhook"
url = "CRITICAL"
[[senders]]
name = "acts"
type = "webhook"
url = "ACTS"
[[rules]]
senders = ["all"]
[[rules]]
severity = "critical"
senders = ["critical", "all"]
hosts = ["web*"]
[[rules]]
types = ["garrison.host.act"]
hosts = ["web*"]
senders = ["acts"]
[[rules]]
kinds = ["drift"]
releases = ["release-9*"]
senders = ["acts"]
`, "ALL", all.URL, "CRITICAL", critical.URL, "ACTS", acts.URL)
	l.run(k)
	l.eventually("the cursor is set", func() bool { _, found, err := l.store.Cursor(t.Context()); return err == nil && found })
	l.report(k, host("web1", held))
	l.report(k, host("db1", held))
	l.report(k, host("web2", func(s *fleet.Status) { s.At, s.Drift = time.Now(), true }))
	l.put(k, "one")
	l.eventually("all are told", func() bool { return all.count() == 3 && critical.count() == 1 && acts.count() == 1 })
	if got := critical.told(t); got[0] != "alert.firing deployment-failed:web1:release-413" {
		t.Errorf("critical heard of %q", got)
	}
	if got := acts.told(t); got[0] != "host.act web1" {
		t.Errorf("acts heard of %q", got)
	}
}

// killing is a store in front of which a hub dies after so many writes: the last one is done or not, and nothing after it is.
type killing struct {
	notify.Store
	mu   sync.Mutex
	left int
	done bool // the last write is done
	die  context.CancelFunc
}

var errDead = errors.New("the hub is dead")

func (k *killing) write(do func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.left == 0 {
		return errDead
	}
	k.left--
	if k.left > 0 {
		return do()
	}
	k.die()
	if k.done {
		_ = do()
	}
	return errDead
}

func (k *killing) PutAlert(ctx context.Context, a fleet.Alert, event func(fleet.Alert) (*fleet.Event, error)) (kept fleet.Alert, e *fleet.Event, err error) {
	err = k.write(func() error { kept, e, err = k.Store.PutAlert(context.WithoutCancel(ctx), a, event); return err })
	return kept, e, err
}

func (k *killing) Queue(ctx context.Context, cursor int64, d []fleet.Delivery) error {
	return k.write(func() error { return k.Store.Queue(context.WithoutCancel(ctx), cursor, d) })
}

func (k *killing) PutDelivery(ctx context.Context, d fleet.Delivery) error {
	return k.write(func() error { return k.Store.PutDelivery(context.WithoutCancel(ctx), d) })
}

// TestKilled: a hub that dies before or after any write tells of an alert all the same, and of each delivery at most once more.
func TestKilled(t *testing.T) {
	for writes := 1; ; writes++ {
		over := false
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/%v", writes, done), func(t *testing.T) {
				l, r := newLab(t), newReceiver(t)
				l.know(func(f *notify.Facts) { f.Hosts = []fleet.Status{host("web1", held)} })
				ctx, die := context.WithCancel(t.Context())
				kill := &killing{Store: l.store, left: writes, done: done, die: die}
				k := l.keeperOf(kill, toWebhook, "URL", r.URL)
				ended := make(chan struct{})
				go func() { defer close(ended); k.Run(ctx) }()
				l.eventually("the hub dies, or there is nothing left to do", func() bool {
					pending, err := l.store.Deliveries(t.Context(), 10)
					last, lastErr := l.store.LastDeliveries(t.Context(), 10)
					over = err == nil && lastErr == nil && len(pending) == 0 && len(last) == 1 && ctx.Err() == nil
					return ctx.Err() != nil || over
				})
				die()
				<-ended
				l.run(l.keeper(toWebhook, "URL", r.URL))
				l.eventually("all is told", func() bool {
					pending, err := l.store.Deliveries(t.Context(), 10)
					last, lastErr := l.store.LastDeliveries(t.Context(), 10)
					return err == nil && lastErr == nil && len(pending) == 0 && len(last) == 1
				})
				ids := map[string]int{}
				for _, e := range r.events(t) {
					ids[e.ID]++
				}
				if len(ids) != 1 || r.count() > 2 {
					t.Errorf("there came %v", ids)
				}
			})
		}
		if over {
			return
		}
	}
}

// TestSendersDoNotWait: a sender that hangs, and one that is away, hold up nobody; that is an alert of its own, which the other tells; and what they were to tell comes when they are back.
func TestSendersDoNotWait(t *testing.T) {
	l, good, bad := newLab(t), newReceiver(t), newReceiver(t)
	hang := make(chan struct{})
	bad.answers(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	k := l.keeper(`
timeout = "200ms"
[limits]
undelivered = "1s"
[[senders]]
name = "bad"
type = "webhook"
url = "BAD"
[[senders]]
name = "good"
type = "webhook"
url = "GOOD"
`, "BAD", bad.URL, "GOOD", good.URL)
	l.run(k)
	l.report(k, host("web1", held))
	l.eventually("the other tells", func() bool { return good.count() == 1 })
	l.eventually("it is tried again", func() bool { return bad.count() >= 2 })
	l.eventually("that is an alert", func() bool {
		k.Noted(fleet.Event{Type: fleet.EventReleased}) // everything is looked at
		return slices.Contains(good.told(t), "alert.firing alert-undelivered:bad")
	})
	if n := l.log.count("level=WARN msg=\"a sender does not take"); n != 1 {
		t.Errorf("it was logged %d times", n)
	}
	senders, err := k.Senders(t.Context())
	l.must(err)
	if s := senders[0]; s.Pending != 1 || s.Error == "" || s.Attempts == 0 || s.NextAt == nil || senders[1].Delivered == nil {
		t.Errorf("the senders are %+v", senders)
	}
	close(hang)
	l.eventually("all is over", func() bool {
		k.Noted(fleet.Event{Type: fleet.EventReleased})
		return slices.Contains(good.told(t), "alert.resolved alert-undelivered:bad")
	})
	for _, told := range bad.told(t) {
		if strings.Contains(told, "undelivered") {
			t.Errorf("it was told of itself: %s", told)
		}
	}
}
