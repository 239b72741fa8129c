package agent

import (
	"context"
	"testing"
	"time"
)

// TestRest: maintenance comes when its time has come and nobody verifies, and ends when somebody does.
func TestRest(t *testing.T) {
	var r rest
	if _, now := r.begin(t.Context()); now || r.next.Before(time.Now().Add(maintainFirst/2)) {
		t.Error("maintenance as soon as the agent starts")
	}
	due := func() (context.Context, bool) {
		r.mu.Lock()
		r.next = time.Now().Add(-time.Second)
		r.mu.Unlock()
		return r.begin(t.Context())
	}
	over := r.disturb()
	if _, now := due(); now {
		t.Error("while somebody verifies")
	}
	over()
	calm, now := due()
	if !now || calm.Err() != nil {
		t.Fatal("not when its time has come")
	}
	if _, now := due(); now {
		t.Error("twice at once")
	}
	over = r.disturb()
	if calm.Err() == nil {
		t.Error("it does not give way")
	}
	r.end()
	over()
	if r.next.Before(time.Now()) || r.next.After(time.Now().Add(maintainFirst)) {
		t.Errorf("what was ended early is next done at %s", r.next)
	}
	if _, now := due(); !now {
		t.Error("never again")
	}
	r.end()
}
