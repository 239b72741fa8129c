package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// TestPersist: who is cut off after a few seconds each time comes back soon each time; who does not come in at all tries less and less often.
func TestPersist(t *testing.T) {
	for lasts, want := range map[time.Duration][2]int{5 * time.Second: {80, 120}, 0: {8, 30}} {
		synctest.Test(t, func(t *testing.T) {
			a := &Agent{Options: Options{Log: slog.New(slog.DiscardHandler)}}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			n := 0
			a.persist(ctx, func() error {
				n++
				time.Sleep(lasts)
				return errors.New("cut")
			})
			if n < want[0] || n > want[1] {
				t.Errorf("%d times in ten minutes when each lasts %s", n, lasts)
			}
		})
	}
}
