package fleet

import "time"

// Published is a release as a hub saw it on the release branch.
type Published struct {
	Schema     int        `json:"schema"`
	Release    ReleaseRef `json:"release"`
	CreatedAt  time.Time  `json:"createdAt"` // as its manifest says
	SeenAt     time.Time  `json:"seenAt"`    // by this hub
	RollbackTo int        `json:"rollbackTo,omitempty"`
	Hosts      int        `json:"hosts"`   // that follow it
	Changed    []string   `json:"changed"` // those that get another system than by the release before
	Manual     []string   `json:"manual,omitempty"`
}

// ReleaseState is how far a release is on its hosts.
type ReleaseState string

// The states of a release on its hosts.
const (
	ReleaseUnderWay   ReleaseState = "under-way"
	ReleaseDone       ReleaseState = "done"       // all hosts have it
	ReleaseFailed     ReleaseState = "failed"     // a host will not have it by itself
	ReleaseSuperseded ReleaseState = "superseded" // a newer one came before all hosts had it
)

// ReleaseView is a release with all that a hub knows of it.
type ReleaseView struct {
	Published
	State ReleaseState `json:"state"`
	Text  string       `json:"text"`          // how far it is, in a line
	Run   *Run         `json:"run,omitempty"` // of CI, where it was told of one
	// Progress is of every host concerned, by name; missing in lists of releases.
	Progress []HostProgress `json:"progress,omitempty"`
	DoneAt   *time.Time     `json:"doneAt,omitempty"` // when the last host had it
	// Rings are those that were given it, in that order, and Stops what kept it from going further, or ended its way (RolloutPaused, RolloutAborted), as far as
	// the hub was told of that.
	Rings []RingGiven  `json:"rings,omitempty"`
	Stops []RolloutAct `json:"stops,omitempty"`
	// WaitedSeconds is how much of LeadTime it waited between rings, with no host at it.
	WaitedSeconds float64 `json:"waitedSeconds,omitempty"`
}

// RingGiven says when a ring was given a release.
type RingGiven struct {
	Ring    string    `json:"ring"`
	At      time.Time `json:"at"`      // its first batch
	Whole   time.Time `json:"whole"`   // its last one so far
	Batches int       `json:"batches"` // so many so far
	By      string    `json:"by"`
}

// PushedAt is when the change of a release began its way: when CI heard of its source; where it did not, when run began, that made it (nil: not known);
// else when it was made.
func (p Published) PushedAt(run *Run) time.Time {
	switch {
	case p.Release.Source.PushedAt != nil:
		return *p.Release.Source.PushedAt
	case run != nil:
		return run.StartedAt
	}
	return p.CreatedAt
}

// LeadTime is from PushedAt until the last host had it; false while that is not so, or not known. Clocks of two machines may make it nothing, never less.
func (v ReleaseView) LeadTime() (time.Duration, bool) {
	if v.DoneAt == nil {
		return 0, false
	}
	return max(0, v.DoneAt.Sub(v.PushedAt(v.Run))), true
}

// WaitsForRing is why a host waits whose ring has not been given the release yet.
const WaitsForRing = "ring"

// HostProgress is where a host is with a release.
type HostProgress struct {
	Host       string      `json:"host"`
	Standing   string      `json:"standing"`             // done, under way, failed, waits, retrying, silent, unchanged, superseded
	Why        string      `json:"why,omitempty"`        // WaitsForRing, a Waiting, a Result and a Code, and others
	Deployment *Deployment `json:"deployment,omitempty"` // its last one of that release
}

// Stats are a fleet's figures over a time. Durations are seconds; what cannot be told, for want of cases, is missing.
type Stats struct {
	Schema      int       `json:"schema"`
	From        time.Time `json:"from"`
	Until       time.Time `json:"until"`
	Releases    int       `json:"releases"`
	Deployments int       `json:"deployments"`
	// LeadTime is from a push (or, where that is not known, the commit) to the last of its hosts that has it.
	LeadTime *Spread `json:"leadTime,omitempty"`
	// WorkTime is LeadTime without what releases waited between rings; missing where none did.
	WorkTime *Spread `json:"workTime,omitempty"`
	// ChangeFailures are releases that failed on a host; the rate is of all that reached one.
	ChangeFailures    int      `json:"changeFailures"`
	ChangeFailureRate *float64 `json:"changeFailureRate,omitempty"`
	// TimeToRestore is from a host's failed deployment to its next one that was committed.
	TimeToRestore *Spread `json:"timeToRestore,omitempty"`
	RunsFailed    int     `json:"runsFailed"`
	Runs          int     `json:"runs"`
}

// Spread is what a number of durations look like, in seconds.
type Spread struct {
	Count  int     `json:"count"`
	Median float64 `json:"median"`
	P95    float64 `json:"p95"`
	Most   float64 `json:"most"`
}
