package fleet

import (
	"slices"
	"time"
)

// DrillSchema is the schema of DrillReport.
const DrillSchema = 1

// DrillReport is how a drill ended, as `garrison drill` writes it, and tells it to a hub; and how a demo did.
type DrillReport struct {
	Schema    int       `json:"schema"`
	ID        string    `json:"id"` // unique
	Version   string    `json:"version"`
	StartedAt time.Time `json:"startedAt"`
	EndedAt   time.Time `json:"endedAt"`
	Where     string    `json:"where"` // "sandbox", "live", or "demo"
	Host      string    `json:"host"`  // that was drilled
	// Passed says that no scenario failed, and at least one passed.
	Passed bool `json:"passed"`
	// Error is why it did not come to its end, or could not begin.
	Error     string          `json:"error,omitempty"`
	Scenarios []DrillScenario `json:"scenarios"`
	Timing    *DrillTiming    `json:"timing,omitempty"` // of the happy path
}

// MayHavePassed says whether what r has of scenarios and errors is that of a drill that passed.
func (r DrillReport) MayHavePassed() bool {
	ended := func(as DrillResult) bool {
		return slices.ContainsFunc(r.Scenarios, func(s DrillScenario) bool { return s.Result == as })
	}
	return r.Error == "" && ended(DrillPass) && !ended(DrillFail)
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
	// Next is what to look at and to type when it failed.
	Next []string `json:"next,omitempty"`
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
	Repeat       int     `json:"repeat"`
	LimitSeconds float64 `json:"limitSeconds"` // for PushToHealthy, each time; 0: none
	// PushToHealthy is from before git push to the drilled host's commit (in a demo: the last host's). Of each change it is the sum of the next six.
	PushToHealthy Spread `json:"pushToHealthy"`
	Own           Spread `json:"own"`      // what Garrison itself adds
	Git           Spread `json:"git"`      // git was at work
	Nix           Spread `json:"nix"`      // nix evaluated or built
	Transfer      Spread `json:"transfer"` // closures went to the cache, and from it to the host
	Switch        Spread `json:"switch"`   // switch-to-configuration and nix-env
	Waiting       Spread `json:"waiting"`  // on purpose (for units to settle, a window), for a poll, or for somebody of whom nothing is known
	// These overlap with the above. CI is from when it began to when it had published; Notice what passed until CI, and then the host, had begun
	// to look; Staging the host's substitution, or its build; Activation from the switch to the commit.
	CI         Spread `json:"ci"`
	Notice     Spread `json:"notice"`
	Staging    Spread `json:"staging"`
	Activation Spread `json:"activation"`

	Stages  []DrillStage  `json:"stages"`  // in the order in which a change passes them
	Changes []DrillChange `json:"changes"` // each repetition
}

// DrillStage is a stage over all repetitions, or what passes between two.
type DrillStage struct {
	Stage string `json:"stage"` // as in DrillSpan
	What  string `json:"what"`
	Spread
}

// DrillChange is the way of one change. Its spans begin with the push, and each begins where the one before ended: together they are the whole.
type DrillChange struct {
	Commit   string      `json:"commit"`
	PushedAt time.Time   `json:"pushedAt"` // just before git push
	Seconds  float64     `json:"seconds"`  // until the host had committed it
	Spans    []DrillSpan `json:"spans"`
}

// DrillSpan is a stage of a change, or what passed between two. Its boundaries are seconds after the push.
type DrillSpan struct {
	// Stage is a Stage, or "ci-fetch": CI's look at git; "git-push"; "ci-notice" and "notice": CI, or the host, had not begun yet; "between": no stage
	// was under way; "ci" and "host": what is known of those where nobody tells of stages.
	Stage string    `json:"stage"`
	Began float64   `json:"began"`
	Ended float64   `json:"ended"`
	Part  DrillPart `json:"part"`
	// PartSeconds went to Part; the rest is Garrison's own.
	PartSeconds float64 `json:"partSeconds"`
}

// DrillPart is what time goes to.
type DrillPart string

// The parts.
const (
	PartOwn      DrillPart = "own"
	PartGit      DrillPart = "git"
	PartNix      DrillPart = "nix"
	PartTransfer DrillPart = "transfer"
	PartSwitch   DrillPart = "switch"
	PartWaiting  DrillPart = "waiting"
)
