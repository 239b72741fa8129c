// Package deploy is the state machine of a host, and nothing else: Policy.Next takes what is on
// record and what happened, and gives the new record and what to do about
// it. It does no I/O, reads no clock and keeps nothing, so every transition can
// be tested, and an agent that was killed resumes from the record on disk.
//
// Which event does what in which phase stands in one table (table.go), and in docs/ARCHITECTURE.md, which a test holds
// against it. The handlers are in follow.go (releases and their way), gate.go, drift.go, trial.go (test releases) and operator.go. Start at Next.
package deploy

import (
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// RecordSchema is the schema of Record that this version writes and reads.
const RecordSchema = 1

// Record is what an agent knows of its host, as it stands on disk.
type Record struct {
	Schema  int               `json:"schema"`
	Host    string            `json:"host"`
	Phase   fleet.Phase       `json:"phase"`
	Since   time.Time         `json:"since"`             // when Phase began
	Newest  *fleet.ReleaseRef `json:"newest,omitempty"`  // verified, and given by the host's ring; no older one is accepted any more
	Entry   *fleet.Entry      `json:"entry,omitempty"`   // what Newest says of this host
	Manual  bool              `json:"manual,omitempty"`  // Newest has no Entry, and says that this is meant
	Active  *fleet.Target     `json:"active,omitempty"`  // confirmed
	Reboot  bool              `json:"reboot,omitempty"`  // Active is the next boot's: something else runs still
	Target  *fleet.Target     `json:"target,omitempty"`  // worked on, held, or waited for
	Failure *fleet.Failure    `json:"failure,omitempty"` // of Target
	Attempt int               `json:"attempt,omitempty"` // failures of Target in a row
	RetryAt *time.Time        `json:"retryAt,omitempty"`
	Refused *fleet.Refusal    `json:"refused,omitempty"`
	Accept  *Acceptance       `json:"accept,omitempty"` // not yet made use of

	Wait        *fleet.Wait         `json:"wait,omitempty"`        // what Target waits for
	Confirmed   *fleet.Confirmation `json:"confirmed,omitempty"`   // the last one; it is of one release only
	Choice      *fleet.Choice       `json:"choice,omitempty"`      // in force
	Suspended   *fleet.Suspension   `json:"suspended,omitempty"`   // until it is over or lifted
	Seen        *fleet.Systems      `json:"seen,omitempty"`        // what ran and was to be booted when last looked at
	Drift       *fleet.Drift        `json:"drift,omitempty"`       // Seen is not Active, and nobody told us
	Corrections int                 `json:"corrections,omitempty"` // since the last newer system
	Rebooted    string              `json:"rebooted,omitempty"`    // the system for whose sake the agent rebooted

	Test   *Test             `json:"test,omitempty"`   // in force, or left, as long as the test branch points at it
	Tested *fleet.ReleaseRef `json:"tested,omitempty"` // the newest test release that was accepted
	Tried  string            `json:"tried,omitempty"`  // the system of a test that was switched to last

	Head   *Head  `json:"head,omitempty"`   // the newest release, where the host's ring does not give it yet; nil: Newest is that
	Boot   string `json:"boot,omitempty"`   // that the machine is in
	Permit string `json:"permit,omitempty"` // the boot that the host's ring lets it end
}

// Head is a verified release that the host's ring does not give it yet, and what it says of the host.
type Head struct {
	Release fleet.ReleaseRef `json:"release"`
	Entry   fleet.Entry      `json:"entry"`
}

// Acceptance is an operator's word that the history behind a refused tip is in order: its signature must be, too.
type Acceptance struct {
	Commit string      `json:"commit"`
	By     fleet.Actor `json:"by"`
	At     time.Time   `json:"at"`
}

// Acceptable says whether an operator can lift a refusal of this kind: only those of where a release stands in the
// history, never those of what it is.
func Acceptable(c fleet.Code) bool {
	return c == fleet.CodeForcePushed || c == fleet.CodeReplayed || c == fleet.CodeTagMoved
}

// Valid says whether r holds all that its phase needs. A record that does not was not written by Next.
func (r Record) Valid() bool {
	if r.Reboot && r.Active == nil || r.Newest == nil && r.Choice == nil && r.Drift == nil && r.Phase != fleet.PhaseNew {
		return false
	}
	switch r.Phase {
	case fleet.PhaseNew:
		return true
	case fleet.PhaseManual:
		return r.Newest != nil
	case fleet.PhaseIdle, fleet.PhaseReboot:
		return r.Active != nil
	case fleet.PhaseTesting:
		return r.Active != nil && r.Test != nil
	case fleet.PhaseOverruled:
		return r.Active != nil && (r.Choice != nil || r.Drift != nil)
	case fleet.PhaseStaging, fleet.PhaseActivating:
		return r.Target != nil
	case fleet.PhaseWaiting:
		return r.Target != nil && r.Wait != nil
	case fleet.PhaseHeld:
		return r.Target != nil && r.Failure != nil
	case fleet.PhaseRetrying:
		return r.Target != nil && r.Failure != nil && r.RetryAt != nil
	}
	return false
}

// New is the record of a host that never saw a release.
func New(host string, at time.Time) Record {
	return Record{Schema: RecordSchema, Host: host, Phase: fleet.PhaseNew, Since: at}
}

// Policy is what the host's configuration says of how releases are followed.
type Policy struct {
	Confirm bool           // every release waits for an operator's word
	Windows Windows        // in which activations start
	Correct bool           // what somebody switched to beside the agent is switched back
	Grace   time.Duration  // before that
	Reboots Windows        // in which the agent reboots a host that needs it; none: never, unless Permits
	Permits bool           // and only by a permit of its ring for the boot that is to end
	Zone    *time.Location // of the windows; nil for UTC
}

// MaxCorrections is how often somebody is corrected before the agent leaves it to a person.
const MaxCorrections = 3

// Event is something that happened.
type Event interface{ event() }

type (
	// Found is the release that this host is given, its tag verified: the one that the release branch points at, or its ring's.
	Found struct {
		Release fleet.ReleaseRef
		Entry   *fleet.Entry // nil: the release does not deploy this host
		Manual  bool         // and says so
		Head    *Head        // what the release branch points at, if that is another one
		Anew    bool         // it is of a history that an operator accepted: any number will do
		Systems fleet.Systems
	}
	// TestFound is the test release that the host's test branch points at, built on the newest release and verified.
	TestFound struct {
		Release fleet.ReleaseRef
		Entry   fleet.Entry
		Base    int // the number of the release that it is built on
	}
	// TestGone says that there is no test branch.
	TestGone struct{}
	// Nothing says that there is no release for this host, and never was one: none at all, or Head, that its ring does not give it.
	Nothing struct{ Head *Head }
	// Refused is a branch tip that was not accepted.
	Refused struct {
		Tip     string
		Failure fleet.Failure
	}
	// Staged says that the target's closure is in the store, whole.
	Staged struct{}
	// StageFailed says that it could not be brought there.
	StageFailed struct{ Failure fleet.Failure }
	// Activated says how the activation helper ended.
	Activated struct {
		Result  fleet.Result
		Failure *fleet.Failure
		Systems fleet.Systems
	}
	// Restarted says that the agent starts and has read its record, and which boot the machine is in.
	Restarted struct {
		Systems fleet.Systems
		Boot    string
	}
	// Permitted says which boot the host's ring lets it end, "" for none.
	Permitted struct{ Boot string }
	// Observed says what runs, and what is to be booted.
	Observed struct{ Systems fleet.Systems }
	// Due says that Policy.Wake has come, or might have.
	Due struct{}
)

func (Found) event()       {}
func (TestFound) event()   {}
func (TestGone) event()    {}
func (Nothing) event()     {}
func (Refused) event()     {}
func (Staged) event()      {}
func (StageFailed) event() {}
func (Activated) event()   {}
func (Restarted) event()   {}
func (Permitted) event()   {}
func (Observed) event()    {}
func (Due) event()         {}

// Effect is something to do.
type Effect int

// The effects. Each but Reboot is about Record.Target as Next returned it.
const (
	// Stage brings the target's closure into the store. A stage under way for another target is stopped first.
	Stage Effect = iota + 1
	// Activate starts the activation helper on the target.
	Activate
	// Resume finds out what became of an activation helper, and starts it again if it died.
	Resume
	// Reboot reboots the host.
	Reboot
)

// String is the effect's name in docs and logs.
func (e Effect) String() string {
	return [...]string{"", "stage", "activate", "resume", "reboot"}[e]
}

// step is one transition on its way: what is on record, what of it was decided so far.
type step struct {
	Policy
	r       Record
	at      time.Time
	jitter  float64
	effects []Effect
}

// Next is the one transition function. jitter, from 0 up to 1, spreads retries of hosts that failed together. An event that the
// table does not have for a phase, and an operator's that May refuses, changes nothing.
func (p Policy) Next(r Record, e Event, at time.Time, jitter float64) (Record, []Effect) {
	if p.Zone == nil {
		p.Zone = time.UTC
	}
	s := &step{Policy: p, r: r, at: at, jitter: jitter}
	rule, there := ruleFor(KindOf(e), r.Phase)
	if !there || p.May(r, e, at) != nil {
		return r, nil
	}
	rule.do(s, e)
	if s.r.Phase != r.Phase {
		s.r.Since = at
	}
	return s.r, s.effects
}

// Wake is when Due has something to do, nil if nothing is waited for.
func (p Policy) Wake(r Record, at time.Time) *time.Time {
	if r.Phase == fleet.PhaseActivating {
		return nil
	}
	var times []time.Time
	if r.RetryAt != nil {
		times = append(times, *r.RetryAt)
	}
	if r.Phase == fleet.PhaseWaiting && r.Wait.Until != nil {
		times = append(times, *r.Wait.Until)
	}
	if r.Suspended != nil {
		times = append(times, r.Suspended.Until)
	}
	if reboot := p.RebootAt(r, at); reboot != nil && p.MayReboot(r) {
		times = append(times, *reboot)
	}
	if len(times) == 0 {
		return nil
	}
	first := slices.MinFunc(times, time.Time.Compare)
	return &first
}
