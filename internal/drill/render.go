package drill

import (
	_ "embed"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Formats are those that a report can be written in.
var Formats = []string{"json", "junit", "markdown", "html"}

// Write writes a report in one of Formats.
func Write(w io.Writer, r fleet.DrillReport, format string) error {
	switch format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	case "junit":
		return writeJUnit(w, r)
	case "markdown":
		_, err := io.WriteString(w, markdown(r))
		return err
	case "html":
		return page.Execute(w, view{r})
	}
	return fleet.Errorf("", fleet.CodeUsage, "a drill's report is not written as %q", format).WithHint("there are: %s", strings.Join(Formats, " "))
}

// junit is what CI systems read of tests: a suite for each scenario, a case for each of its checks.
type junit struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Time     string      `xml:"time,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string     `xml:"classname,attr"`
	Name    string     `xml:"name,attr"`
	Time    string     `xml:"time,attr"`
	Failure *junitText `xml:"failure,omitempty"`
	Skipped *junitText `xml:"skipped,omitempty"`
	Out     string     `xml:"system-out,omitempty"`
}

type junitText struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

func writeJUnit(w io.Writer, r fleet.DrillReport) error {
	seconds := func(s float64) string { return fmt.Sprintf("%.3f", s) }
	all := junit{Name: "garrison drill, " + r.Where, Time: seconds(r.EndedAt.Sub(r.StartedAt).Seconds())}
	for _, s := range r.Scenarios {
		suite := junitSuite{Name: s.Name, Time: seconds(s.Seconds)}
		add := func(c junitCase) {
			suite.Tests++
			if c.Failure != nil {
				suite.Failures++
			}
			if c.Skipped != nil {
				suite.Skipped++
			}
			suite.Cases = append(suite.Cases, c)
		}
		for _, c := range s.Checks {
			x := junitCase{Class: s.Name, Name: c.Name, Time: seconds(c.Seconds)}
			if c.Result == fleet.DrillFail {
				x.Failure = &junitText{Message: firstLine(c.Detail), Text: c.Detail}
			} else {
				x.Out = c.Detail
			}
			add(x)
		}
		whole := junitCase{Class: s.Name, Name: s.Title, Time: seconds(s.Seconds)}
		switch {
		case s.Result == fleet.DrillSkip:
			whole.Skipped = &junitText{Message: s.Detail}
		case s.Result == fleet.DrillFail && (s.Detail != "" || suite.Failures == 0):
			whole.Failure = &junitText{Message: firstLine(s.Detail), Text: s.Detail}
		}
		add(whole)
		all.Tests, all.Failures, all.Skipped = all.Tests+suite.Tests, all.Failures+suite.Failures, all.Skipped+suite.Skipped
		all.Suites = append(all.Suites, suite)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// markdown is a report for an issue, a pull request, or a log.
func markdown(r fleet.DrillReport) string {
	var b strings.Builder
	cell := strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;", "`", "'")
	fmt.Fprintf(&b, "# Drill: %s\n\n%s, %s, host %s, Garrison %s, %s, %.0f s\n\n", word(r.Passed), r.StartedAt.UTC().Format("2006-01-02 15:04 UTC"), r.Where, r.Host, r.Version, counts(r), r.EndedAt.Sub(r.StartedAt).Seconds())
	b.WriteString("| scenario | result | what is expected | seconds |\n|---|---|---|---|\n")
	for _, s := range r.Scenarios {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %.1f |\n", s.Name, s.Result, cell.Replace(s.Title), s.Seconds)
	}
	for _, s := range r.Scenarios {
		if s.Result == fleet.DrillFail {
			fmt.Fprintf(&b, "\n## %s failed\n\n", s.Name)
			for _, c := range s.Checks {
				fmt.Fprintf(&b, "- %s: %s", c.Result, cell.Replace(c.Name))
				if c.Detail != "" {
					fmt.Fprintf(&b, ": %s", cell.Replace(c.Detail))
				}
				b.WriteString("\n")
			}
			if s.Detail != "" {
				fmt.Fprintf(&b, "\n%s\n", cell.Replace(s.Detail))
			}
		}
	}
	if t := r.Timing; t != nil {
		fmt.Fprintf(&b, "\n## The visible change, %d times\n\n| stage | median s | p95 s | |\n|---|---|---|---|\n", t.Repeat)
		for _, s := range t.Stages {
			fmt.Fprintf(&b, "| %s | %.3f | %.3f | %s |\n", s.Stage, s.Median, s.P95, cell.Replace(s.What))
		}
		for _, x := range append(append(partsOf(t), sumsOf(t)...), figure{"whole", limitOf(t), t.PushToHealthy}) {
			fmt.Fprintf(&b, "| **%s** | %.3f | %.3f | %s |\n", x.Name, x.Median, x.P95, cell.Replace(x.What))
		}
	}
	first := true
	for _, s := range r.Scenarios {
		if len(s.Commands) == 0 || s.Result != fleet.DrillPass {
			continue
		}
		if first {
			b.WriteString("\n## Recovery by hand, confirmed working\n")
			first = false
		}
		fmt.Fprintf(&b, "\n%s:\n\n", s.Title)
		for _, c := range s.Commands {
			fmt.Fprintf(&b, "    %s\n", strings.ReplaceAll(c, "\n", " "))
		}
	}
	return b.String()
}

func word(passed bool) string {
	if passed {
		return "passed"
	}
	return "FAILED"
}

// counts says how the scenarios ended.
func counts(r fleet.DrillReport) string {
	n := map[fleet.DrillResult]int{}
	for _, s := range r.Scenarios {
		n[s.Result]++
	}
	return fmt.Sprintf("%d passed, %d failed, %d skipped", n[fleet.DrillPass], n[fleet.DrillFail], n[fleet.DrillSkip])
}

//go:embed report.html
var pageText string

// page is a report in one file: nothing is fetched for it, and no script runs.
var page = template.Must(template.New("report").Parse(pageText))

// view is a report as the page asks about it.
type view struct{ fleet.DrillReport }

func (v view) Word() string    { return word(v.Passed) }
func (v view) Counts() string  { return counts(v.DrillReport) }
func (v view) Began() string   { return v.StartedAt.UTC().Format("2006-01-02 15:04 UTC") }
func (v view) Seconds() string { return v.EndedAt.Sub(v.StartedAt).Round(time.Second).String() }

// Parts and Sums are what the whole comes to.
func (v view) Parts() []figure { return partsOf(v.Timing) }
func (v view) Sums() []figure  { return sumsOf(v.Timing) }
func (v view) Limit() string   { return limitOf(v.Timing) }

// Rows are the stages, with bars of the last change, in percent of the whole.
func (v view) Rows() []row {
	t := v.Timing
	if t == nil || len(t.Changes) == 0 {
		return nil
	}
	last := t.Changes[len(t.Changes)-1]
	var all []row
	for _, s := range t.Stages {
		r := row{DrillStage: s}
		for _, span := range last.Spans {
			if span.Stage != s.Stage || last.Seconds <= 0 {
				continue
			}
			b := bar{Left: 100 * span.Began / last.Seconds, Width: max(0.3, 100*(span.Ended-span.Began)/last.Seconds)}
			switch where, _ := stageOf(s.Stage); {
			case span.Part == fleet.PartWaiting:
				b.Kind = "wait"
			case where != "":
				b.Kind = where
			default:
				b.Kind = "own"
			}
			b.Says = fmt.Sprintf("from %.2f s to %.2f s", span.Began, span.Ended)
			r.Bars = append(r.Bars, b)
		}
		all = append(all, r)
	}
	return all
}

type row struct {
	fleet.DrillStage
	Bars []bar
}

type bar struct {
	Kind, Says  string
	Left, Width float64 // percent
}
