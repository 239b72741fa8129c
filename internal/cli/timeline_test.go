package cli

import (
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestWayInWords: when which ring was given a release, in a line.
func TestWayInWords(t *testing.T) {
	at := time.Date(2026, 11, 28, 21, 3, 0, 0, time.Local)
	in := func(minutes int) time.Time { return at.Add(time.Duration(minutes) * time.Minute) }
	for want, v := range map[string]fleet.ReleaseView{
		"":             {},
		"canary 21:03": {Rings: []fleet.RingGiven{{Ring: "canary", At: at, Whole: at, Batches: 1}}},
		"canary 21:03, web 21:40 to 2026-11-29 00:03 (3 batches), waited 2 h 5 min of it between rings": {WaitedSeconds: 7500,
			Rings: []fleet.RingGiven{{Ring: "canary", At: at, Whole: at, Batches: 1}, {Ring: "web", At: in(37), Whole: in(180), Batches: 3}}},
		"canary 21:03, paused 21:05 at canary, paused 21:06, aborted 21:10": {Rings: []fleet.RingGiven{{Ring: "canary", At: at, Whole: at, Batches: 1}},
			Stops: []fleet.RolloutAct{{Act: fleet.RolloutPaused, Ring: "canary", At: in(2)}, {Act: fleet.RolloutPaused, At: in(3)}, {Act: fleet.RolloutAborted, At: in(7)}}},
	} {
		v.CreatedAt = at
		if got := wayInWords(v); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
