package release

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// FindingsSchema is the schema of Findings.
const FindingsSchema = 1

// Findings are what a check looked at.
type Findings struct {
	Schema  int       `json:"schema"`
	Commit  string    `json:"commit"`
	Subject string    `json:"subject"`
	Passed  bool      `json:"passed"`
	List    []Finding `json:"findings"`
}

// What a Finding is about.
const (
	FoundHost    = "host"    // evaluation of a host
	FoundRings   = "rings"   // who is in which of garrison.toml's rings
	FoundSecrets = "secrets" // the plan for re-keying
	FoundCheck   = "check"   // one of the flake's checks
	FoundCommand = "command" // one of garrison.toml's commands
)

// Finding is one thing that was looked at.
type Finding struct {
	Kind    string  `json:"kind"`
	Name    string  `json:"name"`
	Flake   string  `json:"flake,omitempty"` // folder of a sub-flake
	Passed  bool    `json:"passed"`
	Seconds float64 `json:"seconds"`
	Detail  string  `json:"detail,omitempty"` // what it came to, or why it failed
}

func (f *Findings) add(x Finding) {
	f.List = append(f.List, x)
	f.Passed = f.Passed && x.Passed
}

// Failed are those that did not pass.
func (f *Findings) Failed() []Finding {
	var list []Finding
	for _, x := range f.List {
		if !x.Passed {
			list = append(list, x)
		}
	}
	return list
}

// WriteAnnotation writes a group for the finding, and an error annotation if it failed, in the language that
// GitHub's, Gitea's and Forgejo's runners understand (workflow commands): at once, so that nothing comes in between.
func (f Finding) WriteAnnotation(w io.Writer) error {
	verdict := "ok"
	if !f.Passed {
		verdict = "FAILED"
	}
	text := fmt.Sprintf("::group::%s: %s\n%s\n::endgroup::\n", data(f.Kind+" "+f.Name), verdict, harmless(f.Detail))
	if !f.Passed {
		var b strings.Builder
		_ = Annotate(&b, "error", "garrison: "+f.Kind+" "+f.Name, f.Detail)
		text += b.String()
	}
	_, err := io.WriteString(w, text)
	return err
}

// Annotate writes an annotation of a kind, "error" or "warning", in that language.
func Annotate(w io.Writer, kind, title, text string) error {
	_, err := fmt.Fprintf(w, "::%s title=%s::%s\n", kind, property(title), data(text))
	return err
}

// data and property escape as the runners' toolkit does.
func data(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func property(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(s)
}

// harmless keeps a log that a commit can influence from giving commands to the runner.
func harmless(s string) string {
	lines := strings.Split(strings.ReplaceAll(s, "\r", "\n"), "\n") // runners end lines at both
	for i, l := range lines {
		if t := strings.TrimLeft(l, " \t"); strings.HasPrefix(t, "::") || strings.HasPrefix(t, "##[") {
			lines[i] = "| " + l
		}
	}
	return strings.Join(lines, "\n")
}

// WriteMarkdown writes a summary for $GITHUB_STEP_SUMMARY.
func (f *Findings) WriteMarkdown(w io.Writer) error {
	verdict := "passed"
	if !f.Passed {
		verdict = fmt.Sprintf("failed: %d of %d", len(f.Failed()), len(f.List))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "### garrison check %s\n\n`%.12s` %s\n\n| | | | seconds |\n|---|---|---|---:|\n", verdict, f.Commit, cell(f.Subject))
	for _, x := range f.List {
		mark := "✓"
		if !x.Passed {
			mark = "**✗**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %.1f |\n", mark, x.Kind, cell(x.Name), x.Seconds)
	}
	for _, x := range f.Failed() {
		fmt.Fprintf(&b, "\n<details open><summary>%s %s</summary>\n\n%s\n</details>\n", x.Kind, html(x.Name), fence(x.Detail))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cell keeps a text in one cell of a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "\r", " ", "<", "&lt;", "`", "'").Replace(s)
}

func html(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// fence puts a text into a code block that it cannot end.
func fence(s string) string {
	marks := "```"
	for strings.Contains(s, marks) {
		marks += "`"
	}
	return marks + "\n" + s + "\n" + marks + "\n"
}

// WriteJUnit writes the findings as one test suite.
func (f *Findings) WriteJUnit(w io.Writer) error {
	type failure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testcase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		Time    string   `xml:"time,attr"`
		Failure *failure `xml:"failure"`
	}
	type testsuite struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Cases    []testcase `xml:"testcase"`
	}
	suite := testsuite{Name: "garrison check", Tests: len(f.List), Failures: len(f.Failed())}
	for _, x := range f.List {
		c := testcase{Class: x.Kind, Name: x.Name, Time: fmt.Sprintf("%.3f", x.Seconds)}
		if x.Flake != "" {
			c.Class += "." + x.Flake
		}
		if !x.Passed {
			first, _, _ := strings.Cut(x.Detail, "\n")
			c.Failure = &failure{printable(first), printable(x.Detail)}
		}
		suite.Cases = append(suite.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(suite); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// printable drops what XML cannot say.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == '\uFFFE' || r == '\uFFFF' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
