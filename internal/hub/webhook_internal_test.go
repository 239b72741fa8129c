package hub

import (
	"fmt"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestWebhookMemory: only so many deliveries are remembered.
func TestWebhookMemory(t *testing.T) {
	h := NewWebhooks(WebhookOptions{})
	for n := range 5 * deliveriesKnown {
		if !h.isNew(fmt.Sprint(n)) {
			t.Fatalf("%d is new", n)
		}
	}
	if h.isNew(fmt.Sprint(5*deliveriesKnown-1)) || h.isNew(fmt.Sprint(4*deliveriesKnown)) || !h.isNew(fmt.Sprint(4*deliveriesKnown-1)) || len(h.known) != deliveriesKnown {
		t.Errorf("%d are known", len(h.known))
	}
}

// TestBound: who was quiet may do some at once, then as much as the rate allows; of callers, only so many are remembered.
func TestBound(t *testing.T) {
	var b Bound
	r, now := Rate{PerSecond: 2, Burst: 3}, time.Now()
	admitted := func(after time.Duration) (n int) {
		for range 10 {
			if b.Admit(r, "one", now.Add(after)) {
				n++
			}
		}
		return n
	}
	for after, want := range map[time.Duration]int{0: 3, time.Second: 2, time.Minute: 3} {
		b = Bound{}
		if n := admitted(0); n != 3 {
			t.Errorf("%d at first", n)
		}
		if after > 0 && admitted(after) != want {
			t.Errorf("not %d after %s", want, after)
		}
	}
	b = Bound{}
	admitted(0)
	b.Give(r, "one")
	if !b.Admit(r, "one", now) || b.Admit(r, "one", now) {
		t.Error("what was given back is there once")
	}
	for n := range 10 * callersKnown {
		b.Admit(r, fmt.Sprint(n), now.Add(time.Duration(n)*time.Millisecond))
		if len(b.left) > callersKnown {
			t.Fatalf("%d are known", len(b.left))
		}
	}
}

// TestWakesCoalesce: an agent that has not read its wake-up yet needs no second one, and is not dropped for it.
func TestWakesCoalesce(t *testing.T) {
	var b broker
	agent, leave := b.join(wakes)
	defer leave()
	for range 2 * listenerQueue {
		b.send(fleet.StreamEvent{Kind: "wake"})
	}
	if string(<-agent) != `{"kind":"wake"}` || len(agent) != 0 {
		t.Error("one wake-up waits")
	}
	b.send(fleet.StreamEvent{Kind: "wake"})
	if _, open := <-agent; !open {
		t.Error("it was dropped")
	}
}
