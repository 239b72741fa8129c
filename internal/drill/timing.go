package drill

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// journey is one visible change's way, as CI's run and the drilled host's deployment tell it.
type journey struct {
	pushedAt time.Time
	spans    []span
	ended    time.Time // when the host had committed
}

// span is a part of it: a stage, or what passed before one.
type span struct {
	name, what   string
	began, ended time.Time
	tools        float64 // seconds of git, nix and switch-to-configuration
	waiting      bool    // nothing of Garrison's was at work
}

// journeyOf puts stages on one line. What passes between two stages of CI, or of the host, is Garrison's own; before the first ones nothing
// is at work that is known of.
func journeyOf(p pushed, run *fleet.Run, d *fleet.Deployment) journey {
	j := journey{pushedAt: p.at, ended: d.EndedAt}
	last := p.at
	notice := func(began time.Time, what string) {
		if began.After(last) {
			j.spans = append(j.spans, span{name: "notice", what: what, began: last, ended: began, waiting: true})
			last = began
		}
	}
	add := func(s fleet.StageTime, name string) {
		began, ended := later(s.StartedAt, last), s.EndedAt()
		if ended.Before(began) {
			return
		}
		tools := min(s.ToolSeconds, ended.Sub(began).Seconds())
		last = ended
		if i := len(j.spans) - 1; i >= 0 && j.spans[i].name == name { // done twice
			j.spans[i].ended, j.spans[i].tools = ended, j.spans[i].tools+tools
			return
		}
		j.spans = append(j.spans, span{name: name, what: stageWords[name], began: began, ended: ended, tools: tools, waiting: s.Stage == fleet.Gate})
	}
	if run != nil && len(run.Stages) > 0 {
		notice(run.Stages[0].StartedAt, "git push, until CI has begun")
		for _, s := range run.Stages {
			name := string(s.Stage)
			if s.Stage == fleet.Fetch {
				name = "ci-fetch"
			}
			if len(d.Stages) > 0 { // what CI does beside the host is not on the way
				s = cutAt(s, d.Stages[0].StartedAt)
			}
			add(s, name)
		}
	}
	if len(d.Stages) > 0 {
		notice(d.Stages[0].StartedAt, "until the host has begun to look: woken, or by its poll")
	}
	for _, s := range d.Stages {
		add(s, string(s.Stage))
	}
	return j
}

// seenJourney is that of a host without an agent of ours: what happened in between nobody says.
func seenJourney(p pushed, ci, seen time.Time) journey {
	return journey{pushedAt: p.at, ended: seen, spans: []span{
		{name: "ci", what: "git push, until CI was seen to have released it", began: p.at, ended: ci, waiting: true},
		{name: "host", what: "until the host was seen to have it", began: ci, ended: seen, waiting: true},
	}}
}

// later is the later of two times: a host may see a release before CI has heard that it is pushed.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// stageWords say what is done in a stage.
var stageWords = func() map[string]string {
	m := map[string]string{}
	for _, s := range stages {
		m[s.name] = s.what
	}
	return m
}()

// timing are the figures of all repetitions.
func timing(all []journey, limit time.Duration) *fleet.DrillTiming {
	if len(all) == 0 {
		return nil
	}
	t := &fleet.DrillTiming{Repeat: len(all), LimitSeconds: limit.Seconds()}
	var whole, own, tools, waiting []float64
	byName := map[string][]float64{}
	for _, j := range all {
		total := j.ended.Sub(j.pushedAt).Seconds()
		toolSeconds, waited := 0.0, 0.0
		sums := map[string]float64{}
		for _, s := range j.spans {
			seconds := s.ended.Sub(s.began).Seconds()
			sums[s.name+"\x00"+s.what] += seconds
			switch {
			case s.waiting:
				waited += seconds
			default:
				toolSeconds += s.tools
			}
		}
		for name, seconds := range sums {
			byName[name] = append(byName[name], seconds)
		}
		whole, tools, waiting = append(whole, total), append(tools, toolSeconds), append(waiting, waited)
		own = append(own, max(0, total-toolSeconds-waited))
	}
	t.PushToHealthy, t.Own, t.Tools, t.Waiting = spread(whole), spread(own), spread(tools), spread(waiting)
	last := all[len(all)-1]
	for _, s := range last.spans {
		t.Stages = append(t.Stages, fleet.DrillStage{Stage: s.name, What: s.what, Spread: spread(byName[s.name+"\x00"+s.what]),
			Began: s.began.Sub(last.pushedAt).Seconds(), Ended: s.ended.Sub(last.pushedAt).Seconds()})
	}
	return t
}

// spread sorts x. Of few cases the 95th percentile is the longest one.
func spread(x []float64) fleet.Spread {
	if len(x) == 0 {
		return fleet.Spread{}
	}
	x = slices.Sorted(slices.Values(x))
	at := func(q float64) float64 { return x[min(len(x)-1, int(math.Ceil(q*float64(len(x))))-1)] }
	return fleet.Spread{Count: len(x), Median: at(0.5), P95: at(0.95), Most: x[len(x)-1]}
}

// times is a number, as how often.
func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// tellTiming prints the table of stages, and the target beside what was seen.
func (s *session) tellTiming() {
	t := s.report.Timing
	if t == nil {
		return
	}
	s.out.title("The visible change, stage by stage, %s (seconds: median, p95)", times(t.Repeat))
	for _, g := range t.Stages {
		s.out.line("  %-10s %7.3f %7.3f  %s", g.Stage, g.Median, g.P95, s.out.paint(grey, g.What))
	}
	total := func(name string, x fleet.Spread, what string) {
		s.out.line("  %-10s %7.3f %7.3f  %s", name, x.Median, x.P95, s.out.paint(grey, what))
	}
	total("own", t.Own, "of it Garrison itself")
	total("tools", t.Tools, "git, nix and switch-to-configuration")
	total("waiting", t.Waiting, "nothing was at work")
	total("whole", t.PushToHealthy, fmt.Sprintf("push → healthy; limit %.0f s", t.LimitSeconds))
}
