// Package metricstest has a real Prometheus and its promtool for tests, and lists what a page exports. Start at Check.
//
// What it guarantees: nothing outlives the test.
package metricstest

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
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
