package cli

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/otlp/otlptest"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/release"
)

// TestTraceRun: CI sends its part where OpenTelemetry's variables say; the root, too, where no hub does.
func TestTraceRun(t *testing.T) {
	sink := otlptest.NewSink(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", strings.TrimSuffix(sink.URL, "/v1/traces"))
	var line proc.Timeline
	line.Add(fleet.StageTime{Stage: fleet.Build, StartedAt: time.Now(), Seconds: 1})
	var log bytes.Buffer
	trace := fleet.NewTrace(strings.Repeat("a", 40), "")
	run := runOf(fleet.Source{Commit: strings.Repeat("a", 40)}, time.Now(), &line, release.Outcome{Trace: trace.String()}, errors.New("it does not build"))
	traceRun(t.Context(), run, false, slog.New(slog.NewTextHandler(&log, nil)))
	traceRun(t.Context(), run, true, slog.New(slog.NewTextHandler(&log, nil)))
	got := sink.Spans()
	if len(got) != 5 || got[0].ID != got[2].ID || got[0].Parent != got[4].ID || got[4].Name != "push" || got[0].Trace != trace.ID || !got[1].Failed || log.Len() > 0 {
		t.Errorf("%+v\n%s", got, &log)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	traceRun(t.Context(), run, false, slog.New(slog.NewTextHandler(&log, nil)))
	if !strings.Contains(log.String(), "HTTP alone") || len(sink.Spans()) != 5 {
		t.Error(log.String())
	}
}
