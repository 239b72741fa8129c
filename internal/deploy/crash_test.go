package deploy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// world is a host around the state machine: a record on disk, an agent that may die, a helper that outlives it, systems. Its agent
// does what internal/agent does: writes the record, then starts effects.
type world struct {
	Policy
	at      time.Time
	disk    Record
	agent   Record
	results []Event // of effects, in the agent's memory only
	systems fleet.Systems
	helper  string // the request that was begun last
	outcome Activated

	steps, killAt int // a step is a write of the record, or the start of an effect
	reboots       int
	starts        map[string]int // activations begun, by request
}

// killed says that the agent died at this step.
func (w *world) killed() bool {
	w.steps++
	return w.steps == w.killAt
}

// apply is false when the agent was killed meanwhile.
func (w *world) apply(e Event) bool {
	next, effects := w.Next(w.agent, e, w.at, 0.5)
	if fmt.Sprintf("%+v", next) != fmt.Sprintf("%+v", w.agent) {
		w.disk = next
		if w.killed() {
			return false
		}
	}
	w.agent = next
	for _, effect := range effects {
		switch effect {
		case Stage:
			w.results = append(w.results, Staged{})
		case Activate:
			w.begin()
		case Resume:
			if w.helper != w.request() {
				w.begin()
			} else {
				w.results = append(w.results, w.outcome)
			}
		case Reboot:
			w.reboots++
			w.systems.Current, w.systems.Booted, w.systems.Reboot = w.systems.Profile, w.systems.Profile, false
			return false
		}
		if w.killed() {
			return false
		}
	}
	return true
}

func (w *world) request() string {
	t := w.agent.Target
	return fmt.Sprintf("%d-%d-%d", t.Release.Number, t.At.UnixNano(), w.agent.Attempt)
}

// begin has the helper do all of its work, whatever becomes of the agent.
func (w *world) begin() {
	w.helper = w.request()
	w.starts[w.helper]++
	to := w.agent.Target.OutPath
	switch {
	case strings.Contains(to, "-bad"):
		w.outcome = Activated{Result: fleet.RolledBack, Failure: &badRelease, Systems: w.systems}
	case strings.Contains(to, "-boot"):
		w.systems.Profile = to
		w.outcome = Activated{Result: fleet.RebootNeeded, Systems: w.systems}
	case w.agent.Target.Release.Test != "":
		w.systems.Current = to
		w.outcome = Activated{Result: fleet.Tested, Systems: w.systems}
	default:
		w.systems.Current, w.systems.Profile = to, to
		w.outcome = Activated{Result: fleet.Committed, Systems: w.systems}
	}
	w.results = append(w.results, w.outcome)
}

// happens brings something from outside to the agent, and all that follows from it. Whoever got no answer from an agent that
// was killed asks its successor again.
func (w *world) happens(e Event) {
	w.at = w.at.Add(10 * time.Minute)
	if o, ok := e.(Observed); ok {
		o.Systems.Booted = w.systems.Booted
		w.systems = o.Systems
	}
	for answered := false; !answered; w.at = w.at.Add(time.Second) {
		switch o := e.(type) {
		case Found:
			o.Systems = w.systems
			answered = w.apply(o)
		case Observed:
			answered = w.apply(Observed{w.systems})
		default:
			answered = w.apply(e)
		}
		for whole := answered && w.rest(); !whole; {
			w.agent, w.results = w.disk, nil
			whole = w.apply(Restarted{Systems: w.systems}) && w.rest()
		}
		if _, isDue := e.(Due); isDue {
			return // nobody repeats it but the timer
		}
	}
}

func (w *world) rest() bool {
	for len(w.results) > 0 {
		e := w.results[0]
		w.results = w.results[1:]
		if !w.apply(e) {
			return false
		}
	}
	return true
}

// outcome in a line: what must not depend on when an agent was killed.
func (w *world) String() string {
	r := w.agent
	choice, wait := "", fleet.WaitFor("")
	if r.Choice != nil {
		choice = r.Choice.Act
	}
	if r.Wait != nil {
		wait = r.Wait.For
	}
	return fmt.Sprintf("%s active=%s target=%s choice=%s wait=%s drift=%v suspended=%v corrections=%d reboots=%d runs=%s boots=%s", r.Phase,
		pathOf(r.Active), pathOf(r.Target), choice, wait, r.Drift != nil, r.Suspended != nil, r.Corrections, w.reboots, w.systems.Current, w.systems.Profile)
}

// TestKilledAtEveryStep kills the agent after every write of its record and every start of an effect, one after the other, and
// compares how things end with a run in which nothing was disturbed.
func TestKilledAtEveryStep(t *testing.T) {
	always := [7]bool{true, true, true, true, true, true, true}
	night := Windows{{Days: always, Start: 7 * 60, End: 9 * 60}} // from the sixth event on
	suspended := Suspend{By: root, Reason: "r", Until: t0.Add(24 * time.Hour)}
	for name, c := range map[string]struct {
		policy Policy
		events []Event
		ends   fleet.Phase
	}{
		"releases":           {free, []Event{release(1, "a"), release(2, "b"), release(3, "b"), release(4, "c")}, fleet.PhaseIdle},
		"held and retried":   {free, []Event{release(1, "a"), release(2, "bad"), Retry{}, release(3, "bad"), Retry{}}, fleet.PhaseHeld},
		"reverts":            {free, []Event{release(1, "a"), release(2, "bad"), release(3, "a"), release(4, "b"), release(5, "a")}, fleet.PhaseIdle},
		"confirmed":          {Policy{Confirm: true}, []Event{release(1, "a"), yes(1, false), release(2, "b"), release(3, "c"), yes(3, false)}, fleet.PhaseIdle},
		"unconfirmed":        {Policy{Confirm: true}, []Event{release(1, "a"), yes(1, false), release(2, "b"), yes(1, false), Due{}}, fleet.PhaseWaiting},
		"window":             {Policy{Windows: night}, []Event{release(1, "a"), Due{}, Due{}, Due{}, Due{}, Due{}, Due{}}, fleet.PhaseIdle},
		"before the window":  {Policy{Windows: night}, []Event{release(1, "a"), Due{}, yes(1, false)}, fleet.PhaseWaiting},
		"suspended":          {free, []Event{release(1, "a"), suspended, release(2, "b"), Due{}}, fleet.PhaseWaiting},
		"resumed":            {free, []Event{release(1, "a"), suspended, release(2, "b"), Due{}, Resumed{}}, fleet.PhaseIdle},
		"rolled back":        {free, []Event{release(1, "a"), release(2, "b"), chosen(fleet.ActRollback, 1, "a", true), release(3, "b")}, fleet.PhaseOverruled},
		"chosen, and on":     {free, []Event{release(1, "a"), chosen(fleet.ActDeploy, 0, "x", false), release(2, "a"), release(3, "b")}, fleet.PhaseIdle},
		"a bad choice":       {free, []Event{release(1, "a"), chosen(fleet.ActDeploy, 0, "bad", false)}, fleet.PhaseHeld},
		"drift":              {free, []Event{release(1, "a"), observed("x", "x"), release(2, "a"), Due{}}, fleet.PhaseOverruled},
		"drift, and on":      {free, []Event{release(1, "a"), observed("x", "x"), release(2, "b")}, fleet.PhaseIdle},
		"corrected":          {Policy{Correct: true, Grace: time.Minute}, []Event{release(1, "a"), observed("x", "x"), Due{}, observed("y", "y"), Due{}}, fleet.PhaseIdle},
		"tested":             {free, []Event{release(1, "a"), test(1, 1, "x"), test(2, 1, "y")}, fleet.PhaseTesting},
		"tested, and back":   {free, []Event{release(1, "a"), test(1, 1, "x"), TestGone{}}, fleet.PhaseIdle},
		"overtaken":          {free, []Event{release(1, "a"), test(1, 1, "x"), release(2, "a"), test(1, 1, "x")}, fleet.PhaseIdle},
		"a bad test":         {free, []Event{release(1, "a"), test(1, 1, "bad"), test(1, 1, "bad")}, fleet.PhaseHeld},
		"a bad test, and on": {free, []Event{release(1, "a"), test(1, 1, "bad"), release(2, "b")}, fleet.PhaseIdle},
		"rebooted":           {Policy{Reboots: night}, []Event{release(1, "a"), release(2, "boot"), Due{}, Due{}, Due{}, Due{}, Due{}, Due{}, Due{}}, fleet.PhaseIdle},
	} {
		t.Run(name, func(t *testing.T) {
			run := func(killAt int) *world {
				w := &world{Policy: c.policy, at: t0, disk: New("h", t0), agent: New("h", t0), killAt: killAt, starts: map[string]int{}, systems: running("none")}
				for _, e := range c.events {
					w.happens(e)
				}
				return w
			}
			want := run(0)
			if want.agent.Phase != c.ends {
				t.Fatalf("it ends as %s", want)
			}
			for n := 1; n <= want.steps; n++ {
				got := run(n)
				// A reboot is not tried twice, also where nobody knows whether the first try got anywhere.
				lost := want.reboots == 1 && got.reboots == 0 && got.agent.Phase == fleet.PhaseReboot && got.agent.Rebooted != ""
				if got.String() != want.String() && !lost {
					t.Errorf("killed at step %d of %d it ends as\n%s, not\n%s", n, want.steps, got, want)
				}
				for request, starts := range got.starts {
					if starts > 1 {
						t.Errorf("killed at step %d, %s was begun %d times", n, request, starts)
					}
				}
			}
			t.Logf("%d steps", want.steps)
		})
	}
}
