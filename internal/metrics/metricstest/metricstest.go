// Package metricstest has a real Prometheus and its promtool for tests, and lists what a page exports. Start at Check.
//
// What it guarantees: nothing outlives the test.
package metricstest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Root is the folder with go.mod.
func Root(t testing.TB) string {
	t.Helper()
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

// Program is the path of prometheus or promtool.
func Program(t testing.TB, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(Root(t), "scripts", "fetch-prometheus")).Output()
	if err != nil {
		t.Fatal("fetch-prometheus: ", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), name)
}

// Promtool runs it in dir, and fails the test when it does.
func Promtool(t testing.TB, dir, in string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Program(t, "promtool"), args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Check holds a page against what Prometheus reads, and the names against its conventions.
func Check(t testing.TB, page string) {
	t.Helper()
	Promtool(t, "", page, "check", "metrics")
}

// Families lists what a page exports, a line for each metric: its name, its type, and the names of its labels.
func Families(t testing.TB, page string) string {
	t.Helper()
	kinds, labels := map[string]string{}, map[string]map[string]bool{}
	for line := range strings.Lines(page) {
		words := strings.Fields(line)
		if len(words) == 4 && words[1] == "TYPE" {
			kinds[words[2]], labels[words[2]] = words[3], map[string]bool{}
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		series := line[:strings.LastIndexByte(strings.TrimRight(line, "\n"), ' ')]
		name, rest, _ := strings.Cut(series, "{")
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && kinds[base] == "histogram" {
				name = base
			}
		}
		if labels[name] == nil {
			t.Errorf("%s has no TYPE", name)
			continue
		}
		for _, l := range labelNames(rest) {
			labels[name][l] = true
		}
	}
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintln(&b, strings.TrimSpace(name+" "+kinds[name]+" "+strings.Join(slices.Sorted(maps.Keys(labels[name])), " ")))
	}
	return b.String()
}

// labelNames are those in name="value",…}; a value may have what escapes it.
func labelNames(s string) (names []string) {
	for s = strings.TrimSuffix(s, "}"); s != ""; {
		name, rest, ok := strings.Cut(s, `="`)
		if !ok {
			return names
		}
		names = append(names, name)
		i := 0
		for i < len(rest) && rest[i] != '"' {
			if rest[i] == '\\' {
				i++
			}
			i++
		}
		s = strings.TrimPrefix(rest[min(len(rest), i+1):], ",")
	}
	return names
}

// Prometheus runs one that scrapes target (host:port) as a job of that name with a bearer token, each second, and has rules; it returns its URL once it has scraped.
func Prometheus(t testing.TB, job, target, token string, rules ...string) (url string) {
	t.Helper()
	dir := t.TempDir()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	config, err := json.Marshal(map[string]any{ // JSON is YAML
		"global":     map[string]string{"scrape_interval": "1s", "evaluation_interval": "1s"},
		"rule_files": rules,
		"scrape_configs": []any{map[string]any{"job_name": job, "authorization": map[string]string{"credentials": token},
			"static_configs": []any{map[string]any{"targets": []string{target}}}}},
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "prometheus.yml"), config, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, Program(t, "prometheus"), "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	url = "http://" + address
	for until := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var up []Result
		if up, err = query(t.Context(), url, "up"); err == nil && len(up) == 1 && up[0].Value == "1" {
			return url
		}
		if time.Now().After(until) {
			cancel()
			_ = cmd.Wait()
			t.Fatalf("Prometheus has not scraped %s: %v, %v: %s", target, up, err, said.String())
		}
	}
}

// Result is a series, and its value.
type Result struct {
	Labels map[string]string
	Value  string
}

// Query asks a Prometheus.
func Query(t testing.TB, url, expr string) []Result {
	t.Helper()
	list, err := query(t.Context(), url, expr)
	if err != nil {
		t.Error(err)
	}
	return list
}

func query(ctx context.Context, server, expr string) (list []Result, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/api/v1/query?query="+url.QueryEscape(expr), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Error != "" {
		return nil, fmt.Errorf("%s: %s, %w", expr, answer.Error, err)
	}
	for _, r := range answer.Data.Result {
		list = append(list, Result{r.Metric, fmt.Sprint(r.Value[1])})
	}
	return list, nil
}
