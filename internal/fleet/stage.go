// Package fleet holds the nouns and wire formats that all parts of Garrison
// share: hosts, releases and their manifest, stages, the status of a host,
// runs of CI, and errors with a class and a code.
//
// It imports nothing but the standard library and does no I/O. docs/FORMATS.md
// describes for other programs what is defined here. Start at Manifest.
package fleet

import "time"

// Stage is a step on the way of a change. The words are used everywhere: code, logs, metrics, CLI, docs.
type Stage string

// The stages, in the order in which a change passes them: the first six in CI,
// the other eight on every host.
const (
	Evaluate Stage = "evaluate"
	Rekey    Stage = "re-key"
	Build    Stage = "build"
	Push     Stage = "push"
	Publish  Stage = "publish"

	Fetch     Stage = "fetch"
	Verify    Stage = "verify"
	Staging   Stage = "stage"
	Gate      Stage = "gate"
	Activate  Stage = "activate"
	Check     Stage = "check"
	Commit    Stage = "commit"
	Reporting Stage = "report"
)

// StageTime says when a stage ran and for how long.
type StageTime struct {
	Stage     Stage     `json:"stage"`
	StartedAt time.Time `json:"startedAt"`
	Seconds   float64   `json:"seconds"`
	// ToolSeconds is the part of Seconds during which at least one of git, nix
	// or switch-to-configuration ran on Garrison's behalf; the rest is Garrison's own.
	ToolSeconds float64 `json:"toolSeconds"`
	// Woken is of a host's look at git: somebody had said that there is something. Otherwise it was time to.
	Woken bool `json:"woken,omitempty"`
}

// EndedAt is StartedAt plus Seconds.
func (t StageTime) EndedAt() time.Time {
	return t.StartedAt.Add(time.Duration(t.Seconds * float64(time.Second)))
}
