package rollout_test

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// world is a fleet in a time of its own: agents that look at git and report over a network that loses, delays and doubles, and a hub that decides on each
// report, and forgets everything now and then.
type world struct {
	rand   *rand.Rand
	now    time.Time
	events events
	stand  *stand // git: releases, tips, ledger
	agents map[string]*agent
	sorted []string

	lose, double, late float64       // of reports
	poll               time.Duration // of agents
	gather             time.Duration // that the hub lets pass after a report, for others to be decided on with it; 0: none
	due                bool          // it is about to
	bad                func(host string, release int) bool
	hosts              map[string]*rollout.Host // what the hub knows
	heard              time.Time
	tried              map[int]map[string]bool // hosts that activated a release
	wake               time.Time               // when the hub decides by itself
	decided            func(rollout.Facts, rollout.Decision)
}

// agent is a host's, as far as the roll-out sees it.
type agent struct {
	name   string
	status fleet.Status
	past   []outcome
	off    bool
	work   int // counts what it began: what a power cut ended is not gone on with
}

// outcome is a deployment that ended.
type outcome struct {
	release int
	system  string
	at      time.Time
	failed  bool
}

type event struct {
	at  time.Time
	seq int
	do  func()
}

type events struct {
	list []event
	seq  int
}

func (e *events) Len() int { return len(e.list) }
func (e *events) Less(i, j int) bool {
	return cmp.Or(e.list[i].at.Compare(e.list[j].at), e.list[i].seq-e.list[j].seq) < 0
}
func (e *events) Swap(i, j int) { e.list[i], e.list[j] = e.list[j], e.list[i] }
func (e *events) Push(x any)    { e.list = append(e.list, x.(event)) }
func (e *events) Pop() any {
	last := e.list[len(e.list)-1]
	e.list = e.list[:len(e.list)-1]
	return last
}

func (w *world) after(d time.Duration, do func()) {
	w.events.seq++
	heap.Push(&w.events, event{w.now.Add(d), w.events.seq, do})
}

// between is a random duration.
func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.rand.Int64N(int64(most-least)+1))
}

// newWorld has all hosts of a stand run release 1, that all steps have.
func newWorld(seed uint64, s *stand) *world {
	w := &world{rand: rand.New(rand.NewPCG(seed, 1)), now: noon, stand: s, agents: map[string]*agent{}, poll: time.Minute, tried: map[int]map[string]bool{},
		bad: func(string, int) bool { return false }, hosts: map[string]*rollout.Host{}, heard: noon.Add(-day)}
	s.everywhere(1)
	for _, h := range w.names() {
		a := &agent{name: h, status: s.Hosts[h].Status, past: []outcome{{1, system(h, 1), noon.Add(-day), false}}}
		a.status.Seen = nil
		w.agents[h] = a
		w.report(a)
		w.after(w.between(0, w.poll), func() { w.looks(a) })
	}
	return w
}

// names are those of all hosts, in order: a run is the same each time.
func (w *world) names() []string {
	if w.sorted == nil {
		w.sorted = slices.Sorted(maps.Keys(w.stand.hosts))
	}
	return w.sorted
}

// run has time go by until a moment, or until it is enough.
func (w *world) run(until time.Time, enough func() bool) bool {
	for len(w.events.list) > 0 && !w.events.list[0].at.After(until) {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
		if enough != nil && enough() {
			return true
		}
	}
	w.now = until
	return false
}

// looks is an agent's look at git, again and again.
func (w *world) looks(a *agent) {
	w.look(a)
	w.after(w.between(w.poll*9/10, w.poll*11/10), func() { w.looks(a) })
}

func (w *world) look(a *agent) {
	if a.off {
		return
	}
	newest := w.stand.Newest
	e, named := newest.Hosts[a.name]
	n := w.stand.Tips[fleet.Step{Ring: e.Ring, Batch: e.Batch}]
	s := &a.status
	if !named || n <= s.Newest.Number || s.Phase == fleet.PhaseActivating {
		w.report(a)
		return
	}
	system := w.stand.Releases[n].Hosts[a.name].OutPath
	ref := &fleet.ReleaseRef{Number: n}
	s.Newest = ref
	switch {
	case s.Active.OutPath == system:
		active := *s.Active
		active.Release = *ref
		s.Active = &active
		w.turn(a, fleet.PhaseIdle, nil)
	case s.Phase == fleet.PhaseHeld && s.Target.OutPath == system:
		w.turn(a, fleet.PhaseHeld, &fleet.Target{Release: *ref, Toplevel: fleet.Toplevel{OutPath: system}})
	default:
		w.begin(a, &fleet.Target{Release: *ref, Toplevel: fleet.Toplevel{OutPath: system}})
	}
}

// turn has the agent be in a phase, about a target, and say so.
func (w *world) turn(a *agent, phase fleet.Phase, target *fleet.Target) {
	s := &a.status
	if s.Phase != phase {
		s.Since = w.now
	}
	if s.Phase, s.Target = phase, target; phase != fleet.PhaseHeld {
		s.Failure = nil
	}
	w.report(a)
}

// begin has an agent stage a target, and activate it.
func (w *world) begin(a *agent, target *fleet.Target) {
	a.work++
	mine := a.work
	still := func(do func()) func() {
		return func() {
			if a.work == mine && !a.off {
				do()
			}
		}
	}
	w.turn(a, fleet.PhaseStaging, target)
	w.after(w.between(time.Second, 30*time.Second), still(func() {
		w.turn(a, fleet.PhaseActivating, target)
		n := target.Release.Number
		if w.tried[n] == nil {
			w.tried[n] = map[string]bool{}
		}
		w.tried[n][a.name] = true
		w.after(w.between(time.Second, 30*time.Second), still(func() { w.end(a, target) }))
	}))
}

func (w *world) end(a *agent, target *fleet.Target) {
	n, s := target.Release.Number, &a.status
	bad := w.bad(a.name, n)
	a.past = append(a.past, outcome{n, target.OutPath, w.now, bad})
	if bad {
		s.Failure = &fleet.Failure{Class: fleet.Bad, Message: "it is bad"}
		s.Last = &fleet.Deployment{Release: target.Release, Result: fleet.RolledBack, EndedAt: w.now}
		w.turn(a, fleet.PhaseHeld, target)
		return
	}
	s.Active = &fleet.Target{Release: target.Release, Toplevel: target.Toplevel, At: w.now}
	w.turn(a, fleet.PhaseIdle, nil)
}

// cut takes a host's power, or gives it again. What it was about then it begins once more.
func (w *world) cut(a *agent, off bool) {
	if a.off = off; off {
		a.work++
		return
	}
	if t := a.status.Target; t != nil && a.status.Phase != fleet.PhaseHeld {
		w.begin(a, t)
	}
	w.look(a)
}

// report sends what the agent says now, and all that it remembers.
func (w *world) report(a *agent) {
	if a.off {
		return
	}
	said, past := a.status, slices.Clip(a.past)
	said.At, said.NextPoll = w.now, w.now.Add(w.poll)
	for range 2 {
		if w.rand.Float64() >= w.lose {
			delay := w.between(0, 2*time.Second)
			if w.rand.Float64() < w.late {
				delay = w.between(0, 5*time.Minute)
			}
			w.after(delay, func() { w.hear(said, past) })
		}
		if w.rand.Float64() >= w.double {
			return
		}
	}
}

// hear is the hub's: an older status takes the place of no newer one, deployments are kept once each.
func (w *world) hear(said fleet.Status, past []outcome) {
	h := w.hosts[said.Host]
	if h == nil {
		h = &rollout.Host{}
		w.hosts[said.Host] = h
	}
	if !said.At.Before(h.Status.At) {
		said.Seen = &fleet.Seen{At: w.now}
		h.Status = said
	}
	for _, o := range past {
		if o.failed {
			if !slices.ContainsFunc(h.Faults, func(f rollout.Fault) bool { return f.At.Equal(o.at) }) {
				h.Faults = append(h.Faults, rollout.Fault{Release: o.release, At: o.at, Why: "it is bad"})
			}
		} else if !slices.ContainsFunc(h.Took, func(t rollout.Took) bool { return t.At.Equal(o.at) }) {
			h.Took = append(h.Took, rollout.Took{Release: o.release, OutPath: o.system, At: o.at})
		}
	}
	slices.SortFunc(h.Took, func(a, b rollout.Took) int { return a.At.Compare(b.At) })
	if w.gather == 0 {
		w.decide()
	} else if !w.due {
		w.due = true
		w.after(w.gather, func() { w.due = false; w.decide() })
	}
}

// restart has the hub forget all that is not in git.
func (w *world) restart() {
	w.hosts, w.heard = map[string]*rollout.Host{}, w.now
	w.decide()
}

// decide is what the hub does on each report, and when the clock alone changes something. Whom a move concerns it wakes, if that is not lost.
func (w *world) decide() {
	s := w.stand
	s.Now, s.Hosts, s.Heard = w.now, w.hosts, w.heard
	before := clone(s.Facts)
	d, _ := s.decide()
	if w.decided != nil {
		w.decided(before, d)
	}
	for _, m := range d.Moves {
		for _, h := range w.names() {
			if a, e := w.agents[h], s.Newest.Hosts[h]; e.Ring == m.Ring && e.Batch == m.Batch && w.rand.Float64() >= w.lose {
				w.after(w.between(0, time.Second), func() { w.look(a) })
			}
		}
	}
	if !d.Again.IsZero() && !d.Again.Equal(w.wake) {
		at := d.Again
		w.wake = at
		w.after(at.Sub(w.now), func() {
			if w.wake.Equal(at) {
				w.decide()
			}
		})
	}
}

// have counts hosts that run a release.
func (w *world) have(n int) (count int) {
	for _, a := range w.agents {
		if a.status.Active.OutPath == system(a.name, n) && a.status.Phase == fleet.PhaseIdle {
			count++
		}
	}
	return count
}

// randomWorld has rings with batches, soak times and a bad network. All first batches have a host more than may fail.
func randomWorld(seed uint64) *world {
	r := rand.New(rand.NewPCG(seed, 2))
	layout, limits := "", []int{}
	for i := range 2 + r.IntN(3) {
		if i > 0 {
			layout += ";"
		}
		layout += string(rune('a'+i)) + ":"
		limit := r.IntN(2)
		limits = append(limits, limit)
		for range 1 + r.IntN(3) {
			layout += fmt.Sprintf(" %d", limit+1+r.IntN(2))
		}
	}
	s := newStand(layout)
	for i := range s.rings {
		s.rings[i].SoakSeconds = int64(r.IntN(3) * 180)
		s.rings[i].Failures = limits[i]
	}
	w := newWorld(seed, s)
	w.lose, w.double, w.late = r.Float64()*0.25, r.Float64()*0.3, r.Float64()*0.3
	w.decide()
	return w
}

// A release that fails on the first hosts goes no further than the first batch, whatever the network does; the next one that is good comes everywhere, also to
// hosts that were away, and these never see the bad one.
func TestFailingCanary(t *testing.T) {
	reports := 0
	for seed := range uint64(simulations) {
		w := randomWorld(seed)
		r, s := w.rand, w.stand
		limit := s.rings[0].Failures
		var canaries []string
		for h, e := range s.hosts {
			if e.Ring == "a" && e.Batch == 1 {
				canaries = append(canaries, h)
			}
		}
		slices.Sort(canaries)
		first := canaries[:limit+1] // these fail; they are there
		w.bad = func(host string, n int) bool { return n == 2 && (seed%2 == 0 || slices.Contains(first, host)) }
		off := map[string]bool{}
		for _, h := range w.names() {
			if !slices.Contains(canaries, h) && r.IntN(5) == 0 {
				off[h] = true
				w.after(w.between(0, 30*time.Minute), func() { w.cut(w.agents[h], true) })
			}
		}
		w.after(20*time.Minute, func() { s.Now = w.now; s.publish(2); w.decide() })
		for range r.IntN(3) {
			w.after(w.between(0, 50*time.Minute), w.restart)
		}
		w.decided = func(f rollout.Facts, d rollout.Decision) {
			if reports++; reports%200 == 0 {
				check(t, fmt.Sprint("run ", seed), f, d)
			}
		}
		w.run(noon.Add(time.Hour), nil)
		if got := slices.Sorted(maps.Keys(w.tried[2])); !slices.Equal(got, canaries) {
			t.Fatalf("run %d: %q tried the bad release, not %q", seed, got, canaries)
		}
		for step, n := range s.Tips {
			if first := step.Ring == "a" && step.Batch == 1; first != (n == 2) {
				t.Fatalf("run %d: step %v has release %d", seed, step, n)
			}
		}
		if d := rollout.Decide(s.Facts); d.View.State != fleet.RolloutStopped || d.View.Rings[0].Failed.Count < len(first) {
			t.Fatalf("run %d: %+v", seed, d.View)
		}
		s.Now = w.now
		s.publish(3)
		w.decide()
		for _, h := range slices.Sorted(maps.Keys(off)) {
			w.after(w.between(0, time.Hour), func() { w.cut(w.agents[h], false) })
		}
		all := func() bool { return w.have(3) == len(w.agents) }
		if !w.run(w.now.Add(w.bound(len(off)+2)+time.Hour), all) {
			t.Fatalf("run %d: %d of %d hosts have the good release: %+v", seed, w.have(3), len(w.agents), rollout.Decide(w.stand.Facts).View)
		}
		if len(w.tried[2]) != len(canaries) {
			t.Fatalf("run %d: %q tried the bad release in the end", seed, slices.Sorted(maps.Keys(w.tried[2])))
		}
	}
	t.Log(reports, "decisions")
}

// bound is how long a release may take to all hosts that are there, where so many times something interrupts it: the soak times; for each step what hosts do, and
// until word of it arrives; and for each interruption as long as a host may be silent.
func (w *world) bound(interruptions int) time.Duration {
	d := time.Duration(len(w.stand.Newest.Steps())) * 8 * time.Minute
	for _, r := range w.stand.rings {
		d += time.Duration(r.SoakSeconds) * time.Second
	}
	return d + time.Duration(interruptions)*20*time.Minute
}

// Without failures all hosts have the release in the end, in not much more than the soak times, whoever is away for a while and however often the hub is lost.
func TestAllConverge(t *testing.T) {
	for seed := range uint64(simulations / 4) {
		w := randomWorld(seed)
		r, s := w.rand, w.stand
		w.after(20*time.Minute, func() { s.Now = w.now; s.publish(2); w.decide() })
		interruptions := r.IntN(4)
		for range interruptions {
			w.after(w.between(0, time.Hour), w.restart)
		}
		gone := 0
		for _, h := range w.names() {
			if a := w.agents[h]; r.IntN(6) == 0 {
				at := w.between(0, 40*time.Minute)
				w.after(at, func() { w.cut(a, true) })
				w.after(at+w.between(0, 30*time.Minute), func() { w.cut(a, false) })
				gone++
			}
		}
		end := noon.Add(20 * time.Minute)
		all := func() bool { return w.have(2) == len(w.agents) }
		w.run(end, nil)
		if !w.run(end.Add(w.bound(interruptions+2*gone)), all) {
			t.Fatalf("run %d: %d of %d hosts have it: %+v", seed, w.have(2), len(w.agents), rollout.Decide(s.Facts).View)
		}
		// And the hub says so when it has heard of all.
		done := func() bool { return rollout.Decide(s.Facts).View.State == fleet.RolloutDone }
		if !done() && !w.run(w.now.Add(time.Hour), done) {
			t.Fatalf("run %d: %+v", seed, rollout.Decide(s.Facts).View)
		}
	}
}
