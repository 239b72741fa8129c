package hub

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// StatsOf counts what happened from a time until another: of releases, ascending, outcomes, in the order in which they ended, and runs, those of that time
// count.
//
//   - Lead time, of a release that changed hosts and is no roll-back: from the push of its source (PushedAt; where CI did not hear of it: from the beginning
//     of its run; else from when it was made) until the last of the hosts that it changed had committed it, or a newer one with its change. A release that has
//     not come to that, or that was taken back before, has none.
//   - Work time: lead times without what acts of roll-outs, ascending, say that the releases waited (waited); missing where none did.
//   - Change failures: releases that failed on a host (it was rolled back there, or the host holds it for bad), or that the next release took back
//     (Published.RollbackTo). The rate is of the releases that reached a host: were committed there, or failed.
//   - Time to restore: from the first of a host's failed deployments in a row until the next one there that was committed, by whatever release or
//     operator. One that is not over yet does not count.
//   - Runs of CI that ended; those that gave way to a newer push, or ended with their hub, do not count.
//
// Test releases count nowhere.
func StatsOf(from, until time.Time, releases []fleet.Published, outcomes []Outcome, runs []fleet.Run, acts []fleet.RolloutAct) fleet.Stats {
	s := fleet.Stats{Schema: fleet.StatusSchema, From: from, Until: until}
	during := func(t time.Time) bool { return !t.Before(from) && t.Before(until) }
	outcomes = slices.DeleteFunc(slices.Clone(outcomes), func(o Outcome) bool { return o.Release < 1 || !during(o.EndedAt) })
	s.Deployments = len(outcomes)

	began := map[int]*fleet.Run{}
	for i, r := range runs {
		if r.Release != nil && r.Release.Test == "" && r.State == fleet.RunReleased {
			began[r.Release.Number] = &runs[i]
		}
		code := fleet.Code("")
		if r.Failure != nil {
			code = r.Failure.Code
		}
		if r.State == fleet.RunRunning || code == fleet.CodeSuperseded || code == fleet.CodeInterrupted || !during(r.StartedAt) {
			continue
		}
		s.Runs++
		if r.State == fleet.RunFailed {
			s.RunsFailed++
		}
	}

	came := arrivals(outcomes)
	var lead, work []time.Duration
	var waits time.Duration
	reached, bad := map[int]bool{}, map[int]bool{}
	for _, o := range outcomes {
		if o.has() || o.failed() {
			reached[o.Release] = true
		}
		if o.failed() {
			bad[o.Release] = true
		}
	}
	attempted := 0
	for i, p := range releases {
		if !during(p.CreatedAt) {
			continue
		}
		s.Releases++
		takenBack := i+1 < len(releases) && releases[i+1].RollbackTo > 0
		if n := p.Release.Number; reached[n] {
			attempted++
			if bad[n] || takenBack {
				s.ChangeFailures++
			}
		}
		if arrived, at, ok := came.all(p, takenBackBy(releases[i+1:], p.Release.Number)); ok && p.RollbackTo == 0 {
			took, wait := at.Sub(p.PushedAt(began[p.Release.Number])), waited(p.CreatedAt, at, givenAt(p.Release.Number, acts), arrived)
			lead, work, waits = append(lead, took), append(work, took-wait), waits+wait
		}
	}
	if attempted > 0 {
		rate := float64(s.ChangeFailures) / float64(attempted)
		s.ChangeFailureRate = &rate
	}
	s.LeadTime, s.TimeToRestore = spread(lead), spread(restored(outcomes))
	if waits > 0 {
		s.WorkTime = spread(work)
	}
	return s
}

// takenBackBy is the number of the first of the releases that went back to what was before release n; 0 for none.
func takenBackBy(after []fleet.Published, n int) int {
	for _, p := range after {
		if p.RollbackTo > 0 && p.RollbackTo < n {
			return p.Release.Number
		}
	}
	return 0
}

// arrival is when a host first had a release, and none that is newer before.
type arrival struct {
	release int
	at      time.Time
}

// come are the arrivals on hosts, ascending.
type come map[string][]arrival

func arrivals(outcomes []Outcome) come {
	c := come{}
	for _, o := range outcomes {
		list := c[o.Host]
		if o.has() && (len(list) == 0 || list[len(list)-1].release < o.Release) {
			c[o.Host] = append(list, arrival{o.Release, o.EndedAt})
		}
	}
	return c
}

// all is when the hosts that p changed had it, or a newer one below the number back (0: any), and when the last one had. False when one has not, or it changed none.
func (c come) all(p fleet.Published, back int) (arrived map[string]time.Time, last time.Time, ok bool) {
	arrived = map[string]time.Time{}
	for _, h := range p.Changed {
		list := c[h]
		i, _ := slices.BinarySearchFunc(list, p.Release.Number, func(a arrival, n int) int { return cmp.Compare(a.release, n) })
		if i == len(list) || back > 0 && list[i].release >= back {
			return nil, time.Time{}, false
		}
		arrived[h], last = list[i].at, later(last, list[i].at)
	}
	return arrived, last, len(p.Changed) > 0
}

// restored is how long hosts were not what they should be after a deployment failed.
func restored(outcomes []Outcome) (list []time.Duration) {
	since := map[string]time.Time{}
	for _, o := range outcomes {
		at, broken := since[o.Host]
		switch {
		case o.failed() && !broken:
			since[o.Host] = o.EndedAt
		case o.has() && broken:
			list = append(list, o.EndedAt.Sub(at))
			delete(since, o.Host)
		}
	}
	return list
}

// spread is nil for no durations. Clocks of two machines may make one negative: it counts as 0.
func spread(list []time.Duration) *fleet.Spread {
	if len(list) == 0 {
		return nil
	}
	slices.Sort(list)
	at := func(q float64) float64 { // the smallest that so much of the list is not above
		return max(0, list[max(0, int(math.Ceil(q*float64(len(list))))-1)].Seconds())
	}
	return &fleet.Spread{Count: len(list), Median: at(0.5), P95: at(0.95), Most: at(1)}
}

const (
	releasesAPage = 200
	allRuns       = 10_000
)

// Stats are the fleet's figures from a time until another; see StatsOf.
func (h *Hub) Stats(ctx context.Context, from, until time.Time) (fleet.Stats, error) {
	var releases []fleet.Published
	for before := 0; ; before = releases[len(releases)-1].Release.Number {
		page, err := h.Store.Releases(ctx, before, releasesAPage)
		if err != nil {
			return fleet.Stats{}, err
		}
		releases = append(releases, page...)
		if len(page) < releasesAPage || page[len(page)-1].CreatedAt.Before(from) {
			break
		}
	}
	slices.Reverse(releases)
	outcomes, err := h.Store.Outcomes(ctx, from, 1, fleet.MaxNumber)
	if err != nil {
		return fleet.Stats{}, err
	}
	runs, err := h.Store.Runs(ctx, allRuns)
	if err != nil {
		return fleet.Stats{}, err
	}
	acts, err := h.acts(ctx)
	return StatsOf(from, until, releases, outcomes, runs, acts), err
}
