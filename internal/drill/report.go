package drill

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"
)

// ReportSchema is the schema of Report.
const ReportSchema = 1

// Report is what a run of the demo found; docs/DRILL.md describes it.
type Report struct {
	Schema int     `json:"schema"`
	Result Verdict `json:"result"`
	Checks []Check `json:"checks"`
	// Stages are the seconds of the visible change's stages: of CI, and of the slowest host.
	Stages              map[string]float64 `json:"stages"`
	PushToActiveSeconds float64            `json:"pushToActiveSeconds"`
	// OwnSeconds is what of PushToActiveSeconds, from when the hub heard of the push, was not git, nix or switch-to-configuration.
	OwnSeconds float64 `json:"ownSeconds"`
}

// Verdict is "pass" or "fail".
type Verdict string

// The verdicts.
const (
	Pass Verdict = "pass"
	Fail Verdict = "fail"
)

// Check is one thing that was looked at.
type Check struct {
	Name    string  `json:"name"`
	Result  Verdict `json:"result"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

// check runs f, which returns what it saw, and keeps the answer. A check that is not reached is not in the report,
// so the result is a pass only when the demo came to its end.
func (d *demo) check(name string, f func() (detail string, err error)) {
	began := time.Now()
	detail, err := f()
	c := Check{Name: name, Result: Pass, Detail: detail, Seconds: time.Since(began).Seconds()}
	if err != nil {
		c.Result, c.Detail = Fail, err.Error()
		d.report.Result = Fail
	}
	d.report.Checks = append(d.report.Checks, c)
	d.out.check(c)
}

// save writes the report.
func (r Report) save(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}
