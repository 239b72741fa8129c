package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// scenario is one thing that is drilled: what is done, and what must then be seen.
type scenario struct {
	name  string // stable, for --only and --allow
	title string // what is expected, as a sentence
	// live says that it can be drilled on somebody's fleet, harm that it may then disturb the host.
	live, harm bool
	// missing says what the place lacks for it; "" when nothing.
	missing func(place) string
	run     func(ctx context.Context, r *run) error
}

// run is a scenario under way.
type run struct {
	*session
	place
	yard *yard // the place where it is a sandbox; nil elsewhere
	live *live // and where it is somebody's fleet
	fleet.DrillScenario
	began time.Time
	undo  []func(context.Context) error
	heard int // bytes of the agent's log that were there before
}

// see looks at something: f returns what it saw, or what it should have seen.
func (r *run) see(name string, f func() (detail string, err error)) {
	began := time.Now()
	detail, err := f()
	c := fleet.DrillCheck{Name: name, Result: fleet.DrillPass, Detail: detail, Seconds: time.Since(began).Seconds()}
	if err != nil {
		c.Result, c.Detail = fleet.DrillFail, err.Error()
		r.Result = fleet.DrillFail
	}
	c.Detail = readable(c.Detail)
	r.Checks = append(r.Checks, c)
	r.out.check(c)
}

// mostRead is how much is kept of what was seen, in bytes: a hub takes reports of 1 MiB.
const mostRead = 4 << 10

// readable is what hosts, git and logs say, as a report and a terminal may have it: not more than one reads, and nothing that does something to a terminal.
func readable(text string) string {
	if len(text) > mostRead {
		text = text[:mostRead] + " …"
	}
	return fleet.Visible(text, "\n\t")
}

// await is see for what comes sometime: f is asked again and again, until it returns no error or patience ends.
func (r *run) await(ctx context.Context, name string, f func() (detail string, err error)) {
	r.see(name, func() (detail string, err error) {
		err = until(ctx, r.patience, r.again, func() (err error) {
			detail, err = f()
			return err
		})
		return detail, err
	})
}

// final is an error that waiting does not change.
type final struct{ error }

// until calls f again and again until it returns no error, or a final one, or most has passed: then its last error says what was missing.
func until(ctx context.Context, most, again time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		err := f()
		var end final
		switch {
		case err == nil:
			return nil
		case errors.As(err, &end):
			return end.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s in vain: %w", most, errors.Join(err, context.Cause(ctx)))
		case <-time.After(again):
		}
	}
}

// afterwards has f done when the scenario has ended, however it ends; the last one first.
func (r *run) afterwards(f func(context.Context) error) { r.undo = append(r.undo, f) }

// confirm runs a command that a person would type, on a host, and keeps it for the report.
func (r *run) confirm(ctx context.Context, host, command string) (string, error) {
	r.Commands = append(r.Commands, command)
	return r.yard.run(ctx, host, "sh", "-c", command)
}

// agentLog is what the drilled host's agent has said in this scenario; earlier ones had it say the same words.
func (r *run) agentLog() (string, error) {
	log, err := r.yard.world.hosts[drilled].ReadFile("/var/log/agent.log")
	return string(log[min(r.heard, len(log)):]), err
}

// play runs a scenario. What it returns is worse than a failed check: the fleet is not as it was.
func (s *session) play(ctx context.Context, sc scenario) error {
	r := s.begin(sc.name, sc.title)
	if why := s.unfit(sc); why != "" {
		r.Result, r.Detail = fleet.DrillSkip, why
		r.end(nil)
		return nil
	}
	s.out.title("%s: %s", sc.name, sc.title)
	if r.yard != nil {
		log, _ := r.agentLog() // none is one of no length
		r.heard = len(log)
	}
	err := sc.run(ctx, r)
	if r.yard != nil && ctx.Err() != nil { // it is thrown away, not mended
		r.end(unlessStopped(ctx, err))
		return ctx.Err()
	}
	mending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*s.patience) // also after Ctrl-C
	defer cancel()
	var mend []error
	for _, undo := range slices.Backward(r.undo) {
		mend = append(mend, undo(mending))
	}
	mended := errors.Join(append(mend, s.place.mend(mending))...)
	r.end(errors.Join(unlessStopped(ctx, err), mended))
	if mended != nil {
		return fmt.Errorf("after %s the fleet is not as it was: %w", sc.name, mended)
	}
	return ctx.Err()
}

// unfit says why a scenario is not drilled here; "" when it is.
func (s *session) unfit(sc scenario) string {
	_, sandboxed := s.place.(*yard)
	switch {
	case len(s.Only) > 0 && !slices.Contains(s.Only, sc.name):
		return "not asked for"
	case !sandboxed && !sc.live:
		return "only in a sandbox"
	case !sandboxed && sc.harm && !slices.Contains(s.Allow, sc.name):
		return "may disturb the host: --allow " + sc.name
	case !sandboxed && sc.harm && !s.place.(*live).agent:
		return "needs Garrison's agent on the host: nothing else is known to roll back"
	case sc.missing != nil:
		return sc.missing(s.place)
	}
	return ""
}

// unlessStopped is err, or that ctx was ended: whatever that interrupted says nothing of the fleet.
func unlessStopped(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errors.New("stopped before its end")
	}
	return err
}

// begin begins a scenario.
func (s *session) begin(name, title string) *run {
	r := &run{session: s, place: s.place, began: time.Now(), DrillScenario: fleet.DrillScenario{Name: name, Title: title, Result: fleet.DrillPass, Checks: []fleet.DrillCheck{}}}
	r.yard, _ = s.place.(*yard)
	r.live, _ = s.place.(*live)
	return r
}

// end puts a scenario into the report; an error is what went wrong beside its checks.
func (r *run) end(err error) {
	if r.Result != fleet.DrillSkip {
		r.Seconds = time.Since(r.began).Seconds()
	}
	if err != nil {
		r.Result, r.Detail = fleet.DrillFail, readable(err.Error())
		r.out.line("  %s %s", r.out.paint(red, "FAIL"), r.Detail)
	}
	if r.Result == fleet.DrillFail {
		r.Next = r.next()
	}
	r.report.Scenarios = append(r.report.Scenarios, r.DrillScenario)
}

// catalogue is everything that can be drilled, in its order.
func catalogue() []scenario {
	return slices.Concat(happy, failing, activating, outages, hostile, recovery, rollouts)
}

// Names are the names of all scenarios, for completion and help.
func Names() []string {
	var all []string
	for _, s := range catalogue() {
		all = append(all, s.name)
	}
	return all
}

// Catalogue is the name of each scenario, and what is expected in it.
func Catalogue() (all [][2]string) {
	for _, s := range catalogue() {
		all = append(all, [2]string{s.name, s.title})
	}
	return all
}

// checkNames says which of names are no scenario's.
func checkNames(names []string) error {
	for _, n := range names {
		if !slices.Contains(Names(), n) {
			return fleet.Errorf("", fleet.CodeUsage, "there is no scenario %q", n).WithHint("there are: %s", strings.Join(Names(), " "))
		}
	}
	return nil
}
