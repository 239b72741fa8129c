package client

import (
	"net/http"
	"testing"
	"time"
)

// TestBackoff: it grows, leaves something to chance, has a bound, and gives a server the time that it asks for.
func TestBackoff(t *testing.T) {
	for attempt, longest := range map[int]time.Duration{1: firstBackoff, 2: 2 * firstBackoff, 4: 8 * firstBackoff, 12: longestBackoff} {
		seen := map[time.Duration]bool{}
		for range 50 {
			d := backoff(attempt, nil)
			if d < longest/2 || d > longest {
				t.Fatalf("attempt %d waits %v", attempt, d)
			}
			seen[d] = true
		}
		if len(seen) < 2 {
			t.Errorf("attempt %d leaves nothing to chance", attempt)
		}
	}
	now := time.Now()
	for asked, want := range map[string]time.Duration{
		"": 0, "30": 30 * time.Second, "-1": 0, "soon": 0, "100000": longestAsked,
		now.Add(40 * time.Second).UTC().Format(http.TimeFormat): 38 * time.Second,
		now.Add(-time.Hour).UTC().Format(http.TimeFormat):       0,
	} {
		res := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {asked}}}
		if d := backoff(1, statusErrorOf(res, nil)); d < want || d > max(want+3*time.Second, firstBackoff) {
			t.Errorf("asked for %q it waits %v", asked, d)
		}
	}
}
