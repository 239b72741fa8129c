package fleet

import "time"

// DrillSchema is the schema of DrillReport.
const DrillSchema = 1

// DrillReport is how a drill ended, as `garrison drill` writes it, and tells it to a hub.
type DrillReport struct {
	Schema    int       `json:"schema"`
	ID        string    `json:"id"` // unique
	Version   string    `json:"version"`
	StartedAt time.Time `json:"startedAt"`
	EndedAt   time.Time `json:"endedAt"`
	Where     string    `json:"where"` // "sandbox", or "live"
	Host      string    `json:"host"`  // that was drilled
	// Passed says that no scenario failed, and at least one passed.
	Passed    bool            `json:"passed"`
	Scenarios []DrillScenario `json:"scenarios"`
	Timing    *DrillTiming    `json:"timing,omitempty"` // of the happy path
}

// DrillResult is how a scenario or check ended.
type DrillResult string

// The results.
const (
	DrillPass DrillResult = "pass"
	DrillFail DrillResult = "fail"
	DrillSkip DrillResult = "skip"
)

// DrillScenario is one thing that was drilled.
type DrillScenario struct {
	Name    string       `json:"name"`
	Title   string       `json:"title"`
	Result  DrillResult  `json:"result"`
	Detail  string       `json:"detail,omitempty"` // why it was skipped, or what went wrong beside its checks
	Seconds float64      `json:"seconds"`
	Checks  []DrillCheck `json:"checks"`
	// Commands are what a person types to recover by hand; what they do was done here, and worked if the scenario passed.
	Commands []string `json:"commands,omitempty"`
}

// DrillCheck is one thing that was looked at: what was expected, and what was seen.
type DrillCheck struct {
	Name    string      `json:"name"`
	Result  DrillResult `json:"result"`
	Detail  string      `json:"detail,omitempty"`
	Seconds float64     `json:"seconds"`
}

// DrillTiming are the figures of the visible change, over its repetitions.
type DrillTiming struct {
	Repeat       int          `json:"repeat"`
	LimitSeconds float64      `json:"limitSeconds"` // for PushToHealthy, each time
	Stages       []DrillStage `json:"stages"`       // in the order in which a change passes them
	// PushToHealthy is from before git push to the drilled host's commit; of it Own is what Garrison itself took, Tools what git, nix and
	// switch-to-configuration did, and Waiting what was waited for on purpose (windows, confirmations, polls) or is not known.
	PushToHealthy Spread `json:"pushToHealthy"`
	Own           Spread `json:"own"`
	Tools         Spread `json:"tools"`
	Waiting       Spread `json:"waiting"`
}

// DrillStage is a stage, or a delay between two.
type DrillStage struct {
	Stage string `json:"stage"` // a Stage; "ci-" before those of CI that a host has too; "notice": CI, or the host, had not begun yet
	What  string `json:"what"`
	Spread
	// Of the last repetition: seconds after the push, for a waterfall.
	Began float64 `json:"began"`
	Ended float64 `json:"ended"`
}
