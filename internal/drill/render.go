package drill

import (
	_ "embed"
	"encoding/json"
	"fmt"
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

// markdown is a report for an issue, a pull request, or a log.
func markdown(r fleet.DrillReport) string {
	var b strings.Builder
	cell := strings.NewReplacer("|", `\|`, "\n", " ", "\r", " ", "<", "&lt;", "`", "'", "*", `\*`, "_", `\_`, "[", `\[`, "@", "&#64;", "#", `\#`)
	fmt.Fprintf(&b, "# Drill: %s\n\n%s, %s, host %s, Garrison %s, %s, took %s\n", word(r.Passed), began(r), cell.Replace(r.Where), cell.Replace(r.Host), cell.Replace(r.Version), counts(r), took(r))
	if r.Error != "" {
		fmt.Fprintf(&b, "\nIt did not come to its end: %s\n", cell.Replace(r.Error))
	}
	for _, s := range r.Scenarios {
		if s.Result != fleet.DrillFail {
			continue
		}
		fmt.Fprintf(&b, "\n## %s failed\n\n%s\n\n| expected | seen |\n|---|---|\n", cell.Replace(s.Name), cell.Replace(s.Title))
		for _, c := range failedChecks(s) {
			fmt.Fprintf(&b, "| %s | %s |\n", cell.Replace(c.Expected), cell.Replace(c.Seen))
		}
		writeCode(&b, "Next", s.Next)
	}
	if t := r.Timing; t != nil {
		fmt.Fprintf(&b, "\n## The visible change\n\n%s\n\n| stage | median s | p95 s | |\n|---|---:|---:|---|\n", limitOf(t))
		for _, s := range t.Stages {
			fmt.Fprintf(&b, "| %s | %.3f | %.3f | %s |\n", cell.Replace(s.Stage), s.Median, s.P95, cell.Replace(s.What))
		}
		for _, x := range append(append(partsOf(t), sumsOf(t)...), figure{"push → healthy", "", t.PushToHealthy}) {
			fmt.Fprintf(&b, "| **%s** | %.3f | %.3f | %s |\n", x.Name, x.Median, x.P95, cell.Replace(x.What))
		}
	}
	b.WriteString("\n## Scenarios\n\n| scenario | result | what is expected | seconds |\n|---|---|---|---:|\n")
	for _, s := range r.Scenarios {
		if s.Result != fleet.DrillSkip {
			fmt.Fprintf(&b, "| %s | %s | %s | %.1f |\n", cell.Replace(s.Name), s.Result, cell.Replace(s.Title), s.Seconds)
		}
	}
	for _, s := range skipped(r) {
		fmt.Fprintf(&b, "\nSkipped, %s: %s\n", cell.Replace(s.Why), cell.Replace(strings.Join(s.Names, ", ")))
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
		writeCode(&b, cell.Replace(s.Title), s.Commands)
	}
	return b.String()
}

// writeCode writes lines that are taken as they are.
func writeCode(b *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s:\n\n", title)
	for _, l := range lines {
		fmt.Fprintf(b, "    %s\n", strings.ReplaceAll(l, "\n", "\n    "))
	}
}

func began(r fleet.DrillReport) string { return r.StartedAt.UTC().Format("2006-01-02 15:04 UTC") }

// took is how long a drill took, for people.
func took(r fleet.DrillReport) string { return r.EndedAt.Sub(r.StartedAt).Round(time.Second).String() }

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
