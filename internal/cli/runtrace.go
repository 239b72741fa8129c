package cli

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/otlp"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/release"
)

// runOf is what was made of source, or failed, since began, as a run of CI that has ended.
func runOf(source fleet.Source, began time.Time, t *proc.Timeline, out release.Outcome, failure error) fleet.Run {
	ended := time.Now().UTC()
	r := fleet.Run{Schema: fleet.StatusSchema, Source: source, State: out.State, StartedAt: began.UTC(), EndedAt: &ended, Stages: t.Stages(), Release: out.Release, Trace: out.Trace}
	if out.Manifest != nil {
		r.Source = out.Manifest.Source
	}
	if failure != nil {
		if len(r.Stages) > 0 {
			r.Stage = r.Stages[len(r.Stages)-1].Stage
		}
		r.State, r.Failure = fleet.RunFailed, fleet.FailureOf(r.Stage, failure)
		r.Failure.Message = proc.Redact(r.Failure.Message)
	}
	return r
}

// traceRun sends the spans of a run where OpenTelemetry's variables say, if they do; alone, with the push's own, which a hub tells otherwise. That this fails
// is said, and changes nothing.
func traceRun(ctx context.Context, r fleet.Run, alone bool, log *slog.Logger) {
	to, err := otlp.FromEnv(os.Getenv, Version())
	if to == nil && err == nil {
		return
	}
	spans := otlp.Run(r)
	if alone {
		spans = otlp.RunAlone(r)
	}
	rejected, said := 0, ""
	if err == nil {
		rejected, said, err = to.Export(context.WithoutCancel(ctx), spans) // also of a run that was stopped
	}
	switch {
	case err != nil:
		log.Warn("the run's trace was not sent", "err", err)
	case rejected > 0:
		log.Warn("the trace collector does not take some spans", "spans", rejected, "err", said)
	}
}
