package drill

import (
	_ "embed"
	"fmt"
	"html/template"

	"github.com/garrison-nix/garrison/internal/fleet"
)

//go:embed report.html
var pageText string

// page is a report in one file: nothing is fetched for it, and no script runs.
var page = template.Must(template.New("report").Parse(pageText))

// view is a report as the page asks about it.
type view struct{ fleet.DrillReport }

func (v view) Word() string         { return word(v.Passed) }
func (v view) Counts() string       { return counts(v.DrillReport) }
func (v view) Began() string        { return began(v.DrillReport) }
func (v view) Took() string         { return took(v.DrillReport) }
func (v view) LimitSeconds() string { return plainly(v.Timing.LimitSeconds) }
func (v view) Skips() []skips       { return skipped(v.DrillReport) }

// Of are the scenarios that ended so.
func (v view) Of(result fleet.DrillResult) (all []scene) {
	for _, s := range v.Scenarios {
		if s.Result == result {
			all = append(all, scene{s})
		}
	}
	return all
}

type scene struct{ fleet.DrillScenario }

// Bad are the checks that failed.
func (s scene) Bad() []failedCheck { return failedChecks(s.DrillScenario) }

// share is a part of the whole.
type share struct {
	figure
	Percent float64
}

// Parts are what the whole is the sum of; Sums other sums.
func (v view) Parts() (all []share) {
	parts, whole := partsOf(v.Timing), 0.0
	for _, f := range parts {
		whole += f.Median
	}
	for _, f := range parts {
		all = append(all, share{f, 100 * f.Median / max(whole, 1e-9)})
	}
	return all
}

func (v view) Sums() []figure { return sumsOf(v.Timing) }

// Last says when the change was pushed that the bars are of.
func (v view) Last() string {
	last := v.Timing.Changes[len(v.Timing.Changes)-1]
	return fmt.Sprintf("commit %.12s, pushed at %s, healthy after %.2f s", last.Commit, last.PushedAt.UTC().Format("2006-01-02 15:04:05 UTC"), last.Seconds)
}

// row is a stage, with bars of the last change.
type row struct {
	fleet.DrillStage
	Bars []bar
}

// bar is a span, or the part of it that is Garrison's own; in percent of the whole.
type bar struct {
	Part        fleet.DrillPart
	Says        string
	Left, Width float64
}

// Rows are the waterfall.
func (v view) Rows() (all []row) {
	t := v.Timing
	if t == nil || len(t.Changes) == 0 {
		return nil
	}
	last := t.Changes[len(t.Changes)-1]
	for _, s := range t.Stages {
		r := row{DrillStage: s}
		for _, span := range last.Spans {
			if span.Stage == s.Stage && last.Seconds > 0 {
				r.Bars = append(r.Bars, barsOf(span, last.Seconds)...)
			}
		}
		all = append(all, r)
	}
	return all
}

// least is how wide a bar is at least, in percent: what took no time is seen to have been there.
const least = 0.3

// barsOf are the bars of a span: first what went to its part, then Garrison's own.
func barsOf(s fleet.DrillSpan, whole float64) []bar {
	b := bar{Part: s.Part, Left: 100 * s.Began / whole, Width: max(least, 100*s.PartSeconds/whole),
		Says: fmt.Sprintf("%s from %.3f s to %.3f s: %.3f s %s", s.Stage, s.Began, s.Ended, s.PartSeconds, s.Part)}
	own := s.Ended - s.Began - s.PartSeconds
	if s.Part == fleet.PartOwn || own <= 0 {
		return []bar{b}
	}
	o := bar{Part: fleet.PartOwn, Left: 100 * (s.Began + s.PartSeconds) / whole, Width: max(least, 100*own/whole), Says: fmt.Sprintf("%.3f s Garrison itself", own)}
	if s.PartSeconds == 0 {
		o.Says = fmt.Sprintf("%s from %.3f s to %.3f s: Garrison itself", s.Stage, s.Began, s.Ended)
		return []bar{o}
	}
	return []bar{b, o}
}
