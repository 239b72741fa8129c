package fleet

import "time"

// StatusSchema is the schema of Status, Deployment and Run.
const StatusSchema = 1

// Phase is what an agent is doing, or why it does nothing.
type Phase string

// The phases.
const (
	PhaseNew        Phase = "new"        // never saw a release
	PhaseIdle       Phase = "idle"       // converged: runs what the newest verified release says
	PhaseStaging    Phase = "staging"    // the closure is on its way
	PhaseActivating Phase = "activating" // the activation helper is at work
	PhaseRetrying   Phase = "retrying"   // a transient or local failure; tried again at RetryAt
	PhaseHeld       Phase = "held"       // the release is bad for this host: waits for a newer one
	PhaseManual     Phase = "manual"     // the release leaves this host to a person
	PhaseReboot     Phase = "reboot"     // the release is the next boot's; the host must be rebooted
	PhaseWaiting    Phase = "waiting"    // staged; Wait says for what
	PhaseTesting    Phase = "testing"    // runs a test release, which no boot takes
	PhaseOverruled  Phase = "overruled"  // somebody chose another system than the newest release says
	PhaseUnheard    Phase = "unheard"    // said by hubs alone: of a host that a release names, and that never reported
)

// Phases are all that an agent says.
func Phases() []Phase {
	return []Phase{PhaseNew, PhaseIdle, PhaseStaging, PhaseWaiting, PhaseActivating, PhaseRetrying, PhaseHeld, PhaseManual, PhaseReboot, PhaseTesting, PhaseOverruled}
}

// ReleaseRef names a release whose tag was verified.
type ReleaseRef struct {
	Number int    `json:"number"`
	Commit string `json:"commit"`
	Tag    string `json:"tag"` // object name of the tag
	Source Source `json:"source"`
	// Test is the name of a test release's tag. Then Number is 0: it is no release.
	Test string `json:"test,omitempty"`
	// Trace is its manifest's; missing in what older agents tell.
	Trace string `json:"traceparent,omitempty"`
}

// Push is the trace that r belongs to.
func (r ReleaseRef) Push() Trace {
	if t, ok := ParseTraceparent(r.Trace); ok {
		return t
	}
	if r.Test != "" {
		return NewTrace(r.Source.Commit, r.Source.Branch)
	}
	return NewTrace(r.Source.Commit, "")
}

// Target is a system that a host has or is to get, and where it came from.
type Target struct {
	Release ReleaseRef `json:"release"`
	Toplevel
	At time.Time `json:"at"` // when it was confirmed, or work on it began
}

// Systems are the three that must be compared: they differ after a manual
// switch, or when a reboot is needed. Each is a store path, or "" when there is none.
type Systems struct {
	Current string `json:"current"` // /run/current-system
	Profile string `json:"profile"` // /nix/var/nix/profiles/system
	Booted  string `json:"booted"`  // /run/booted-system
	// Reboot says that the kernel, initrd or kernel modules of Current are not those that were booted.
	Reboot bool `json:"reboot,omitempty"`
}

// Refusal is a release ref that the agent did not accept, and why.
type Refusal struct {
	Tip     string    `json:"tip"` // the commit that the release branch pointed at
	Since   time.Time `json:"since"`
	Failure Failure   `json:"failure"`
}

// Result is how a deployment ended.
type Result string

// The results. Tested ends an activation that shall not be committed. Only Committed moves profile and boot entry; RebootNeeded does so too, but the
// running system is still the previous one.
const (
	Committed      Result = "committed"
	Tested         Result = "tested"          // passed its checks and runs, until the next boot
	RolledBack     Result = "rolled-back"     // the new system failed, the previous one runs
	NotActivated   Result = "not-activated"   // failed before anything was switched
	RebootNeeded   Result = "reboot-needed"   // committed, takes effect at the next boot
	RollbackFailed Result = "rollback-failed" // neither the new nor the previous system is whole
)

// Deployment is one attempt to make a host run a release, as history keeps it.
type Deployment struct {
	Schema   int         `json:"schema"`
	Host     string      `json:"host"`
	Release  ReleaseRef  `json:"release"`
	Toplevel             // but for its outPath missing in what older agents wrote
	Previous string      `json:"previous"`
	Result   Result      `json:"result"`
	Failure  *Failure    `json:"failure,omitempty"`
	Choice   *Choice     `json:"choice,omitempty"` // set when an operator asked for it
	Stages   []StageTime `json:"stages"`
	EndedAt  time.Time   `json:"endedAt"`
}

// Status is what an agent says of its host: on its socket, and to the hub.
type Status struct {
	Schema    int           `json:"schema"`
	Host      string        `json:"host"`
	At        time.Time     `json:"at"`
	Version   string        `json:"version"` // of the agent
	Phase     Phase         `json:"phase"`
	Since     time.Time     `json:"since"` // when Phase began
	Newest    *ReleaseRef   `json:"newest,omitempty"`
	Active    *Target       `json:"active,omitempty"`
	Target    *Target       `json:"target,omitempty"` // what is worked on, held or waited for
	Systems   Systems       `json:"systems"`
	Drift     bool          `json:"drift"` // Systems.Current is not what was last confirmed
	Drifted   *Drift        `json:"drifted,omitempty"`
	Choice    *Choice       `json:"choice,omitempty"`
	Test      *ReleaseRef   `json:"test,omitempty"` // the test release that the host turned to
	Wait      *Wait         `json:"wait,omitempty"`
	Confirmed *Confirmation `json:"confirmed,omitempty"` // of Target
	Suspended *Suspension   `json:"suspended,omitempty"`
	Reboot    *Reboot       `json:"reboot,omitempty"`
	Failure   *Failure      `json:"failure,omitempty"`
	Attempt   int           `json:"attempt,omitempty"`
	RetryAt   *time.Time    `json:"retryAt,omitempty"`
	Refused   *Refusal      `json:"refused,omitempty"`
	Remote    Contact       `json:"remote"` // the git remotes, as long as one answers
	Remotes   []Remote      `json:"remotes"`
	Hub       Contact       `json:"hub"`
	Pushing   int           `json:"pushing,omitempty"` // systems built here that wait to be pushed
	Push      Contact       `json:"push"`              // the caches that they go to
	Last      *Deployment   `json:"last,omitempty"`
	NextPoll  time.Time     `json:"nextPoll"`
	Disks     []Disk        `json:"disks,omitempty"`
	// Credentials are those of the agent whose end is known.
	Credentials []Credential `json:"credentials,omitempty"`
	// Ring and Batch are the host's by the newest release on the release branch; Newest is then what they were given. Ahead is a newer one.
	Ring  string `json:"ring,omitempty"`
	Batch int    `json:"batch,omitempty"`
	Ahead *Ahead `json:"ahead,omitempty"`
	// ClockOffSeconds is how far the host's clock is ahead of the hub's, negative if behind; 0 if that is less than ClockTolerance, or not known.
	ClockOffSeconds float64 `json:"clockOffSeconds,omitempty"`
	// Boot tells this boot of the machine from others.
	Boot string `json:"boot,omitempty"`
	// Seen is a hub's word, and missing in what an agent says.
	Seen *Seen `json:"seen,omitempty"`
}

// Seen is what a hub adds to what a host says.
type Seen struct {
	At     time.Time  `json:"at"`               // when it last reported, by the hub's clock; zero: never
	Silent *time.Time `json:"silent,omitempty"` // since when it should have, and did not
	Gone   bool       `json:"gone,omitempty"`   // the newest release does not name it
}

// ClockTolerance is by how much a host's clock may differ from the hub's.
const ClockTolerance = time.Minute

// ClockOff is how far a host's clock that shows host is ahead of a hub's that shows hub, in seconds; 0 if that is less than ClockTolerance.
func ClockOff(host, hub time.Time) float64 {
	if off := host.Sub(hub); off.Abs() >= ClockTolerance {
		return off.Seconds()
	}
	return 0
}

// Disk is the space on a file system that a host cannot do without.
type Disk struct {
	Of         string `json:"of"` // what is on it: store, state, boot
	FreeBytes  int64  `json:"freeBytes"`
	TotalBytes int64  `json:"totalBytes"`
}

// Full says whether so little is left that next to nothing can be written: less than a fortieth, and less than 1.25 GiB.
func (d Disk) Full() bool {
	return d.TotalBytes > 0 && d.FreeBytes < min(d.TotalBytes/40, 5<<28)
}

// Credential is a token or key, and until when it is valid.
type Credential struct {
	Name string    `json:"name"` // what it lets in to, in words
	Ends time.Time `json:"ends"`
}

// Reboot says that a host must be rebooted, or what became of that.
type Reboot struct {
	Needed  bool       `json:"needed"`
	At      *time.Time `json:"at,omitempty"`      // when the agent will do it by its windows, if its ring's budget lets it by then; nil: it does not
	Ring    bool       `json:"ring,omitempty"`    // and only with a permit in the ledger
	Tried   bool       `json:"tried,omitempty"`   // it did, for the system that is confirmed
	Failure *Failure   `json:"failure,omitempty"` // it could not, or the host is not well since
}

// Contact says when something on the network was last reached, and why not since.
type Contact struct {
	LastOK  time.Time `json:"lastOK"`
	Failure *Failure  `json:"failure,omitempty"`
	Since   time.Time `json:"since"` // when Failure began
}

// Remote is what an agent knows of one of its git remotes.
type Remote struct {
	Name string `json:"name"`
	URL  string `json:"url"` // without credentials
	Contact
	Tip     string   `json:"tip,omitempty"`     // where its release branch was, when it last answered
	Behind  bool     `json:"behind,omitempty"`  // that is an older release than the newest: not an error of its own
	Refused *Refusal `json:"refused,omitempty"` // why Tip is not accepted
	// Ignored is what the host's test branch points at and why that is not tried; releases go on.
	Ignored  *Refusal  `json:"ignored,omitempty"`
	NextLook time.Time `json:"nextLook"`
}

// Run is one run of CI for one source commit.
type Run struct {
	Schema    int         `json:"schema"`
	ID        int64       `json:"id"`
	Source    Source      `json:"source"`
	State     RunState    `json:"state"`
	StartedAt time.Time   `json:"startedAt"`
	EndedAt   *time.Time  `json:"endedAt,omitempty"`
	Stage     Stage       `json:"stage,omitempty"` // running, or the one that failed
	Stages    []StageTime `json:"stages"`
	Release   *ReleaseRef `json:"release,omitempty"`
	Failure   *Failure    `json:"failure,omitempty"`
	// By is who made it: "" for the hub's own CI, else the name of the token that told of it.
	By  string `json:"by,omitempty"`
	URL string `json:"url,omitempty"` // of a page about it
	// Trace is the push's, as a traceparent; the release, if there is one, has the same.
	Trace string `json:"traceparent,omitempty"`
}

// RunState is how far a Run is.
type RunState string

// The states. RunUnchanged means that the commit had been released before.
const (
	RunRunning   RunState = "running"
	RunReleased  RunState = "released"
	RunUnchanged RunState = "unchanged"
	RunFailed    RunState = "failed"
)

// StreamEvent is one message of the hub's stream. Wake is the only kind that an agent acts on,
// and all that it does is to look at git again.
type StreamEvent struct {
	Kind   string  `json:"kind"` // "wake", "run", "host", "event"
	Run    *Run    `json:"run,omitempty"`
	Status *Status `json:"status,omitempty"`
	Event  *Event  `json:"event,omitempty"`
}
