package hub

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/metrics"
)

// buckets of durations, in seconds: of stages from a blink to an hour, of lead times from seconds to a week.
var (
	stageBuckets = []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600}
	leadBuckets  = []float64{5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600}
)

// counts are what happened since the hub started. The zero value is ready. What labels it has is bounded: stages beyond those that Garrison
// has, which a token could make up, are one.
type counts struct {
	mu          sync.Mutex
	stages      map[sideStage]*metrics.Histogram
	lead        metrics.Histogram
	runs        map[fleet.RunState]int
	deployments map[fleet.Result]int
	told        map[toldResult]int
	acts        map[string]int // of the roll-out
	storeErrors int
}

type sideStage struct{ side, stage string }

type toldResult struct{ kind, result string }

var stagesKnown = []fleet.Stage{fleet.Evaluate, fleet.Rekey, fleet.Build, fleet.Push, fleet.Publish, fleet.Fetch, fleet.Verify, fleet.Staging, fleet.Gate, fleet.Activate, fleet.Check,
	fleet.Commit, fleet.Reporting}

func (c *counts) change(f func(*counts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
}

func (c *counts) storeFailed() {
	c.change(func(c *counts) { c.storeErrors++ })
}

// event counts what was not told before.
func (c *counts) event(e fleet.Event) {
	switch e.Type {
	case fleet.EventRun:
		var r fleet.Run
		if json.Unmarshal(e.Data, &r) == nil && r.EndedAt != nil {
			c.change(func(c *counts) {
				add(&c.runs, r.State)
				c.observe("ci", r.Stages)
			})
		}
	case fleet.EventRollout:
		var a fleet.RolloutAct
		if json.Unmarshal(e.Data, &a) == nil {
			c.change(func(c *counts) { add(&c.acts, a.Act) })
		}
	case fleet.EventDeployment:
		var d fleet.Deployment
		if json.Unmarshal(e.Data, &d) == nil {
			c.change(func(c *counts) { c.deployment(d) })
		}
	}
}

func (c *counts) deployment(d fleet.Deployment) {
	result := d.Result
	if !slices.Contains(fleet.Results, result) {
		result = "other"
	}
	add(&c.deployments, result)
	c.observe("host", d.Stages)
	pushed := d.Release.Source.PushedAt
	if d.Result == fleet.Committed && d.Choice == nil && pushed != nil && d.EndedAt.After(*pushed) {
		c.lead.Observe(leadBuckets, d.EndedAt.Sub(*pushed).Seconds())
	}
}

func (c *counts) observe(side string, stages []fleet.StageTime) {
	for _, s := range stages {
		key := sideStage{side, string(s.Stage)}
		if !slices.Contains(stagesKnown, s.Stage) {
			key.stage = "other"
		}
		if c.stages == nil {
			c.stages = map[sideStage]*metrics.Histogram{}
		}
		if c.stages[key] == nil {
			c.stages[key] = &metrics.Histogram{}
		}
		c.stages[key].Observe(stageBuckets, max(0, s.Seconds))
	}
}

func add[K comparable](m *map[K]int, k K) {
	if *m == nil {
		*m = map[K]int{}
	}
	(*m)[k]++
}

// counted is next, with each request that tells something counted by how it was answered.
func (c *counts) counted(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a := &answered{ResponseWriter: w}
		next(a, r)
		key := toldResult{kind: strings.TrimPrefix(r.URL.Path, "/api/v1/"), result: "taken"} // one of the paths that it is registered at
		switch {
		case a.status >= 500:
			key.result = "failed"
		case a.status >= 400:
			key.result = "refused"
		}
		c.change(func(c *counts) { add(&c.told, key) })
	}
}

// answered knows with what status a request was.
type answered struct {
	http.ResponseWriter
	status int
}

// Unwrap is for http.ResponseController.
func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}
