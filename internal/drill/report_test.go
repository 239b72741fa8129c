package drill_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub/web/webtest"
)

// drillOnce is `garrison drill`, on hosts without a systemd, with its report in every format.
func drillOnce(t *testing.T, state string, code int, args ...string) (said, dir string) {
	t.Helper()
	dir = t.TempDir()
	args = append([]string{"drill", "--dir", filepath.Join(dir, "drill"), "--save"}, args...)
	for format, file := range map[string]string{"json": "r.json", "junit": "r.xml", "markdown": "r.md", "html": "r.html"} {
		args = append(args, "--report", format+"="+filepath.Join(dir, file))
	}
	cmd := exec.CommandContext(t.Context(), self(t), args...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+state, "XDG_CACHE_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != code {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out), dir
}

// TestReports drills twice, once with a limit that nothing can keep, and reads what is said of that in each format; then the history of both.
func TestReports(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	said, dir := drillOnce(t, state, 0, "--only", "happy-path,rollback", "--repeat", "3", "--limit", "2m")
	r := readReport(t, dir)
	if !r.Passed || r.Error != "" || len(r.Scenarios) < 20 {
		t.Errorf("%+v", r)
	}
	checkTiming(t, r.Timing, 3, "git-push", "ci-notice", "ci-fetch", "evaluate", "re-key", "build", "push", "publish", "notice", "fetch", "verify", "stage", "gate", "activate", "check", "commit", "between")
	wants(t, said, fmt.Sprintf("PASS  2 passed, 0 failed, %d skipped; push → healthy ", len(r.Scenarios)-2), ", n = 3, limit 120 s; took ", " not asked for: check-fails")
	checkJUnit(t, dir, r)
	wants(t, readFile(t, dir, "r.md"), "# Drill: passed", "push → healthy, n = 3", "## Recovery by hand, confirmed working", "    garrison rollback")

	said, dir = drillOnce(t, state, 6, "--only", "happy-path", "--repeat", "2", "--limit", "1ms")
	bad := readReport(t, dir)
	log := regexp.MustCompile(`ratched: (\S+/var/log/agent.log); its last activation: (\S+)\n`).FindStringSubmatch(said)
	if bad.Passed || bad.Scenarios[0].Result != fleet.DrillFail || log == nil {
		t.Fatalf("it does not say what failed, and where the logs are:\n%s\n%+v", said, bad)
	}
	for _, file := range log[1:] {
		if text, err := os.ReadFile(file); err != nil || len(text) == 0 {
			t.Errorf("there is no log in %s: %v", file, err)
		}
	}
	wants(t, said, "happy-path failed: a visible change travels", "\n  expected  and has committed it, in time\n", "\n  seen      it took ", "s, and may take 0.001 s\n", "again: garrison drill --only happy-path\n", "\nFAIL  0 passed, 1 failed, ")
	checkJUnit(t, dir, bad)
	wants(t, readFile(t, dir, "r.md"), "## happy-path failed", "| and has committed it, in time | it took ", "    again: garrison drill --only happy-path")
	checkPage(t, filepath.Join(dir, "r.html"), bad)

	checkHistory(t, state, r, bad)
}

func readFile(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	must(t, err)
	return string(text)
}

func readReport(t *testing.T, dir string) (r fleet.DrillReport) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(readFile(t, dir, "r.json")))
	d.DisallowUnknownFields()
	must(t, d.Decode(&r))
	return r
}

func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
}

// checkJUnit reads a report as CI systems do. Jenkins adds up the times of cases; GitLab tells cases apart by class and name; others show the numbers
// that are written down.
func checkJUnit(t *testing.T, dir string, r fleet.DrillReport) {
	t.Helper()
	type counts struct {
		Tests    int     `xml:"tests,attr"`
		Failures int     `xml:"failures,attr"`
		Errors   int     `xml:"errors,attr"`
		Skipped  int     `xml:"skipped,attr"`
		Time     float64 `xml:"time,attr"`
		At       string  `xml:"timestamp,attr"`
	}
	var all struct {
		XMLName xml.Name `xml:"testsuites"`
		counts
		Suites []struct {
			Name string `xml:"name,attr"`
			counts
			Cases []struct {
				Class   string  `xml:"classname,attr"`
				Name    string  `xml:"name,attr"`
				Time    float64 `xml:"time,attr"`
				Failure []struct {
					Message string `xml:"message,attr"`
					Type    string `xml:"type,attr"`
					Text    string `xml:",chardata"`
				} `xml:"failure"`
				Skipped []struct {
					Message string `xml:"message,attr"`
				} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	must(t, xml.Unmarshal([]byte(readFile(t, dir, "r.xml")), &all))
	names := map[string]bool{}
	var sum counts
	for i, s := range all.Suites {
		var c counts
		for _, x := range s.Cases {
			if name := x.Class + "\x00" + x.Name; names[name] || x.Name == "" || x.Class != "garrison drill."+s.Name || x.Time < 0 {
				t.Errorf("the case %q is there twice, or is nobody's: %+v", name, x)
			} else {
				names[name] = true
			}
			c.Tests, c.Failures, c.Skipped, c.Time = c.Tests+1, c.Failures+len(x.Failure), c.Skipped+len(x.Skipped), c.Time+x.Time
			for _, f := range x.Failure {
				if f.Message == "" || f.Type == "" || !strings.Contains(f.Text, "expected: ") || !strings.Contains(f.Text, "seen: "+f.Message) || !strings.Contains(f.Text, "agent.log") {
					t.Errorf("a failure without what a reader needs: %+v", f)
				}
			}
			for _, f := range x.Skipped {
				if f.Message == "" {
					t.Errorf("%s is skipped, and does not say why", x.Name)
				}
			}
		}
		want := r.Scenarios[i]
		if s.Name != want.Name || c.Tests != s.Tests || c.Failures != s.Failures || c.Skipped != s.Skipped || s.Errors != 0 || (c.Failures > 0) != (want.Result == fleet.DrillFail) || (c.Skipped > 0) != (want.Result == fleet.DrillSkip) {
			t.Errorf("%+v has %+v in it, of %+v", s, c, want)
		}
		if d := c.Time - want.Seconds; d > 0.1 || d < -0.1 { // thousandths, rounded
			t.Errorf("%s took %v s, its cases %v s", s.Name, want.Seconds, c.Time)
		}
		if _, err := time.Parse("2006-01-02T15:04:05", s.At); err != nil {
			t.Error(err)
		}
		sum.Tests, sum.Failures, sum.Skipped = sum.Tests+s.Tests, sum.Failures+s.Failures, sum.Skipped+s.Skipped
	}
	if len(all.Suites) != len(r.Scenarios) || sum.Tests != all.Tests || sum.Failures != all.Failures || sum.Skipped != all.Skipped || all.Time <= 0 {
		t.Errorf("%d suites with %+v, %+v is said", len(all.Suites), sum, all.counts)
	}
}

// checkPage looks at a report in a browser: it fetches nothing, nothing is wider than a phone, all can be read in light and in dark, and what failed is in sight.
func checkPage(t *testing.T, file string, r fleet.DrillReport) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	if m := regexp.MustCompile(`(?i)<(script|link|img|iframe|object)|\b(src|href)=|@import|url\(`).Find(text); m != nil {
		t.Errorf("the page has %q", m)
	}
	b := webtest.Start(t)
	for _, v := range []struct {
		name   string
		width  int
		scheme string
	}{{"wide", 1180, "light"}, {"phone", 320, "dark"}} {
		tab := b.Open(v.width, 900)
		tab.Prefer("prefers-color-scheme", v.scheme)
		tab.Offline(true)
		tab.Go("file://" + file)
		if wide := tab.Wide(); len(wide) > 0 {
			t.Errorf("%s: wider than the window: %q", v.name, wide)
		}
		if pale := tab.Pale(); len(pale) > 0 {
			t.Errorf("%s: hard to read: %q", v.name, pale)
		}
		var top float64
		tab.Eval(`document.querySelector(".card .fail").getBoundingClientRect().top`, &top)
		if top <= 0 || top > 600 {
			t.Errorf("%s: what failed is %v px below the top", v.name, top)
		}
		checkBars(t, tab, r.Timing)
		if shots := os.Getenv("GARRISON_SHOTS"); shots != "" {
			tab.Eval(`document.querySelectorAll("details").forEach(d => { d.open = true })`, nil)
			if wide := tab.Wide(); len(wide) > 0 {
				t.Errorf("%s, all open: wider than the window: %q", v.name, wide)
			}
			tab.Shot(filepath.Join(shots, "drill-"+v.name+".png"), true)
		}
		if c := tab.Complaints(); len(c) > 0 {
			t.Errorf("%s: the browser complains of %q", v.name, c)
		}
	}
}

// checkBars holds the bars of the page against the spans of the last change.
func checkBars(t *testing.T, tab *webtest.Tab, d *fleet.DrillTiming) {
	t.Helper()
	var rows []struct {
		Stage       string
		Left, Right float64
	}
	tab.Eval(`[...document.querySelectorAll("table.way tbody tr")].map(r => { const whole = r.querySelector(".bar").getBoundingClientRect(), all = [...r.querySelectorAll(".bar i")].map(i => i.getBoundingClientRect());
		return {Stage: r.querySelector("th strong").textContent, Left: (Math.min(...all.map(i => i.left)) - whole.left) / whole.width, Right: (Math.max(...all.map(i => i.right)) - whole.left) / whole.width}; })`, &rows)
	if len(rows) != len(d.Stages) {
		t.Fatalf("%d rows, %d stages", len(rows), len(d.Stages))
	}
	last := d.Changes[len(d.Changes)-1]
	for _, row := range rows {
		began, ended := last.Seconds, 0.0
		for _, s := range last.Spans {
			if s.Stage == row.Stage {
				began, ended = min(began, s.Began), max(ended, s.Ended)
			}
		}
		if near := func(a, b float64) bool { return a-b < 0.02 && b-a < 0.02 }; !near(row.Left, began/last.Seconds) || !near(row.Right, ended/last.Seconds) {
			t.Errorf("the bar of %s is from %v to %v, the stage was from %v to %v of %v s", row.Stage, row.Left, row.Right, began, ended, last.Seconds)
		}
	}
}

// checkHistory has the history of two drills told, of which the newer failed, among files that are none.
func checkHistory(t *testing.T, state string, older, newer fleet.DrillReport) {
	t.Helper()
	dir := filepath.Join(state, "garrison", "drills")
	kept, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(kept) != 2 {
		t.Fatalf("kept: %q %v", kept, err)
	}
	whole, err := os.ReadFile(kept[0])
	must(t, err)
	for name, text := range map[string]string{"torn.json": string(whole[:len(whole)/2]), "newer.json": `{"schema": 99}`, "notes.txt": "remember the milk\n"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	history := func(args ...string) string {
		var told bytes.Buffer
		cmd := exec.CommandContext(t.Context(), self(t), append([]string{"drill", "history"}, args...)...)
		cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "XDG_STATE_HOME="+state), &told, &told
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v\n%s", err, told.String())
		}
		return told.String()
	}
	text := history()
	wants(t, text, "sandbox, ratched: 2 drills, 1 failed", "passed 2/2", "FAILED 0/1", "happy-path", "not read: "+dir+"/torn.json", "newer.json: it has schema 99, and this garrison knows 1", "notes.txt")
	if a, b := strings.Index(text, "FAILED 0/1"), strings.Index(text, "passed 2/2"); a > b {
		t.Errorf("the newest is not the first:\n%s", text)
	}
	figure := strconv.FormatFloat(older.Timing.PushToHealthy.Median, 'f', 2, 64) + "/" + strconv.FormatFloat(older.Timing.PushToHealthy.P95, 'f', 2, 64)
	wants(t, text, figure)
	var h struct {
		Schema int
		Fleets []struct {
			Where, Host string
			Drills      []struct {
				ID      string
				Passed  bool
				Failed  []string
				Figures []struct {
					Name   string
					Median float64
					Before *float64
				}
			}
			Scenarios []struct {
				Name                    string
				Passed, Failed, Skipped int
				LastFailed              *time.Time
			}
		}
		Unread []struct{ File, Reason string }
	}
	must(t, json.Unmarshal([]byte(history("-o", "json")), &h))
	if h.Schema != 1 || len(h.Fleets) != 1 || len(h.Unread) != 3 || len(h.Fleets[0].Drills) != 2 {
		t.Fatalf("%+v", h)
	}
	now, before := h.Fleets[0].Drills[0], h.Fleets[0].Drills[1]
	if now.ID != newer.ID || now.Passed || len(now.Failed) != 1 || before.ID != older.ID || !before.Passed || before.Figures[0].Before != nil ||
		now.Figures[0].Name != "pushToHealthy" || now.Figures[0].Median != newer.Timing.PushToHealthy.Median || now.Figures[0].Before == nil || *now.Figures[0].Before != older.Timing.PushToHealthy.Median {
		t.Errorf("%+v\n%+v", now, before)
	}
	if s := h.Fleets[0].Scenarios[0]; s.Name != "happy-path" || s.Passed != 1 || s.Failed != 1 || s.LastFailed == nil || !s.LastFailed.Equal(newer.StartedAt) {
		t.Errorf("%+v", s)
	}
}
