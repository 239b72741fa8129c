package drill

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// junit is what CI systems read of tests: a suite for each scenario, a case for each of its checks. Readers differ in what they add up and by what
// they tell cases apart, so sums are right on every level, no time is in two cases of a suite, and no two cases of it have one name.
type junit struct {
	XMLName xml.Name `xml:"testsuites"`
	junitHead
	Suites []junitSuite `xml:"testsuite"`
}

type junitHead struct {
	Name      string `xml:"name,attr"`
	Tests     int    `xml:"tests,attr"`
	Failures  int    `xml:"failures,attr"`
	Errors    int    `xml:"errors,attr"` // what goes wrong is a failure
	Skipped   int    `xml:"skipped,attr"`
	Time      string `xml:"time,attr"` // seconds
	Timestamp string `xml:"timestamp,attr"`
}

type junitSuite struct {
	junitHead
	Cases []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string     `xml:"classname,attr"`
	Name    string     `xml:"name,attr"`
	Time    string     `xml:"time,attr"`
	Failure *junitText `xml:"failure,omitempty"`
	Skipped *junitSkip `xml:"skipped,omitempty"`
	Out     string     `xml:"system-out,omitempty"`
}

type junitText struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

type junitSkip struct {
	Message string `xml:"message,attr"`
}

// add adds a case, with a name of its own.
func (s *junitSuite) add(c junitCase, seconds float64) {
	c.Class, c.Time = "garrison drill."+s.Name, inXML(seconds)
	name := c.Name
	for n, taken := 2, true; taken; n++ {
		taken = false
		for _, o := range s.Cases {
			taken = taken || o.Name == c.Name
		}
		if taken {
			c.Name = fmt.Sprintf("%s (%d)", name, n)
		}
	}
	s.Tests++
	if c.Failure != nil {
		s.Failures++
	}
	if c.Skipped != nil {
		s.Skipped++
	}
	s.Cases = append(s.Cases, c)
}

func inXML(seconds float64) string { return fmt.Sprintf("%.3f", seconds) }

func writeJUnit(w io.Writer, r fleet.DrillReport) error {
	at := r.StartedAt.UTC().Format("2006-01-02T15:04:05")
	all := junit{junitHead: junitHead{Name: "garrison drill, " + r.Where + ", " + r.Host, Timestamp: at, Time: inXML(r.EndedAt.Sub(r.StartedAt).Seconds())}}
	for _, s := range r.Scenarios {
		all.Suites = append(all.Suites, suiteOf(s, at))
	}
	if r.Error != "" {
		s := junitSuite{junitHead: junitHead{Name: "the drill itself", Time: inXML(0), Timestamp: at}}
		s.add(junitCase{Name: "it comes to its end", Failure: failureOf("it comes to its end", r.Error, nil)}, 0)
		all.Suites = append(all.Suites, s)
	}
	for _, s := range all.Suites {
		all.Tests, all.Failures, all.Skipped = all.Tests+s.Tests, all.Failures+s.Failures, all.Skipped+s.Skipped
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

func suiteOf(s fleet.DrillScenario, at string) junitSuite {
	suite := junitSuite{junitHead: junitHead{Name: s.Name, Time: inXML(s.Seconds), Timestamp: at}}
	rest := s.Seconds
	for _, c := range s.Checks {
		x := junitCase{Name: c.Name}
		if c.Result == fleet.DrillFail {
			x.Failure = failureOf(c.Name, c.Detail, s.Next)
		} else {
			x.Out = c.Detail
		}
		suite.add(x, c.Seconds)
		rest -= c.Seconds
	}
	whole := junitCase{Name: s.Title}
	switch {
	case s.Result == fleet.DrillSkip:
		whole.Skipped = &junitSkip{Message: s.Detail}
	case s.Result == fleet.DrillFail && (s.Detail != "" || suite.Failures == 0):
		whole.Failure = failureOf("nothing else goes wrong", s.Detail, s.Next)
	}
	suite.add(whole, max(0, rest))
	return suite
}

func failureOf(expected, seen string, next []string) *junitText {
	text := "expected: " + expected + "\nseen: " + seen + "\n"
	if len(next) > 0 {
		text += "next:\n  " + strings.Join(next, "\n  ") + "\n"
	}
	return &junitText{Message: firstLine(seen), Type: "drill", Text: text}
}
