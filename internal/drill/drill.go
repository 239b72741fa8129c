package drill

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// DrillOptions of a drill.
type DrillOptions struct {
	Options
	Only   []string      // names of scenarios; none: all that the place lets be drilled
	Allow  []string      // those that may disturb a live host, and are drilled nevertheless
	Repeat int           // of the happy path
	Limit  time.Duration // from push to healthy
	// HostBase is the folder of the base of systemd hosts; "": hosts are plain namespaces.
	HostBase string
}

// session is one drill.
type session struct {
	DrillOptions
	out    *printer
	place  place
	report fleet.DrillReport
	// patience is for anything that is waited for; again is when it is looked at again.
	patience, again time.Duration
}

// Sandbox drills a fleet that it makes for that. Its error has CodeDrillFailed when something failed.
func Sandbox(ctx context.Context, o DrillOptions) (fleet.DrillReport, error) {
	if err := errors.Join(checkNames(o.Only), checkNames(o.Allow)); err != nil {
		return fleet.DrillReport{}, err
	}
	mine, err := freshDir(o.Dir)
	if err != nil {
		return fleet.DrillReport{}, err
	}
	defer func() { _ = mine.Close() }()
	s := newSession(o)
	y := &yard{base: o.HostBase}
	s.place = y
	defer func() { _ = y.close() }() // again does nothing
	if err := s.makeYard(ctx, y); err != nil {
		s.report.Where, s.report.Host = y.where(), drilled
		err = errors.Join(err, y.close())
		if ctx.Err() != nil {
			err = context.Canceled // whatever it was that was interrupted
		}
		s.judge(err)
		return s.report, err
	}
	err = s.drill(ctx)
	return s.ended(ctx, errors.Join(err, y.close()))
}

func newSession(o DrillOptions) *session {
	return &session{DrillOptions: o, patience: patience, again: lookAgain, out: &printer{w: o.Out, terminal: o.Terminal, colour: o.Colour},
		report: fleet.DrillReport{Schema: fleet.DrillSchema, ID: rand.Text(), Version: o.Version, StartedAt: time.Now().UTC(), Scenarios: []fleet.DrillScenario{}}}
}

// drill plays all scenarios, until one leaves the fleet worse than it found it.
func (s *session) drill(ctx context.Context) error {
	s.report.Where, s.report.Host = s.place.where(), s.place.hosts()[0]
	if err := s.place.ready(ctx); err != nil {
		return fmt.Errorf("the fleet is not well, so nothing was drilled: %w", err)
	}
	for _, sc := range catalogue() {
		if err := s.play(ctx, sc); err != nil {
			return err
		}
	}
	return nil
}

// ended is the report, and the error that says how it ended.
func (s *session) ended(ctx context.Context, err error) (fleet.DrillReport, error) {
	passed, failed := s.judge(err)
	if t := s.report.Timing; t != nil {
		s.out.title("The visible change, stage by stage, in seconds")
		s.out.timing(t)
	}
	s.out.summary(s.report)
	switch {
	case err != nil && ctx.Err() != nil:
		return s.report, context.Canceled
	case err != nil:
		return s.report, fleet.Errorf("", fleet.CodeDrillFailed, "the drill did not come to its end").WithCause(err)
	case !s.report.Passed:
		return s.report, fleet.Errorf("", fleet.CodeDrillFailed, "the drill failed: %d of %d scenarios", failed, passed+failed)
	}
	return s.report, nil
}

// judge is the verdict.
func (s *session) judge(err error) (passed, failed int) {
	s.report.EndedAt = time.Now().UTC()
	for _, sc := range s.report.Scenarios {
		switch sc.Result {
		case fleet.DrillPass:
			passed++
		case fleet.DrillFail:
			failed++
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		s.report.Error = "stopped before its end"
	case err != nil:
		s.report.Error = readable(err.Error())
	}
	s.report.Passed = s.report.MayHavePassed()
	return passed, failed
}
