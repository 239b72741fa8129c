package rollout_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// Of the fleets below: release 12 was given to the first step three hours ago, and its ring soaks for two.
const (
	givenAgo = 3 * time.Hour
	soak     = 2 * time.Hour
)

// lot is what may have become of a host with release 12, and what that is worth by docs/ROLLOUT.md.
type lot struct {
	name string
	is   string        // "done", "failed", "silent", "away", "pending", "nothing"
	ago  time.Duration // done: since when; failed: when; silent: when last heard of
	word time.Duration // done: how old its last word is
	make func(s *stand, h string)
}

func lots() []lot {
	hour := time.Hour
	ref := func(n int) *fleet.ReleaseRef { return &fleet.ReleaseRef{Number: n} }
	under := func(phase fleet.Phase) func(*stand, string) {
		return func(s *stand, h string) {
			st := s.says(h)
			st.Phase, st.Since, st.Newest, st.Target = phase, s.Now, ref(12), s.target(h, 12)
		}
	}
	took := func(ago time.Duration, then func(*fleet.Status)) func(*stand, string) {
		return func(s *stand, h string) {
			s.takes(h, 12, s.Now.Add(-ago))
			if then != nil {
				then(&s.host(h).Status)
			}
		}
	}
	// heard has the last word of the host be that old.
	heard := func(ago time.Duration, make func(*stand, string)) func(*stand, string) {
		return func(s *stand, h string) {
			make(s, h)
			st := &s.host(h).Status
			st.At, st.Seen.At, st.NextPoll = s.Now.Add(-ago), s.Now.Add(-ago), s.Now.Add(-ago)
		}
	}
	failed := func(ago time.Duration) func(*stand, string) {
		return func(s *stand, h string) {
			now := s.Now
			s.Now = now.Add(-ago)
			s.fails(h, 12)
			s.Now = now
			s.says(h)
		}
	}
	return []lot{
		{"has not looked", "pending", 0, 0, func(s *stand, h string) { s.says(h) }},
		{"stages", "pending", 0, 0, under(fleet.PhaseStaging)},
		{"activates", "pending", 0, 0, under(fleet.PhaseActivating)},
		{"waits", "pending", 0, 0, under(fleet.PhaseWaiting)},
		{"retries", "pending", 0, 0, under(fleet.PhaseRetrying)},
		{"has it", "done", givenAgo - time.Minute, 0, took(givenAgo-time.Minute, nil)},
		{"has it since the soak time", "done", soak, 0, took(soak, nil)},
		{"has it a second less", "done", soak - time.Second, 0, took(soak-time.Second, nil)},
		{"has not said since", "done", soak + 5*time.Minute, 10 * time.Minute, heard(10*time.Minute, took(soak+5*time.Minute, nil))},
		{"said just then", "done", soak + 5*time.Minute, 5 * time.Minute, heard(5*time.Minute, took(soak+5*time.Minute, nil))},
		{"is at its limit", "done", givenAgo - time.Minute, 15*time.Minute - time.Second, heard(15*time.Minute-time.Second, took(givenAgo-time.Minute, nil))},
		{"went silent with it", "silent", 15 * time.Minute, 0, heard(15*time.Minute, took(givenAgo-time.Minute, nil))},
		{"went silent before", "silent", 2 * hour, 0, heard(2*hour, func(s *stand, h string) { s.says(h) })},
		{"went silent in it", "silent", 2 * hour, 0, heard(2*hour, under(fleet.PhaseActivating))},
		{"is away", "away", 0, 0, heard(4*hour, func(s *stand, h string) { s.says(h) })},
		{"is unknown", "away", 0, 0, func(s *stand, h string) { delete(s.Hosts, h) }},
		{"failed", "failed", hour, 0, failed(hour)},
		{"failed and is gone", "failed", hour, 0, heard(59*time.Minute, failed(hour))},
		{"failed, then took it", "done", hour, 0, func(s *stand, h string) { failed(2*hour)(s, h); took(hour, nil)(s, h) }},
		{"took it, then failed a newer one", "done", hour, 0, func(s *stand, h string) {
			took(givenAgo-time.Minute, nil)(s, h)
			s.host(h).Faults = []rollout.Fault{{Release: 13, At: s.Now.Add(-hour)}}
			st := &s.host(h).Status
			st.Phase, st.Target = fleet.PhaseHeld, &fleet.Target{Release: *ref(13), Toplevel: fleet.Toplevel{OutPath: "/nix/store/newer"}}
		}},
		{"must be rebooted", "pending", 0, 0, took(hour, func(st *fleet.Status) { st.Phase = fleet.PhaseReboot })},
		{"did not come up again", "failed", hour, 0, took(hour, func(st *fleet.Status) { st.Reboot = &fleet.Reboot{Failure: &fleet.Failure{}} })},
		{"refuses it", "failed", hour, 0, func(s *stand, h string) { s.says(h).Refused = &fleet.Refusal{Since: s.Now.Add(-hour)} }},
		{"drifted", "pending", 0, 0, took(givenAgo, func(st *fleet.Status) { st.Drift, st.Phase = true, fleet.PhaseOverruled })},
		{"is suspended", "pending", 0, 0, took(givenAgo, func(st *fleet.Status) { st.Suspended = &fleet.Suspension{Until: st.At.Add(1)} })},
		{"was suspended", "done", givenAgo, 0, took(givenAgo, func(st *fleet.Status) { st.Suspended = &fleet.Suspension{Until: st.At} })},
		{"tries a test", "pending", 0, 0, took(givenAgo, func(st *fleet.Status) { st.Phase, st.Test = fleet.PhaseTesting, ref(0) })},
		{"goes on", "done", givenAgo - time.Minute, 0, took(givenAgo-time.Minute, func(st *fleet.Status) {
			st.Phase, st.Since, st.Target = fleet.PhaseActivating, st.At, &fleet.Target{Release: *ref(13), Toplevel: fleet.Toplevel{OutPath: "/nix/store/newer"}}
		})},
		{"went on", "done", givenAgo - time.Minute, 0, func(s *stand, h string) {
			took(givenAgo-time.Minute, nil)(s, h)
			s.goes(h, 13, s.Now.Add(-time.Minute))
		}},
		{"went past it", "nothing", 0, 0, func(s *stand, h string) { s.goes(h, 13, s.Now.Add(-time.Minute)) }},
		{"has the same system", "done", day, 0, func(s *stand, h string) {
			e := s.Releases[12].Hosts[h]
			e.OutPath = s.Releases[11].Hosts[h].OutPath
			s.Releases[12].Hosts[h] = e
			s.says(h)
		}},
		{"could not be built", "nothing", 0, 0, func(s *stand, h string) {
			e := s.Releases[12].Hosts[h]
			e.OutPath, e.Error = s.Releases[11].Hosts[h].OutPath, "no"
			s.Releases[12].Hosts[h] = e
			s.says(h)
		}},
		{"is not in it", "nothing", 0, 0, func(s *stand, h string) { delete(s.Releases[12].Hosts, h); s.says(h) }},
		{"has a clock ahead", "done", hour, 0, func(s *stand, h string) {
			s.takes(h, 12, s.Now.Add(day-hour))
			s.host(h).Status.At = s.Now.Add(day)
		}},
		{"has a clock behind", "done", hour, 0, func(s *stand, h string) {
			s.takes(h, 12, s.Now.Add(-day-hour))
			s.host(h).Status.At = s.Now.Add(-day)
		}},
	}
}

func (s *stand) target(h string, n int) *fleet.Target {
	return &fleet.Target{Release: fleet.ReleaseRef{Number: n}, Toplevel: fleet.Toplevel{OutPath: s.Releases[n].Hosts[h].OutPath}}
}

// goes has a host on a release that this fleet's facts have no manifest of.
func (s *stand) goes(h string, n int, at time.Time) {
	st, ref := s.says(h), fleet.ReleaseRef{Number: n}
	st.Active = &fleet.Target{Release: ref, At: at, Toplevel: fleet.Toplevel{OutPath: system(h, n)}}
	st.Newest, st.Phase, st.Since = &ref, fleet.PhaseIdle, at
	s.host(h).Took = append(s.host(h).Took, rollout.Took{Release: n, OutPath: system(h, n), At: at})
}

// condition is what else may hold: whether it keeps ring b from being given anything, and what it forgives.
type condition struct {
	name   string
	closed bool
	resume time.Duration // failures as old as that are forgiven; 0: none
	just   bool          // the hub began to listen a minute ago
	make   func(*stand)
}

func conditions() []condition {
	at := func(ago time.Duration, release int) *fleet.RolloutOrder {
		return &fleet.RolloutOrder{By: "ann", At: noon.Add(-ago), Reason: "so", Release: release}
	}
	freeze := func(until time.Duration) func(*stand) {
		return func(s *stand) {
			end := s.Now.Add(until)
			s.Ledger.Freeze = at(time.Minute, 0)
			s.Ledger.Freeze.Until = &end
		}
	}
	b := func(change func(*fleet.Ring)) func(*stand) {
		return func(s *stand) { change(&s.Newest.Rings[1]) }
	}
	windows := func(w ...string) func(*stand) {
		return b(func(r *fleet.Ring) { r.Windows, r.Zone = w, "Europe/Berlin" })
	} // where it is 13:00
	manual := func(o fleet.RolloutOrder) func(*stand) {
		return func(s *stand) {
			s.Newest.Rings[1].Manual = true
			s.Ledger.Approved = []fleet.RolloutOrder{o}
		}
	}
	drill := func(ago time.Duration) func(*stand) {
		return func(s *stand) {
			s.Newest.Rings[1].DrillDays = 7
			if ago > 0 {
				s.Drilled = s.Now.Add(-ago)
			}
		}
	}
	return []condition{
		{"none", false, 0, false, func(*stand) {}},
		{"paused", true, 0, false, func(s *stand) { s.Ledger.Paused = at(time.Minute, 12) }},
		{"frozen", true, 0, false, freeze(time.Second)},
		{"thawn", false, 0, false, freeze(0)},
		{"frozen without end", true, 0, false, func(s *stand) { s.Ledger.Freeze = at(time.Minute, 0) }},
		{"resumed", false, time.Minute, false, func(s *stand) { s.Ledger.Resumed = at(time.Minute, 12) }},
		{"resumed just then", false, time.Hour, false, func(s *stand) { s.Ledger.Resumed = at(time.Hour, 0) }},
		{"resumed too early", false, time.Hour + time.Second, false, func(s *stand) { s.Ledger.Resumed = at(time.Hour+time.Second, 12) }},
		{"resumed for another", false, 0, false, func(s *stand) { s.Ledger.Resumed = at(time.Minute, 11) }},
		{"aborted", true, 0, false, func(s *stand) { s.Ledger.Aborted = at(time.Minute, 12); s.Ledger.Aborted.To = 11 }},
		{"older aborted", false, 0, false, func(s *stand) { s.Ledger.Aborted = at(time.Minute, 11); s.Ledger.Aborted.To = 10 }},
		{"window open", false, 0, false, windows("Mon 13:00-14:00")},
		{"window at its end", true, 0, false, windows("Mon 12:00-13:00", "Tue 13:00-14:00")},
		{"no such window", true, 0, false, windows("full moon")},
		{"by hand", true, 0, false, manual(fleet.RolloutOrder{Ring: "b", Release: 11})},
		{"for another ring", true, 0, false, manual(fleet.RolloutOrder{Ring: "a", Release: 12})},
		{"approved", false, 0, false, manual(fleet.RolloutOrder{Ring: "b", Release: 12})},
		{"never drilled", true, 0, false, drill(0)},
		{"drilled", false, 0, false, drill(7 * day)},
		{"drilled too long ago", true, 0, false, drill(7*day + time.Second)},
		{"a new hub", false, 0, true, func(s *stand) { s.Heard = s.Now.Add(-time.Minute) }},
	}
}

// tally counts lots as docs/ROLLOUT.md says.
type tally struct {
	done, failed, silent, pending int
	soaked                        bool
}

func count(c condition, ls ...lot) tally {
	t := tally{soaked: true}
	var since, word time.Duration = 1 << 62, 0
	for _, l := range ls {
		is := l.is
		switch {
		case is == "failed" && c.resume > 0 && l.ago >= c.resume:
			is = "nothing"
		case is == "silent" && c.just || is == "away" && c.just:
			is = "pending"
		case is == "silent" && c.resume > 0 && l.ago >= c.resume:
			is = "away"
		}
		switch is {
		case "done":
			t.done++
			since, word = min(since, l.ago), max(word, l.word)
		case "failed":
			t.failed++
		case "silent":
			t.silent++
		case "pending":
			t.pending++
		}
	}
	t.soaked = t.done > 0 && since >= soak && since-soak >= word
	return t
}

func (t tally) holds(limit int) bool { return t.failed <= limit && t.silent == 0 && t.pending == 0 }

// Every pair of lots, under every condition: the next ring, or the next batch, is given the release exactly if it is to be.
func TestEveryCombination(t *testing.T) {
	n := 0
	for _, layout := range []string{"a: 2; b: 1", "a: 1 1; b: 1 1"} {
		for _, x := range lots() {
			for _, y := range lots() {
				for _, c := range conditions() {
					for limit := range 2 {
						if n++; n%stride == 0 {
							oneCombination(t, layout, x, y, c, limit)
						}
					}
				}
			}
			if t.Failed() {
				t.FailNow()
			}
		}
	}
	t.Log(n, "combinations")
}

func oneCombination(t *testing.T, layout string, x, y lot, c condition, limit int) {
	batched := layout != "a: 2; b: 1"
	s := newStand(layout)
	s.rings[0].SoakSeconds, s.rings[0].Failures = int64(soak/time.Second), limit
	s.everywhere(11)
	s.Now = noon.Add(-givenAgo)
	s.publish(12)
	s.Now = noon
	first, second := "a1x", "a1y"
	given := fleet.Step{Ring: "a", Batch: 1}
	s.Tips[given] = 12
	s.promoted(given, 12, noon.Add(-givenAgo))
	if batched {
		second = "a2x"
		s.Tips[fleet.Step{Ring: "a", Batch: 2}] = 12
		s.promoted(fleet.Step{Ring: "a", Batch: 2}, 12, noon.Add(-givenAgo))
	}
	x.make(s, first)
	y.make(s, second)
	for _, h := range []string{"b1x", "b2x"} {
		if s.hosts[h].Ring != "" {
			s.says(h)
		}
	}
	c.make(s)
	all := count(c, x, y)
	want := ""
	if !c.closed && all.holds(limit) && all.soaked {
		want = "b.1=12"
	}
	before := clone(s.Facts)
	d, got := s.decide()
	where := fmt.Sprintf("%s: %s, %s; %s; %d failures", layout, x.name, y.name, c.name, limit)
	if got != want {
		t.Errorf("%s: moves are %q, not %q: %+v", where, got, want, d.View)
	}
	check(t, where, before, d)
	if _, again := s.decide(); again != "" && again != "b.2=12" {
		t.Errorf("%s: then %q", where, again)
	}
	if !batched {
		return
	}
	// The same where the second batch has not been given it: only the first one counts then, but for failures.
	s.Facts = before
	s.Tips[fleet.Step{Ring: "a", Batch: 2}] = 11
	p := s.Ledger.Promotions["release-ring-a.2"]
	s.Ledger.Promotions["release-ring-a.2"] = p[:len(p)-1]
	one, other := count(c, x), count(c, y)
	if y.name != "refuses it" { // which is not what it was given
		one.failed += other.failed
	}
	want = ""
	if aborted, stopped := c.name == "aborted", s.Ledger.Paused != nil || rollout.Frozen(s.Ledger, s.Now); !aborted && !stopped && one.holds(limit) {
		want = "a.2=12"
	}
	before = clone(s.Facts)
	d, got = s.decide()
	// Where all have it already, it goes on at once.
	if got != want && (want == "" || got != want+" b.1=12") {
		t.Errorf("%s, second batch: moves are %q, not %q: %+v", where, got, want, d.View)
	}
	check(t, where, before, d)
}

// clone has facts of its own where a test changes them.
func clone(f rollout.Facts) rollout.Facts {
	f.Tips = maps.Clone(f.Tips)
	f.Ledger.Promotions = maps.Clone(f.Ledger.Promotions)
	for b, p := range f.Ledger.Promotions {
		f.Ledger.Promotions[b] = slices.Clone(p)
	}
	return f
}

// check holds a decision against what is true of all.
func check(t *testing.T, where string, f rollout.Facts, d rollout.Decision) {
	t.Helper()
	l, steps := f.Ledger, f.Newest.Steps()
	given := map[fleet.Step][]int{}
	for _, s := range steps {
		for _, p := range l.Promotions[fleet.RingBranch("release", s.Ring, s.Batch)] {
			given[s] = append(given[s], p.Release)
		}
		given[s] = append(given[s], f.Tips[s])
	}
	moved := map[fleet.Step]bool{}
	for _, m := range d.Moves {
		at := slices.Index(steps, m.Step)
		o := l.Aborted
		home := o != nil && o.AtOnce && m.To > o.Release && f.Releases[m.To] != nil && f.Releases[m.To].RollbackTo == o.To
		switch {
		case at < 0 || moved[m.Step]:
			t.Errorf("%s: step %v moves, or twice", where, m.Step)
		case m.From != f.Tips[m.Step] || m.To <= m.From || m.To > f.Newest.Number || f.Releases[m.To] == nil:
			t.Errorf("%s: %+v", where, m)
		case o != nil && m.To > o.To && m.To <= o.Release:
			t.Errorf("%s: %+v, which was aborted", where, m)
		case !home && (l.Paused != nil || rollout.Frozen(l, f.Now)):
			t.Errorf("%s: %+v though nothing is to be promoted", where, m)
		case !home && at > 0 && !slices.Contains(given[steps[at-1]], m.To):
			t.Errorf("%s: %+v, which the step before never was given", where, m)
		}
		if m.Reason == "" {
			t.Errorf("%s: %+v has no reason", where, m)
		}
		moved[m.Step] = true
		given[m.Step] = append(given[m.Step], m.To)
	}
	if next := d.View.Next; next != nil && !next.After(f.Now) || !d.Again.IsZero() && !d.Again.After(f.Now) {
		t.Errorf("%s: next at %v, again at %v", where, d.View.Next, d.Again)
	}
	for _, r := range d.View.Rings {
		if r.State == "" || r.Reason == "" || r.Done.Count+r.Failed.Count+r.Silent.Count+r.Away.Count+r.Pending.Count > len(f.Newest.Hosts)+len(f.Hosts) {
			t.Errorf("%s: ring %+v", where, r)
		}
	}
	if again := rollout.Decide(f); !reflect.DeepEqual(again, d) {
		t.Errorf("%s: decided otherwise a second time: %+v, %+v", where, d, again)
	}
}
