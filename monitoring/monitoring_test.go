package monitoring_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/garrison-nix/garrison/internal/metrics/metricstest"
)

type rule struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func readYAML(t *testing.T, file string, v any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatal(file, ": ", err)
	}
}

func rulesOf(t *testing.T, file string) (rules []rule) {
	t.Helper()
	var doc struct{ Groups []struct{ Rules []rule } }
	readYAML(t, file, &doc)
	for _, g := range doc.Groups {
		rules = append(rules, g.Rules...)
	}
	if len(rules) == 0 {
		t.Fatal(file, " has no rules")
	}
	return rules
}

// TestRules: promtool takes them, and each fires in a test of its own, is silent in another, and says what to type.
func TestRules(t *testing.T) {
	for _, side := range []string{"agent", "hub"} {
		file := side + "-rules.yml"
		metricstest.Promtool(t, "", "", "check", "rules", file)
		files, err := filepath.Glob(side + "-rules*-test.yml")
		if err != nil {
			t.Fatal(err)
		}
		metricstest.Promtool(t, "", "", append([]string{"test", "rules"}, files...)...)
		fires, silent := map[string]bool{}, map[string]bool{}
		for _, file := range files {
			firing(t, file, fires, silent)
		}
		for _, r := range rulesOf(t, file) {
			if !fires[r.Alert] || !silent[r.Alert] {
				t.Errorf("%s: no test shows %s firing (%v), or silent (%v)", file, r.Alert, fires[r.Alert], silent[r.Alert])
			}
			if r.Annotations["summary"] == "" || r.Annotations["command"] == "" || r.Labels["severity"] == "" || r.For == "" {
				t.Errorf("%s: %s does not say all: %+v", file, r.Alert, r)
			}
		}
	}
}

// firing notes which rules a file of tests shows firing, and silent.
func firing(t *testing.T, file string, fires, silent map[string]bool) {
	t.Helper()
	var tests struct {
		Tests []struct {
			AlertRuleTest []struct {
				Alertname string     `yaml:"alertname"`
				ExpAlerts []struct{} `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	readYAML(t, file, &tests)
	for _, c := range tests.Tests {
		for _, a := range c.AlertRuleTest {
			fires[a.Alertname] = fires[a.Alertname] || len(a.ExpAlerts) > 0
			silent[a.Alertname] = silent[a.Alertname] || len(a.ExpAlerts) == 0
		}
	}
}

// exported are the labels of each metric that an agent or a hub exports, and how those of histograms are queried.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{"up": nil}
	for _, side := range []string{"agent", "hub"} {
		data, err := os.ReadFile(side + "-metrics.txt")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			words := strings.Fields(line)
			if words[1] != "histogram" {
				all[words[0]] = words[2:]
				continue
			}
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				all[words[0]+suffix] = words[2:]
			}
		}
	}
	return all
}

var (
	selector = regexp.MustCompile(`\b(up|garrison_[a-z0-9_]+)\b(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`([a-z_]+) *(?:=~|!~|!=|=)`)
	grouping = regexp.MustCompile(`\b(?:by|on) \(([^)]*)\)`)
	shown    = regexp.MustCompile(`\{\{ *(?:\$labels\.)?([a-z_]+) *\}\}`)
)

// checkExpr holds names of metrics and labels against what is exported. Labels that Prometheus adds are always there.
func checkExpr(t *testing.T, where, expr, text string, known map[string][]string) {
	t.Helper()
	labels := []string{"job", "instance"}
	for _, m := range selector.FindAllStringSubmatch(expr, -1) {
		of, there := known[m[1]]
		if !there {
			t.Errorf("%s: nobody exports %s", where, m[1])
		}
		labels = append(labels, of...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(of, l[1]) && l[1] != "job" && l[1] != "instance" {
				t.Errorf("%s: %s has no label %s", where, m[1], l[1])
			}
		}
	}
	var used []string
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(g[1], ",") {
			used = append(used, strings.TrimSpace(l))
		}
	}
	for _, s := range shown.FindAllStringSubmatch(text, -1) {
		used = append(used, s[1])
	}
	for _, l := range used {
		if !slices.Contains(labels, l) {
			t.Errorf("%s: no metric in it has the label %s", where, l)
		}
	}
}

// TestRulesAreOfWhatIsExported: neither a metric that was renamed nor a typing error makes a rule silent. What agents alone export is enough for their rules.
func TestRulesAreOfWhatIsExported(t *testing.T) {
	known := exported(t)
	for _, side := range []string{"agent", "hub"} {
		for _, r := range rulesOf(t, side+"-rules.yml") {
			checkExpr(t, r.Alert, r.Expr, r.Annotations["summary"]+r.Labels["severity"], known)
			if side == "agent" && strings.Contains(r.Expr, "garrison_hub_") {
				t.Errorf("%s needs a hub", r.Alert)
			}
		}
	}
}

// TestDashboard: every query is one that Prometheus takes, of what is exported; panels do not lie over each other.
func TestDashboard(t *testing.T) {
	var board struct {
		UID    string
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct {
				RefID        string
				Expr         string
				LegendFormat string
				Datasource   struct{ Type, UID string }
			}
		}
		Annotations struct{ List []struct{ Expr string } }
	}
	data, err := os.ReadFile("grafana-dashboard.json")
	if err == nil {
		err = json.Unmarshal(data, &board)
	}
	if err != nil {
		t.Fatal(err)
	}
	known := exported(t)
	var exprs []string
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q: its ID is another's, or it shows nothing", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%s lies over %s, or beyond the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, q := range p.Targets {
			checkExpr(t, p.Title, q.Expr, q.LegendFormat, known)
			exprs = append(exprs, q.Expr)
			if q.Datasource.UID != "${datasource}" || q.RefID == "" {
				t.Errorf("%s asks %+v", p.Title, q)
			}
		}
	}
	for _, a := range board.Annotations.List {
		checkExpr(t, "annotation", a.Expr, "", known)
		exprs = append(exprs, a.Expr)
	}
	if len(exprs) < 30 || board.UID != "garrison" {
		t.Errorf("there are %d queries in %q", len(exprs), board.UID)
	}
	var all []map[string]string
	for i, e := range exprs { // promtool checks rules, and what is recorded by one is a query
		all = append(all, map[string]string{"record": fmt.Sprintf("query:%d", i), "expr": strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h").Replace(e)})
	}
	doc, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "queries", "rules": all}}})
	file := filepath.Join(t.TempDir(), "queries.yml")
	if err == nil {
		err = os.WriteFile(file, doc, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	metricstest.Promtool(t, "", "", "check", "rules", file)
}
