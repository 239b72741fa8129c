package cli

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
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

// measureHub has the hub's metrics served and traces sent, as c says; what it returns sends them, and serves until ctx ends.
func measureHub(ctx context.Context, c HubFile, h *hub.Hub, caches *cache.Server, watch *watchers, log *slog.Logger) (func(context.Context), error) {
	x, err := newExporter(c, h.Store, log)
	if err != nil {
		return nil, err
	}
	h.Version = Version()
	h.Measure = func(p *metrics.Page) {
		if watch != nil {
			hub.MeasureContact(p, watch.follower.Contact())
		}
		hub.MeasureDisks(p, (&hubMeans{config: c}).disks())
		if info, err := os.Stat(filepath.Join(c.DataDir, "hub.db")); err == nil { // there is none with PostgreSQL
			hub.MeasureStore(p, info.Size())
		}
		if x != nil {
			hub.MeasureTrace(p, x.Standing())
		}
		p.WriteString(caches.Metrics())
	}
	var srv io.Closer
	if c.Metrics.Listen != "" {
		page := func() string {
			ctx, cancel := context.WithTimeout(ctx, hub.MeasureTime)
			defer cancel()
			return h.Metrics(ctx)
		}
		if srv, err = exposeMetrics(ctx, c.Metrics.Listen, page, log); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) {
		if x != nil {
			x.Run(ctx)
		}
		<-ctx.Done()
		if srv != nil {
			_ = srv.Close()
		}
	}, nil
}
