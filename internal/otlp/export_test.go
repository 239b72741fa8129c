package otlp

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/otlp/otlptest"
)

// store is a hub's, as an Exporter sees it.
type store struct {
	mu     sync.Mutex
	events []fleet.Event
	known  []fleet.Published
}

func (s *store) Releases(context.Context, int, int) ([]fleet.Published, error) { return s.known, nil }

func (s *store) add(list ...fleet.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range list {
		e.Seq = int64(len(s.events) + 1)
		s.events = append(s.events, e)
	}
}

func (s *store) Events(_ context.Context, types []string, after int64, most int) (list []fleet.Event, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after == -1 {
		list = slices.Clone(s.events)
		slices.Reverse(list)
	} else {
		for _, e := range s.events {
			if e.Seq > after && slices.Contains(types, e.Type) {
				list = append(list, e)
			}
		}
	}
	return list[:min(most, len(list))], nil
}

func client(t testing.TB, url string) *Client {
	t.Helper()
	c, err := NewClient(url, "", "1.2")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// running is an Exporter at work until end is called.
func running(t *testing.T, s *store, url, file string) (x *Exporter, log *bytes.Buffer, end func()) {
	t.Helper()
	log = &bytes.Buffer{}
	x = &Exporter{Told: s, Client: client(t, url), File: file, Poll: 10 * time.Millisecond, Log: slog.New(slog.NewTextHandler(log, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		x.Run(ctx)
	}()
	return x, log, func() {
		cancel()
		<-ended
	}
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("it never happens that ", what)
		}
	}
}

func fileIsThere(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// TestCollector: what the one of OpenTelemetry understands is what was said.
func TestCollector(t *testing.T) {
	var p Pushes
	var spans []Span
	for _, e := range told(t, run(1, 4, nil), published(1, "web1"), deployment(1, "web1", 20, failure(fleet.Bad))) {
		spans = append(spans, p.Event(e, zero)...)
	}
	for _, secure := range []bool{false, true} {
		sink, dir, ca := otlptest.NewSink(t), "", ""
		if secure {
			dir = certificate(t)
			ca = filepath.Join(dir, "cert.pem")
		}
		c, err := NewClient(otlptest.Collector(t, sink, dir), ca, "1.2")
		if err != nil {
			t.Fatal(err)
		}
		if rejected, said, err := c.Export(t.Context(), spans); err != nil || rejected != 0 {
			t.Fatal(rejected, said, err)
		}
		got := sink.Wait(t, len(spans))
		if len(got) != len(spans) {
			t.Fatalf("%d spans became %d", len(spans), len(got))
		}
		for i, s := range spans {
			j := slices.IndexFunc(got, func(o otlptest.Span) bool { return o.ID == s.ID })
			if j < 0 {
				t.Errorf("%s is not there", s.Name)
				continue
			}
			g := got[j]
			if g.Trace != s.Trace || g.Parent != s.Parent || g.Name != s.Name || g.Kind != int(s.Kind) || !g.Start.Equal(s.Start) || !g.End.Equal(s.End) || g.Error != s.Error || g.Failed != (s.Error != "") {
				t.Errorf("span %d became %+v", i, g)
			}
			if g.Attributes["service.name"] != s.Service || s.Host != "" && g.Attributes["host.name"] != s.Host {
				t.Errorf("%s is of %v", s.Name, g.Attributes)
			}
			for _, a := range s.Attributes {
				if v, there := g.Attributes[a.Name]; !there || v != a.Value {
					t.Errorf("%s: %s is %v, not %v", s.Name, a.Name, v, a.Value)
				}
			}
		}
	}
}

func certificate(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	cert, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestOutbox: what the collector does not take is sent when it does, after a restart too, each span once.
func TestOutbox(t *testing.T) {
	sink, s, file := otlptest.NewSink(t), &store{}, filepath.Join(t.TempDir(), "trace.json")
	s.add(told(t, run(1, 4, nil), published(1))...) // before traces were asked for
	_, _, end := running(t, s, sink.URL, file)
	waitFor(t, "it knows where to begin", func() bool { return fileIsThere(file) })
	end()

	sink.Answer(func(w http.ResponseWriter) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return false
	})
	s.add(told(t, run(2, 4, nil), fleet.PhaseChange{}, published(2, "web1"))...)
	x, log, end := running(t, s, sink.URL, file)
	waitFor(t, "the export fails", func() bool { return !x.Standing().Failing.IsZero() })
	if now := x.Standing(); now.Sent != 0 || !now.Waiting.Equal(zero) {
		t.Errorf("%+v", now)
	}
	end() // the hub is stopped meanwhile
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "they wait") {
		t.Errorf("%d lines were logged: %s", n, log)
	}
	sink.Answer(nil)
	x, _, end = running(t, s, sink.URL, file)
	got := sink.Wait(t, 3)
	s.add(told(t, deployment(2, "web1", 20, nil))...)
	got = append(got[:0], sink.Wait(t, 7)...)
	waitFor(t, "it knows that they were taken", func() bool { return x.Standing().Sent == 7 })
	end()
	var names []string
	for _, span := range got {
		names = append(names, span.Name)
	}
	if want := "release evaluate evaluate deployment fetch check push"; strings.Join(names, " ") != want {
		t.Errorf("sent were %v, not %s", names, want)
	}
	_, _, end = running(t, s, sink.URL, file)
	s.add(told(t, run(3, 4, nil))...)
	sink.Wait(t, 10)
	end()

	other := &store{} // the hub's store was lost, and began anew
	x, _, end = running(t, other, sink.URL, file)
	waitFor(t, "it begins anew", func() bool {
		var k kept
		_, err := durable.ReadJSON(file, maxKept, &k)
		return err == nil && k.Seq == 0
	})
	other.add(told(t, run(4, 4, nil))...)
	sink.Wait(t, 13)
	waitFor(t, "it knows", func() bool { return x.Standing().Sent == 3 })
	end()
}

// TestManyHosts: an event names only the first hosts of a release, and the push ends with the last.
func TestManyHosts(t *testing.T) {
	sink, s, file := otlptest.NewSink(t), &store{known: []fleet.Published{published(1, "web1", "web2")}}, filepath.Join(t.TempDir(), "trace.json")
	_, _, end := running(t, s, sink.URL, file)
	defer end()
	waitFor(t, "it knows where to begin", func() bool { return fileIsThere(file) })
	s.add(told(t, published(1, "web1"), deployment(1, "web1", 20, nil), deployment(1, "web2", 30, nil))...)
	got := sink.Wait(t, 7)
	if push := got[6]; push.Name != "push" || !push.End.Equal(at(130)) {
		t.Errorf("%+v", got)
	}
}

// TestRefusals: what a collector will never take is dropped, counted and said; all else is tried again.
func TestRefusals(t *testing.T) {
	sink, s, file := otlptest.NewSink(t), &store{}, filepath.Join(t.TempDir(), "trace.json")
	x, log, end := running(t, s, sink.URL, file)
	waitFor(t, "it knows where to begin", func() bool { return fileIsThere(file) })
	sink.Answer(func(w http.ResponseWriter) bool {
		http.Error(w, "no such thing", http.StatusBadRequest)
		return false
	})
	s.add(told(t, run(1, 4, nil))...)
	waitFor(t, "they are dropped", func() bool { return x.Standing().Refused == 3 })
	sink.Answer(func(w http.ResponseWriter) bool {
		_, _ = w.Write([]byte(`{"partialSuccess":{"rejectedSpans":"1","errorMessage":"too old"}}`))
		return true
	})
	s.add(told(t, run(2, 4, nil))...)
	waitFor(t, "one is dropped", func() bool { return x.Standing().Refused == 4 && x.Standing().Sent == 2 })
	end()
	if said := log.String(); !strings.Contains(said, "no such thing") || !strings.Contains(said, "too old") {
		t.Error(said)
	}
	for status, class := range map[int]fleet.Class{401: fleet.Local, 403: fleet.Local, 404: fleet.Local, 301: fleet.Local, 429: fleet.Transient, 500: fleet.Transient, 503: fleet.Transient, 400: fleet.Bad, 413: fleet.Bad} {
		sink.Answer(func(w http.ResponseWriter) bool {
			w.WriteHeader(status)
			return false
		})
		if _, _, err := x.Client.Export(t.Context(), nil); fleet.ClassOf(err) != class || err == nil {
			t.Errorf("%d: %v, of class %s", status, err, fleet.ClassOf(err))
		}
	}
	for name, answer := range map[string]func(http.ResponseWriter){
		"hangs up": func(w http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"is slow":  func(http.ResponseWriter) { time.Sleep(100 * time.Millisecond) },
	} {
		sink.Answer(func(w http.ResponseWriter) bool { answer(w); return false })
		x.Client.Timeout = 10 * time.Millisecond
		if _, _, err := x.Client.Export(t.Context(), nil); fleet.ClassOf(err) != fleet.Transient || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFromEnv(t *testing.T) {
	dir := certificate(t)
	for _, c := range []struct {
		env  string
		want string // URL, headers, timeout; or what the error says
	}{
		{"", "none"},
		{"ENDPOINT=http://c:4318", "http://c:4318/v1/traces map[] 0s"},
		{"ENDPOINT=http://c:4318/base/", "http://c:4318/base/v1/traces map[] 0s"},
		{"ENDPOINT=http://c:4318 TRACES_ENDPOINT=https://t/x", "https://t/x map[] 0s"},
		{"ENDPOINT=http://c HEADERS=api-key=k%20v,%20b=c PROTOCOL=http/protobuf TIMEOUT=500 CERTIFICATE=" + filepath.Join(dir, "cert.pem"), ""},
		{"ENDPOINT=http://c HEADERS=Api-Key=k%20v,B=c=d PROTOCOL=http/protobuf TIMEOUT=500", "http://c/v1/traces map[Api-Key:[k v] B:[c=d]] 500ms"},
		{"ENDPOINT=http://c TRACES_HEADERS=X=1 HEADERS=Y=2", "http://c/v1/traces map[X:[1]] 0s"},
		{"ENDPOINT=http://c PROTOCOL=grpc", `PROTOCOL is "grpc"`},
		{"ENDPOINT=c:4317", "none of http or https"},
		{"ENDPOINT=http://c HEADERS=nonsense", "not a list like"},
		{"ENDPOINT=http://c TIMEOUT=10s", "not a number of milliseconds"},
		{"ENDPOINT=http://c CERTIFICATE=/nowhere", "/nowhere has no certificates"},
	} {
		env := map[string]string{}
		for _, pair := range strings.Fields(c.env) {
			name, v, _ := strings.Cut(pair, "=")
			env["OTEL_EXPORTER_OTLP_"+name] = v
		}
		got, err := FromEnv(func(name string) string { return env[name] }, "1")
		said := "none"
		if err != nil {
			said = err.Error()
		} else if got != nil {
			h, _ := got.Headers()
			said = strings.Join([]string{got.URL, strings.TrimSpace(slog.AnyValue(h).String()), got.Timeout.String()}, " ")
		}
		if !strings.Contains(said, c.want) || c.want == "" && err != nil || err != nil && fleet.CodeOf(err) != fleet.CodeConfig {
			t.Errorf("%s: %s, not %s", c.env, said, c.want)
		}
	}
	for _, off := range []string{"OTEL_SDK_DISABLED=TRUE", "OTEL_TRACES_EXPORTER=none"} {
		name, v, _ := strings.Cut(off, "=")
		if got, err := FromEnv(func(n string) string {
			return map[string]string{name: v, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}[n]
		}, "1"); got != nil || err != nil {
			t.Errorf("%s: %v, %v", off, got, err)
		}
	}
}

func TestHeaderLines(t *testing.T) {
	h, err := ParseHeaderLines([]byte("# for the collector\nauthorization: Bearer a:b \n\nX-Tenant:1\n"))
	if err != nil || h.Get("Authorization") != "Bearer a:b" || h.Get("X-Tenant") != "1" || len(h) != 2 {
		t.Errorf("%v, %v", h, err)
	}
	for _, bad := range []string{"nonsense", ": x", "a b: c"} {
		if _, err := ParseHeaderLines([]byte(bad)); fleet.CodeOf(err) != fleet.CodeConfig {
			t.Errorf("%q: %v", bad, err)
		}
	}
	sink := otlptest.NewSink(t)
	c := client(t, sink.URL)
	c.Headers = func() (http.Header, error) { return h.Clone(), nil }
	if _, _, err := c.Export(t.Context(), nil); err != nil || sink.Header().Get("X-Tenant") != "1" || sink.Header().Get("User-Agent") != "garrison/1.2" {
		t.Errorf("%v, %v", err, sink.Header())
	}
}
