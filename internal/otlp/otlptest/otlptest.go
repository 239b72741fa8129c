// Package otlptest has a real OpenTelemetry collector for tests, and shows what it understood. Start at NewSink and Collector.
//
// What it guarantees: ports are free ones of loopback, and nothing outlives the test.
package otlptest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Span is one as a collector sends it on.
type Span struct {
	Trace, ID, Parent, Name string
	Kind                    int
	Start, End              time.Time
	Attributes              map[string]any // its resource's, too
	Error                   string
	Failed                  bool
}

// Sink is where a collector sends spans to, or what stands in for one that fails.
type Sink struct {
	URL string // with the path for traces

	mu     sync.Mutex
	spans  []Span
	times  int // requests that were answered well
	header http.Header
	answer func(w http.ResponseWriter) bool
}

// NewSink starts one.
func NewSink(t testing.TB) *Sink {
	s := &Sink{}
	srv := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(srv.Close)
	s.URL = srv.URL + "/v1/traces"
	return s
}

// Answer has requests answered by f, until it is nil; f says whether their spans are kept.
func (s *Sink) Answer(f func(w http.ResponseWriter) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// Spans are those that came, in that order, also those that came before.
func (s *Sink) Spans() []Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Span{}, s.spans...)
}

// Header is that of the last request.
func (s *Sink) Header() http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.header
}

// Wait returns the spans once there are so many; the test fails when they do not come.
func (s *Sink) Wait(t testing.TB, n int) []Span {
	t.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if got := s.Spans(); len(got) >= n {
			return got
		} else if time.Now().After(until) {
			t.Fatalf("%d spans came, not %d: %+v", len(got), n, got)
		}
	}
}

func (s *Sink) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.header = r.Header
	if s.answer != nil && !s.answer(w) {
		return
	}
	spans, err := decode(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.spans = append(s.spans, spans...)
	s.times++
	if s.answer == nil {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	}
}

type attribute struct {
	Key   string
	Value struct {
		StringValue *string
		IntValue    *string
		DoubleValue *float64
		BoolValue   *bool
	}
}

func (a attribute) value() any {
	switch v := a.Value; {
	case v.StringValue != nil:
		return *v.StringValue
	case v.IntValue != nil:
		return *v.IntValue
	case v.DoubleValue != nil:
		return *v.DoubleValue
	case v.BoolValue != nil:
		return *v.BoolValue
	}
	return nil
}

func decode(r *http.Request) (spans []Span, err error) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(r.Body); err != nil {
			return nil, err
		}
	}
	var all struct {
		ResourceSpans []struct {
			Resource   struct{ Attributes []attribute }
			ScopeSpans []struct {
				Spans []struct {
					TraceID           string `json:"traceId"`
					SpanID            string `json:"spanId"`
					ParentSpanID      string `json:"parentSpanId"`
					Name              string
					Kind              int
					StartTimeUnixNano string
					EndTimeUnixNano   string
					Attributes        []attribute
					Status            struct {
						Code    int
						Message string
					}
				}
			}
		}
	}
	if err := json.NewDecoder(body).Decode(&all); err != nil {
		return nil, err
	}
	for _, of := range all.ResourceSpans {
		for _, in := range of.ScopeSpans {
			for _, x := range in.Spans {
				s := Span{Trace: x.TraceID, ID: x.SpanID, Parent: x.ParentSpanID, Name: x.Name, Kind: x.Kind, Error: x.Status.Message, Failed: x.Status.Code == 2, Attributes: map[string]any{}}
				for _, a := range append(of.Resource.Attributes, x.Attributes...) {
					s.Attributes[a.Key] = a.value()
				}
				start, serr := strconv.ParseInt(x.StartTimeUnixNano, 10, 64)
				end, eerr := strconv.ParseInt(x.EndTimeUnixNano, 10, 64)
				if serr != nil || eerr != nil {
					return nil, fmt.Errorf("span %q: from %q to %q", x.Name, x.StartTimeUnixNano, x.EndTimeUnixNano)
				}
				s.Start, s.End = time.Unix(0, start).UTC(), time.Unix(0, end).UTC()
				spans = append(spans, s)
			}
		}
	}
	return spans, nil
}

// Collector runs an OpenTelemetry collector that sends on to sink what it is sent, and returns the URL to post traces to. Where tls is not "", it is a folder with
// cert.pem and key.pem, and the URL is of https.
func Collector(t testing.TB, sink *Sink, tls string) (url string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(root(t), "scripts", "fetch-otel-collector")).Output()
	if err != nil {
		t.Fatal("fetch-otel-collector: ", err)
	}
	for try := 1; ; try++ {
		url, err = start(t, strings.TrimSpace(string(out)), sink, tls)
		if err == nil {
			return url
		} else if try == 3 { // somebody else may have taken the port
			t.Fatal(err)
		}
	}
}

const config = `
receivers:
  otlp:
    protocols:
      http:
        endpoint: %[1]q
        %[2]s
exporters:
  otlphttp:
    traces_endpoint: %[3]q
    encoding: json
    compression: none
    sending_queue: {enabled: false}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], exporters: [otlphttp]}
`

func start(t testing.TB, program string, sink *Sink, tls string) (url string, err error) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return "", err
	}
	scheme, secure := "http", ""
	if tls != "" {
		scheme, secure = "https", fmt.Sprintf("tls: {cert_file: %q, key_file: %q}", filepath.Join(tls, "cert.pem"), filepath.Join(tls, "key.pem"))
	}
	file := filepath.Join(t.TempDir(), "collector.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, address, secure, sink.URL), 0o600); err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--config", "file:"+file)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		cancel()
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	for until := time.Now().Add(time.Minute); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			return "", fmt.Errorf("the collector ended: %w: %s", err, said.String())
		default:
		}
		if conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address); err == nil {
			return scheme + "://" + address + "/v1/traces", conn.Close()
		}
	}
	return "", fmt.Errorf("the collector does not answer at %s", address)
}

// root is the folder with go.mod.
func root(t testing.TB) string {
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	t.Fatal("there is no go.mod here or above")
	return ""
}
