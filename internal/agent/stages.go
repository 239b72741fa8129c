package agent

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/activate"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// ended is what the log says of a stage that ended well.
var ended = map[fleet.Stage]string{fleet.Fetch: "fetched", fleet.Verify: "verified", fleet.Staging: "staged", fleet.Gate: "let through",
	fleet.Activate: "activated", fleet.Check: "checked", fleet.Commit: "committed"}

// stagesEnded logs and counts stages that just ended well.
func (a *Agent) stagesEnded(release int, stages []fleet.StageTime) {
	a.counts.stage(stages)
	a.logStages(release, stages)
}

func (a *Agent) logStages(release int, stages []fleet.StageTime) {
	for _, s := range stages {
		a.Log.Info(cmp.Or(ended[s.Stage], "done"), "stage", s.Stage, "release", release, "duration", rounded(s.Seconds))
	}
}

func rounded(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond)
}

const lookAtSteps = 250 * time.Millisecond

// tellSteps logs each stage of an activation when it ended, until stop is called, which says how many it told. Those that
// had ended before are not told again by an agent that takes over.
func (a *Agent) tellSteps(ctx context.Context, r activate.Request) (stop func() int) {
	ctx, cancel := context.WithCancel(ctx)
	told := make(chan int, 1)
	began := time.Now()
	a.tasks.Go(func() {
		n := 0
		for sleepContext(ctx, lookAtSteps) == nil {
			stages, err := activate.Passed(a.activationDir(), r.ID)
			if err != nil {
				continue // the outcome tells
			}
			for ; n < len(stages); n++ {
				if !stages[n].EndedAt().Before(began) {
					a.logStages(r.Release.Number, stages[n:n+1])
				}
			}
		}
		told <- n
	})
	return func() int { cancel(); return <-told }
}

// tellEnd logs how a deployment ended: its whole duration, and that of each stage.
func (a *Agent) tellEnd(d fleet.Deployment) {
	a.counts.deployed(d.Result)
	attrs := []any{"release", d.Release.Number, "result", d.Result}
	if d.Failure != nil {
		a.counts.failed(d.Failure.Code)
		attrs = append(attrs, "stage", d.Failure.Stage, "code", d.Failure.Code, "err", firstLine(d.Failure.Message), "hint", d.Failure.Hint)
	} else {
		attrs = append(attrs, "storePath", d.OutPath)
	}
	if len(d.Stages) > 0 {
		attrs = append(attrs, "duration", d.EndedAt.Sub(d.Stages[0].StartedAt).Round(time.Millisecond))
	}
	attrs = append(attrs, "stages", spent(d.Stages))
	if d.Failure != nil {
		a.Log.Error("deployment failed", attrs...)
		return
	}
	a.Log.Info("deployed", attrs...)
}

// spent says how long each stage took, in words; a gate that let through at once is none.
func spent(stages []fleet.StageTime) string {
	seconds := map[fleet.Stage]float64{} // a stage may have run twice
	var order []fleet.Stage
	for _, s := range stages {
		if _, again := seconds[s.Stage]; !again {
			order = append(order, s.Stage)
		}
		seconds[s.Stage] += s.Seconds
	}
	var words []string
	for _, s := range order {
		if s != fleet.Gate || rounded(seconds[s]) > 0 {
			words = append(words, fmt.Sprintf("%s %s", s, rounded(seconds[s])))
		}
	}
	return strings.Join(words, ", ")
}
