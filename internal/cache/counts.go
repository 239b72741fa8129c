package cache

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/metrics"
)

// buckets of garrison_cache_request_duration_seconds.
var buckets = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30, 300}

// counts are what happened since the server started. The zero value is ready.
type counts struct {
	mu       sync.Mutex
	routes   map[string]*routeCounts
	reads    map[string]*Reads // by cache
	refused  map[string]int
	received int64 // bytes
	sent     int64
}

type routeCounts struct {
	answers map[int]int // by status
	took    metrics.Histogram
}

// Reads are how often paths of a cache were asked for, since the server started.
type Reads struct {
	Hits   int64 `json:"hits"`
	Misses int64 `json:"misses"`
}

const narInfoRoute = "GET /{cache}/{hash}.narinfo"

// reasons why requests are refused, by status.
func reasonOf(status int) string {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "access"
	case http.StatusTooManyRequests:
		return "rate"
	case http.StatusRequestEntityTooLarge:
		return "size"
	case http.StatusInsufficientStorage:
		return "space"
	}
	return ""
}

// route is where requests of that pattern are counted.
func (c *counts) route(pattern string) *routeCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.routes == nil {
		c.routes, c.reads, c.refused = map[string]*routeCounts{}, map[string]*Reads{}, map[string]int{}
	}
	if c.routes[pattern] == nil {
		c.routes[pattern] = &routeCounts{answers: map[int]int{}}
	}
	return c.routes[pattern]
}

// note counts a request that was answered; status 0 stands for 200. The bytes are of bodies.
func (c *counts) note(route *routeCounts, status int, received, sent int64, took time.Duration) {
	if status == 0 {
		status = http.StatusOK
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	route.answers[status]++
	route.took.Observe(buckets[:], took.Seconds())
	c.received += received
	c.sent += sent
	if reason := reasonOf(status); reason != "" {
		c.refused[reason]++
	}
}

// read counts that a path of a cache was asked for; cache is "" for one that the request was not let into.
func (c *counts) read(cache string, status int) {
	if cache == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.reads[cache]
	if of == nil {
		of = &Reads{}
		c.reads[cache] = of
	}
	switch status {
	case http.StatusOK, http.StatusNotModified:
		of.Hits++
	case http.StatusNotFound:
		of.Misses++
	}
}

func (c *counts) readsOf(cache string) Reads {
	c.mu.Lock()
	defer c.mu.Unlock()
	if of := c.reads[cache]; of != nil {
		return *of
	}
	return Reads{}
}

// Metrics is a page of them as they are now. It names caches, private ones too.
func (s *Server) Metrics() string {
	var p metrics.Page
	c := &s.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	const requests, took = "garrison_cache_requests_total", "garrison_cache_request_duration_seconds"
	p.Begin(requests, "counter", "Requests that were answered.")
	for _, route := range slices.Sorted(maps.Keys(c.routes)) {
		for _, status := range slices.Sorted(maps.Keys(c.routes[route].answers)) {
			p.Sample(requests, float64(c.routes[route].answers[status]), "route", route, "status", strconv.Itoa(status))
		}
	}
	p.Begin(took, "histogram", "How long requests took, with their bodies and answers.")
	for _, route := range slices.Sorted(maps.Keys(c.routes)) {
		if len(c.routes[route].answers) == 0 {
			continue
		}
		p.Histogram(took, buckets[:], &c.routes[route].took, "route", route)
	}
	p.Begin("garrison_cache_narinfo_total", "counter", "Paths that were asked for.")
	for _, cache := range slices.Sorted(maps.Keys(c.reads)) {
		p.Sample("garrison_cache_narinfo_total", float64(c.reads[cache].Hits), "cache", cache, "result", "hit")
		p.Sample("garrison_cache_narinfo_total", float64(c.reads[cache].Misses), "cache", cache, "result", "miss")
	}
	p.Begin("garrison_cache_refused_total", "counter", "Requests that were refused: access (401, 403), rate (429), size (413), space or quota (507).")
	for _, reason := range []string{"access", "rate", "size", "space"} {
		p.Sample("garrison_cache_refused_total", float64(c.refused[reason]), "reason", reason)
	}
	p.One("garrison_cache_received_bytes_total", "counter", "Bytes of requests' bodies.", float64(c.received))
	p.One("garrison_cache_sent_bytes_total", "counter", "Bytes of answers' bodies.", float64(c.sent))
	p.One("garrison_cache_uploads_in_progress", "gauge", "Archives that are being received.", float64(len(s.uploads)))
	return p.String()
}

// reply is a ResponseWriter that knows what was answered. It passes files on to the system's sendfile.
type reply struct {
	http.ResponseWriter
	status int
	n      int64
}

// Unwrap is for http.ResponseController.
func (a *reply) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *reply) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *reply) Write(b []byte) (int, error) {
	n, err := a.ResponseWriter.Write(b)
	a.n += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom.
func (a *reply) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(a.ResponseWriter, r)
	a.n += n
	return n, err
}

// countedBody counts what was read of a request.
type countedBody struct {
	io.ReadCloser
	n int64
}

func (c *countedBody) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n += int64(n)
	return n, err
}
