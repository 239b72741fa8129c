package cli

import (
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/metrics"
	"github.com/garrison-nix/garrison/internal/otlp"
)

// tracePoll is how often a hub looks for what is to be traced: nobody watches a trace grow.
const tracePoll = 2 * time.Second

// newExporter has what the hub is told sent to a trace collector, as c says; nil where it says nothing.
func newExporter(c HubFile, store otlp.Told, log *slog.Logger) (*otlp.Exporter, error) {
	t := c.Trace
	if t.Endpoint == "" {
		return nil, nil
	}
	to, err := otlp.NewClient(t.Endpoint, t.CAFile, Version())
	if err != nil {
		return nil, err
	}
	if t.HeadersFile != "" {
		to.Headers = func() (http.Header, error) { return readHeaders(t.HeadersFile) }
		if _, err := to.Headers(); err != nil {
			return nil, err
		}
	}
	return &otlp.Exporter{Told: store, Client: to, File: filepath.Join(c.DataDir, "trace.json"), Poll: tracePoll, Log: log}, nil
}

func readHeaders(file string) (http.Header, error) {
	text, err := readSmall(file)
	var headers http.Header
	if err == nil {
		headers, err = otlp.ParseHeaderLines(text)
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeKey, "the trace collector's headers cannot be read in %s", file).WithHint("give lines like Authorization: Bearer …").WithCause(err)
	}
	return headers, nil
}

// measureTrace adds how the export of traces does, if there is one.
func measureTrace(p *metrics.Page, x *otlp.Exporter) {
	if x == nil {
		return
	}
	s := x.Standing()
	p.Begin("garrison_hub_trace_spans_total", "counter", "Spans by what became of them: sent, or not taken by the collector and dropped.")
	p.Sample("garrison_hub_trace_spans_total", float64(s.Sent), "result", "sent")
	p.Sample("garrison_hub_trace_spans_total", float64(s.Refused), "result", "refused")
	p.Flag("garrison_hub_trace_ok", "0 while the collector takes nothing, and traces wait.", s.Failing.IsZero())
	p.One("garrison_hub_trace_waiting_timestamp_seconds", "gauge", "When the first of what waits happened; 0 for none.", metrics.UnixSeconds(s.Waiting))
}

// measured is what only who wires a hub can add to its metrics.
func measured(c HubFile, caches func() string, watch *watchers, x *otlp.Exporter) func(*metrics.Page) {
	return func(p *metrics.Page) {
		if watch != nil {
			hub.MeasureContact(p, watch.follower.Contact())
		}
		hub.MeasureDisks(p, disksOf(c.DataDir))
		if size, ok := fileSize(filepath.Join(c.DataDir, "hub.db")); ok {
			p.One("garrison_hub_store_bytes", "gauge", "Size of the file with what the hub was told.", float64(size))
		}
		measureTrace(p, x)
		p.WriteString(caches())
	}
}
