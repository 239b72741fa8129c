package cache

import (
	"context"
	"errors"
	"testing"
	"time"
)

// slowStats counts for long, as an index of a million paths does, by a clock that the test turns back.
type slowStats struct {
	Index
	asked int
	holds Stats
}

func (x *slowStats) Stats(context.Context, string) (Stats, error) {
	x.asked++
	return x.holds, nil
}

// TestCountingIsRare: where counting takes three seconds it is not done each five, but for what is to be refused, or was deleted here.
func TestCountingIsRare(t *testing.T) {
	x := &slowStats{holds: Stats{StoredBytes: 100}}
	s := New(Options{Index: x})
	c := &Cache{Name: "c", Settings: Settings{MaxBytes: 150}}
	check := func(more int64, asked int, refused bool) {
		t.Helper()
		err := s.checkQuota(t.Context(), c, more)
		var full *httpError
		if errors.As(err, &full) != refused || (err == nil) == refused || x.asked != asked {
			t.Errorf("%v, counted %d times", err, x.asked)
		}
	}
	age := func(d time.Duration) {
		u := s.quotas.of["c"]
		u.at, u.took = time.Now().Add(-d), 3*time.Second
	}
	check(10, 1, false)
	age(2 * time.Minute)
	check(10, 1, false)
	check(60, 2, true) // after it was counted anew
	age(10 * time.Second)
	check(60, 2, true)
	x.holds.StoredBytes = 50 // another server made room
	age(20 * time.Second)
	check(60, 3, false)
	age(3 * time.Minute)
	check(10, 4, false)
	s.quotas.recount("c")
	check(10, 5, false)
	s.quotas.recount("another")
	check(10, 5, false)
}
