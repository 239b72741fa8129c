package drill

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// HistorySchema is the schema of History.
const HistorySchema = 1

// History are drills that were kept, and how they went from one to the next; docs/DRILL.md describes it.
type History struct {
	Schema int      `json:"schema"`
	Fleets []Course `json:"fleets"`
	// Unread are files among those kept that are no reports of drills.
	Unread []Unread `json:"unread"`
}

// Course is the course of the drills of one host.
type Course struct {
	Where     string     `json:"where"`
	Host      string     `json:"host"`
	Drills    []Past     `json:"drills"`    // newest first
	Scenarios []PastPart `json:"scenarios"` // in the order in which they are drilled
}

// Past is a drill that was kept.
type Past struct {
	ID        string    `json:"id"`
	StartedAt time.Time `json:"startedAt"`
	Seconds   float64   `json:"seconds"`
	Version   string    `json:"version"`
	Passed    bool      `json:"passed"`
	// How the scenarios ended: numbers, and who failed.
	ScenariosPassed  int      `json:"scenariosPassed"`
	ScenariosSkipped int      `json:"scenariosSkipped"`
	Failed           []string `json:"failed"`
	Figures          []Trend  `json:"figures,omitempty"` // in the order of Trends; missing when no visible change was timed
}

// Trend is a figure of a drill, in seconds, beside the drills before it.
type Trend struct {
	Name string `json:"name"` // one of Trends
	fleet.Spread
	// Before is the median of the medians of all earlier drills of the same host; nil: there is none.
	Before *float64 `json:"before,omitempty"`
}

// PastPart is how a scenario ended in all drills.
type PastPart struct {
	Name       string     `json:"name"`
	Passed     int        `json:"passed"`
	Failed     int        `json:"failed"`
	Skipped    int        `json:"skipped"`
	LastFailed *time.Time `json:"lastFailed,omitempty"` // when that drill began
}

// Unread is a file that is no report of a drill.
type Unread struct {
	File   string `json:"file"`
	Reason string `json:"reason"`
}

// Trends are the figures whose course is shown, as DrillTiming has them.
var Trends = []string{"pushToHealthy", "own", "ci", "notice", "staging", "activation"}

func trendsOf(t *fleet.DrillTiming) []fleet.Spread {
	return []fleet.Spread{t.PushToHealthy, t.Own, t.CI, t.Notice, t.Staging, t.Activation}
}

// Direction says how the figure stands beside the ones before: +1 when it is worse, -1 when it is better, by more than a tenth and 20 ms; 0 else.
func (t Trend) Direction() int {
	if t.Before == nil {
		return 0
	}
	switch by := t.Median - *t.Before; {
	case by > max(*t.Before/10, 0.02):
		return 1
	case by < -max(*t.Before/10, 0.02):
		return -1
	}
	return 0
}

// HistoryOf looks at reports of drills, in any order. The same drill counts once.
func HistoryOf(all []fleet.DrillReport, unread []Unread) History {
	h := History{Schema: HistorySchema, Fleets: []Course{}, Unread: append([]Unread{}, unread...)}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b fleet.DrillReport) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	all = slices.CompactFunc(all, func(a, b fleet.DrillReport) bool { return a.ID == b.ID })
	for _, r := range all { // oldest first
		i := slices.IndexFunc(h.Fleets, func(c Course) bool { return c.Where == r.Where && c.Host == r.Host })
		if i < 0 {
			i, h.Fleets = len(h.Fleets), append(h.Fleets, Course{Where: r.Where, Host: r.Host})
		}
		h.Fleets[i].add(r)
	}
	for i := range h.Fleets {
		slices.Reverse(h.Fleets[i].Drills)
	}
	slices.SortFunc(h.Fleets, func(a, b Course) int {
		return cmp.Or(strings.Compare(a.Where, b.Where), strings.Compare(a.Host, b.Host))
	})
	return h
}

// add takes in a drill that is newer than all of c's.
func (c *Course) add(r fleet.DrillReport) {
	p := Past{ID: r.ID, StartedAt: r.StartedAt, Seconds: r.EndedAt.Sub(r.StartedAt).Seconds(), Version: r.Version, Passed: r.Passed, Failed: []string{}}
	for _, s := range r.Scenarios {
		i := slices.IndexFunc(c.Scenarios, func(x PastPart) bool { return x.Name == s.Name })
		if i < 0 {
			i, c.Scenarios = len(c.Scenarios), append(c.Scenarios, PastPart{Name: s.Name})
		}
		part := &c.Scenarios[i]
		switch s.Result {
		case fleet.DrillPass:
			p.ScenariosPassed++
			part.Passed++
		case fleet.DrillFail:
			p.Failed = append(p.Failed, s.Name)
			part.Failed++
			part.LastFailed = &r.StartedAt
		default:
			p.ScenariosSkipped++
			part.Skipped++
		}
	}
	if r.Timing != nil {
		for i, x := range trendsOf(r.Timing) {
			p.Figures = append(p.Figures, Trend{Name: Trends[i], Spread: x, Before: c.medianOf(i)})
		}
	}
	c.Drills = append(c.Drills, p)
}

// medianOf is the median of a figure's medians so far.
func (c *Course) medianOf(figure int) *float64 {
	var x []float64
	for _, d := range c.Drills {
		if d.Figures != nil {
			x = append(x, d.Figures[figure].Median)
		}
	}
	if len(x) == 0 {
		return nil
	}
	m := spread(x).Median
	return &m
}

// Spark are figures as bars, one for each: the higher the longer it took, from nothing to the longest. "·" is a drill without.
func Spark(x []float64) string {
	const bars = "▁▂▃▄▅▆▇█"
	steps := []rune(bars)
	most := 0.0
	for _, v := range x {
		most = max(most, v)
	}
	var b strings.Builder
	for _, v := range x {
		if v <= 0 || most <= 0 {
			b.WriteRune('·')
			continue
		}
		b.WriteRune(steps[min(len(steps)-1, int(v/most*float64(len(steps))))])
	}
	return b.String()
}

// Line is the course of push → healthy, oldest first, of the newest n drills.
func (c Course) Line(n int) string {
	var x []float64
	for _, d := range slices.Backward(c.Drills[:min(n, len(c.Drills))]) {
		seconds := 0.0
		if d.Figures != nil {
			seconds = d.Figures[0].Median
		}
		x = append(x, seconds)
	}
	return Spark(x)
}
