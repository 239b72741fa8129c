package hub

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// The way of a release through the rings, as acts of roll-outs tell it.

const actsLooked = 5000

// Acts are the last acts of roll-outs that the hub was told of, at most so many, newest first.
func (h *Hub) Acts(ctx context.Context, most int) (list []fleet.RolloutAct, err error) {
	events, err := h.Store.Events(ctx, []string{fleet.EventRollout}, -1, most)
	for _, e := range events {
		var a fleet.RolloutAct
		if json.Unmarshal(e.Data, &a) == nil && a.Act != "" {
			list = append(list, a)
		}
	}
	return list, err
}

// acts are those that are looked at for when releases went where, in the order of their times.
func (h *Hub) acts(ctx context.Context) ([]fleet.RolloutAct, error) {
	list, err := h.Acts(ctx, actsLooked)
	slices.Reverse(list)
	slices.SortStableFunc(list, func(a, b fleet.RolloutAct) int { return a.At.Compare(b.At) })
	return list, err
}

// wayOf says when which ring was given a release, and what stopped it: of acts that ascend.
func wayOf(release int, acts []fleet.RolloutAct) (rings []fleet.RingGiven, stops []fleet.RolloutAct) {
	for _, a := range acts {
		switch {
		case a.Act == fleet.RolloutPromoted && a.Release == release:
			i := slices.IndexFunc(rings, func(g fleet.RingGiven) bool { return g.Ring == a.Ring })
			if i < 0 {
				rings, i = append(rings, fleet.RingGiven{Ring: a.Ring, At: a.At, By: a.By}), len(rings)
			}
			rings[i].Whole, rings[i].Batches = a.At, rings[i].Batches+1
		case a.Act == fleet.RolloutPaused && a.Release == release, a.Act == fleet.RolloutAborted && a.To < release && release <= a.Release:
			stops = append(stops, a)
		}
	}
	return rings, stops
}

// givenAt is when batches were given a release, or a newer one: then hosts had something to do. Of acts that ascend.
func givenAt(release int, acts []fleet.RolloutAct) (list []time.Time) {
	for _, a := range acts {
		if a.Act == fleet.RolloutPromoted && a.Release >= release {
			list = append(list, a.At)
		}
	}
	return list
}

// waited is how much of the time from when a release was made until the last host had it no host was at it: from when the last of those that had been given it had
// it (arrived) until the next batch was given it. That is soak times, windows, a person's word, drills, pauses, and the moment in which the hub decides;
// what a host waits for by itself is not in it. Without rings it is nothing.
func waited(made, done time.Time, given []time.Time, arrived map[string]time.Time) (sum time.Duration) {
	at := slices.SortedFunc(maps.Values(arrived), time.Time.Compare)
	busy := made
	for _, g := range given {
		if g.After(done) {
			break
		}
		for len(at) > 0 && !at[0].After(g) {
			busy, at = later(busy, at[0]), at[1:]
		}
		if g.After(busy) {
			sum, busy = sum+g.Sub(busy), g
		}
	}
	return sum
}
