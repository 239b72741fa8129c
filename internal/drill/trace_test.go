package drill_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/metrics/metricstest"
	"github.com/garrison-nix/garrison/internal/otlp/otlptest"
)

// checkTraces starts the hub of a demo that ended once more, to be told where traces go: what a collector then has of each push is one trace, with all that CI and hosts
// told of it. The hub forgot nothing, and had sent nothing.
func checkTraces(t *testing.T, dir string) {
	t.Helper()
	data := filepath.Join(dir, "hosts", "forge", "var", "lib", "garrison-hub")
	sink := otlptest.NewSink(t)
	must(t, os.WriteFile(filepath.Join(data, "trace.json"), []byte(`{"schema":1,"seq":0,"pushes":{}}`), 0o600))
	config, tokens := filepath.Join(t.TempDir(), "hub.toml"), filepath.Join(t.TempDir(), "tokens.toml")
	must(t, os.WriteFile(tokens, []byte("[[token]]\nname = \"read\"\nsha256 = \"864c519db7f7a71adf8cd1ad238d9c3fc57e7e1f9fd6463afe1bd39e5617489f\"\nscopes = [\"read\"]\n"), 0o600))
	must(t, os.WriteFile(config, fmt.Appendf(nil, "listen = \"127.0.0.1:0\"\ndataDir = %q\ntokens = %q\n[trace]\nendpoint = %q\n", data, tokens, otlptest.Collector(t, sink, "")), 0o600))
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must(t, err)
	defer log.Close()
	cmd := exec.Command(self(t), "hub", "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	must(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			text, _ := os.ReadFile(log.Name())
			t.Errorf("the hub ended with %v: %s", err, text)
		}
	}()
	url := ""
	for until := time.Now().Add(time.Minute); url == ""; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(log.Name())
		must(t, err)
		if m := regexp.MustCompile(`hub serves" address=(\S+)`).FindSubmatch(text); m != nil {
			url = "http://" + string(m[1])
		} else if time.Now().After(until) {
			t.Fatalf("the hub does not serve: %s", text)
		}
	}
	want := toldOf(t, url)
	got := sink.Wait(t, len(want))
	compareSpans(t, want, got)
	page := string(askHub(t, url, "/metrics"))
	if line := fmt.Sprintf("\ngarrison_hub_trace_spans_total{result=\"sent\"} %d\n", len(want)); !strings.Contains(page, line) || !strings.Contains(page, "\ngarrison_hub_trace_ok 1\n") {
		t.Errorf("the hub does not say %q:\n%s", line, page)
	}
	checkScraped(t, strings.TrimPrefix(url, "http://"))
}

// checkScraped has a real Prometheus scrape the hub, with the hub's rules. What hosts told before the hub was started anew is there, what it counts is not.
func checkScraped(t *testing.T, hub string) {
	t.Helper()
	prometheus := metricstest.Prometheus(t, "garrison-hub", hub, "a token of the tests", filepath.Join(metricstest.Root(t), "monitoring", "hub-rules.yml"))
	for expr, want := range map[string]string{`sum(garrison_hub_hosts) > bool 2`: "1}]", `garrison_hub_hosts{standing="converged"} > bool 0`: "1}]", `garrison_hub_newest_release > bool 1`: "1}]"} {
		if got := fmt.Sprint(metricstest.Query(t, prometheus, expr)); !strings.HasSuffix(got, want) {
			t.Errorf("%s is %s, not %s", expr, got, want)
		}
	}
	var all struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	for until, waits := time.Now().Add(time.Minute), true; waits; time.Sleep(50 * time.Millisecond) {
		must(t, json.Unmarshal(askHub(t, prometheus, "/api/v1/rules"), &all))
		waits = false
		for _, r := range all.Data.Groups[0].Rules {
			waits = waits || r.Health == "unknown" // not looked at yet
			if r.Health == "err" || time.Now().After(until) {
				t.Fatalf("rule %s: %s, %s", r.Name, r.Health, r.LastError)
			}
		}
	}
	if n := len(all.Data.Groups[0].Rules); n < 10 {
		t.Errorf("there are %d rules", n)
	}
}

func askHub(t *testing.T, url, path string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer a token of the tests")
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", path, resp.Status, body)
	}
	return body
}

// spanWanted is a span as what was reported has it.
type spanWanted struct {
	trace, name, host string
	parent            string // its name, and host
	from, to          time.Time
}

func (s spanWanted) key() string {
	return s.trace + " " + s.name + " " + s.host + " " + s.from.String()
}

// toldOf are the spans of what the hub says that CI and hosts did.
func toldOf(t *testing.T, url string) (want []spanWanted) {
	t.Helper()
	var releases []fleet.Published
	var runs []fleet.Run
	var hosts []fleet.Status
	for path, into := range map[string]any{"/api/v1/releases?n=100": &releases, "/api/v1/runs?n=100": &runs, "/api/v1/hosts": &hosts} {
		must(t, json.NewDecoder(bytes.NewReader(askHub(t, url, path))).Decode(into))
	}
	if len(releases) < 2 || len(runs) < 2 || len(hosts) < 3 {
		t.Fatalf("the hub knows %d releases, %d runs, %d hosts", len(releases), len(runs), len(hosts))
	}
	last := map[string]time.Time{}
	add := func(s spanWanted, stages []fleet.StageTime) {
		want = append(want, s)
		for _, st := range stages {
			want = append(want, spanWanted{s.trace, string(st.Stage), s.host, s.name + " " + s.host, st.StartedAt, st.EndedAt()})
		}
		if s.to.After(last[s.trace]) {
			last[s.trace] = s.to
		}
	}
	id := func(traceparent string) string {
		trace, ok := fleet.ParseTraceparent(traceparent)
		if !ok {
			t.Fatalf("%q is no traceparent", traceparent)
		}
		return trace.ID
	}
	for _, r := range runs {
		add(spanWanted{id(r.Trace), "release", "", "push ", r.StartedAt, *r.EndedAt}, r.Stages)
		if r.State == fleet.RunFailed { // and that is the push's end
			add(spanWanted{id(r.Trace), "push", "", "", *r.Source.PushedAt, *r.EndedAt}, nil)
		}
	}
	for _, h := range hosts {
		var history []fleet.Deployment
		must(t, json.Unmarshal(askHub(t, url, "/api/v1/hosts/"+h.Host+"/history?n=100"), &history))
		for _, d := range history {
			add(spanWanted{id(d.Release.Trace), "deployment", h.Host, "push ", d.Stages[0].StartedAt, d.EndedAt}, d.Stages)
		}
	}
	for _, p := range releases {
		trace := id(p.Release.Trace)
		add(spanWanted{trace, "push", "", "", *p.Release.Source.PushedAt, last[trace]}, nil)
	}
	return want
}

func compareSpans(t *testing.T, want []spanWanted, got []otlptest.Span) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("there are %d spans, not %d", len(got), len(want))
	}
	byID, byKey := map[string]string{"": ""}, map[string]otlptest.Span{}
	for _, g := range got {
		host, _ := g.Attributes["host.name"].(string)
		byID[g.ID] = g.Name + " " + host
		byKey[spanWanted{trace: g.Trace, name: g.Name, host: host, from: g.Start}.key()] = g
	}
	roots, wanted := map[string]int{}, map[string]bool{}
	for _, w := range want {
		g, there := byKey[w.key()]
		wanted[w.key()] = true
		parent, known := byID[g.Parent]
		switch {
		case !there:
			t.Errorf("there is no span %s", w.key())
		case !known || parent != w.parent:
			t.Errorf("%s is below %q, not %q", w.key(), parent, w.parent)
		case !g.End.Equal(w.to):
			t.Errorf("%s ends at %s, not %s", w.key(), g.End, w.to)
		}
		if w.parent == "" {
			roots[w.trace]++
		}
	}
	for key := range byKey {
		if !wanted[key] {
			t.Errorf("nobody told of %s: %+v", key, byKey[key])
		}
	}
	for trace, n := range roots {
		if n != 1 {
			t.Errorf("trace %s has %d roots", trace, n)
		}
	}
}
