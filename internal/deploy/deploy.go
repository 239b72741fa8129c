// Package deploy is the state machine of a host, and nothing else: Next takes what is on
// record and what happened, and gives the new record and what to do about
// it. It does no I/O, reads no clock and keeps nothing, so every transition can
// be tested, and an agent that was killed resumes from the record on disk.
//
// Start at Next; the table of transitions is in docs/ARCHITECTURE.md.
package deploy

import (
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
	Newest  *fleet.ReleaseRef `json:"newest,omitempty"`  // verified; no older one is accepted any more
	Entry   *fleet.Entry      `json:"entry,omitempty"`   // what Newest says of this host
	Manual  bool              `json:"manual,omitempty"`  // Newest has no Entry, and says that this is meant
	Active  *fleet.Target     `json:"active,omitempty"`  // confirmed
	Reboot  bool              `json:"reboot,omitempty"`  // Active is the next boot's: something else runs still
	Target  *fleet.Target     `json:"target,omitempty"`  // worked on, held, or waited for
	Failure *fleet.Failure    `json:"failure,omitempty"` // of Target
	Attempt int               `json:"attempt,omitempty"` // failures of Target in a row
	RetryAt *time.Time        `json:"retryAt,omitempty"`
	Refused *fleet.Refusal    `json:"refused,omitempty"`
}

// Valid says whether r holds all that its phase needs. A record that does not was not written by Next.
func (r Record) Valid() bool {
	if r.Reboot && r.Active == nil {
		return false
	}
	switch r.Phase {
	case fleet.PhaseNew:
		return true
	case fleet.PhaseManual:
		return r.Newest != nil
	case fleet.PhaseIdle, fleet.PhaseReboot:
		return r.Newest != nil && r.Active != nil
	case fleet.PhaseStaging, fleet.PhaseActivating:
		return r.Newest != nil && r.Target != nil
	case fleet.PhaseHeld:
		return r.Newest != nil && r.Target != nil && r.Failure != nil
	case fleet.PhaseRetrying:
		return r.Newest != nil && r.Target != nil && r.Failure != nil && r.RetryAt != nil
	}
	return false
}

// New is the record of a host that never saw a release.
func New(host string, at time.Time) Record {
	return Record{Schema: RecordSchema, Host: host, Phase: fleet.PhaseNew, Since: at}
}

// Event is something that happened.
type Event interface{ event() }

type (
	// Found is the release that the branch points at, its tag verified.
	Found struct {
		Release fleet.ReleaseRef
		Entry   *fleet.Entry // nil: the release does not deploy this host
		Manual  bool         // and says so
		Systems fleet.Systems
	}
	// Nothing says that there is no release, and never was one.
	Nothing struct{}
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
	// Restarted says that the agent starts and has read its record.
	Restarted struct{ Systems fleet.Systems }
	// Due says that RetryAt has come.
	Due struct{}
)

func (Found) event()       {}
func (Nothing) event()     {}
func (Refused) event()     {}
func (Staged) event()      {}
func (StageFailed) event() {}
func (Activated) event()   {}
func (Restarted) event()   {}
func (Due) event()         {}

// Effect is something to do.
type Effect int

// The effects. Each is about Record.Target as Next returned it.
const (
	// Stage brings the target's closure into the store. A stage under way for another target is stopped first.
	Stage Effect = iota + 1
	// Activate starts the activation helper on the target.
	Activate
	// Resume finds out what became of an activation helper, and starts it again if it died.
	Resume
)

// Next is the one transition function. jitter, from 0 up to 1, spreads retries of hosts that failed together.
func Next(r Record, e Event, at time.Time, jitter float64) (Record, []Effect) {
	before := r.Phase
	var effects []Effect
	switch e := e.(type) {
	case Found:
		r, effects = found(r, e, at)
	case Nothing:
		r.Refused = nil
	case Refused:
		if r.Refused == nil || r.Refused.Tip != e.Tip || r.Refused.Failure.Code != e.Failure.Code {
			r.Refused = &fleet.Refusal{Tip: e.Tip, Since: at, Failure: e.Failure}
		}
	case Staged:
		if r.Phase == fleet.PhaseStaging {
			r.Phase = fleet.PhaseActivating
			effects = []Effect{Activate}
		}
	case StageFailed:
		if r.Phase == fleet.PhaseStaging {
			r = failed(r, e.Failure, at, jitter)
		}
	case Activated:
		if r.Phase == fleet.PhaseActivating {
			r, effects = activated(r, e, at, jitter)
		}
	case Restarted:
		r = arrived(r, e.Systems)
		switch r.Phase {
		case fleet.PhaseStaging:
			effects = []Effect{Stage}
		case fleet.PhaseActivating:
			effects = []Effect{Resume}
		}
	case Due:
		if r.Phase == fleet.PhaseRetrying {
			r.Phase, r.RetryAt = fleet.PhaseStaging, nil
			effects = []Effect{Stage}
		}
	}
	if r.Phase != before {
		r.Since = at
	}
	return r, effects
}

// found takes note of a verified release and, unless an activation is under way, turns to it.
func found(r Record, e Found, at time.Time) (Record, []Effect) {
	r.Refused = nil
	r = arrived(r, e.Systems)
	if r.Newest != nil && e.Release.Number <= r.Newest.Number {
		return r, nil
	}
	newest := e.Release
	r.Newest, r.Entry, r.Manual = &newest, e.Entry, e.Manual
	if r.Phase == fleet.PhaseActivating {
		return r, nil // activated turns to it
	}
	return turn(r, e.Systems, at)
}

// arrived notes that a reboot, or somebody, brought the host to the system that waited for it.
func arrived(r Record, s fleet.Systems) Record {
	if r.Reboot && s.Current == r.Active.OutPath {
		r.Reboot = false
		if r.Phase == fleet.PhaseReboot {
			r.Phase = fleet.PhaseIdle
		}
	}
	return r
}

// turn decides what the newest release means for this host.
func turn(r Record, s fleet.Systems, at time.Time) (Record, []Effect) {
	if r.Entry == nil {
		r.Target, r.Failure, r.Attempt, r.RetryAt = nil, nil, 0, nil
		r.Phase = fleet.PhaseManual
		if !r.Manual {
			r.Failure = &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeNoSuchHost, Stage: fleet.Verify,
				Message: fleet.TagName(r.Newest.Number) + " has no host " + r.Host,
				Hint:    "is the agent's host name one of the flake's nixosConfigurations?"}
		}
		return r, nil
	}
	wasHeld := r.Phase == fleet.PhaseHeld
	if wasHeld && r.Target.OutPath == r.Entry.OutPath && r.Failure.Code != fleet.CodeInterrupted {
		// The same system, which is known to be bad here: that others changed is no reason to try it again.
		target := *r.Target
		target.Release = *r.Newest
		r.Target = &target
		return r, nil
	}
	r.Target, r.Failure, r.Attempt, r.RetryAt = nil, nil, 0, nil
	target := &fleet.Target{Release: *r.Newest, OutPath: r.Entry.OutPath, At: at}
	// Where nothing changed for this host, what somebody may have switched to by hand meanwhile stays.
	// What a failed roll-back left does not.
	left := wasHeld && !r.Reboot && r.Active != nil && s.Current != r.Active.OutPath
	switch {
	case r.Active != nil && r.Active.OutPath == target.OutPath && !left:
		active := *r.Active
		active.Release = *r.Newest
		r.Active, r.Phase = &active, fleet.PhaseIdle
		if r.Reboot {
			r.Phase = fleet.PhaseReboot
		}
		return r, nil
	case !left && s.Current == target.OutPath && s.Profile == target.OutPath: // whoever deployed it: another tool, an agent whose record is lost
		r.Active, r.Phase, r.Reboot = target, fleet.PhaseIdle, false
		return r, nil
	}
	r.Target, r.Phase = target, fleet.PhaseStaging
	return r, []Effect{Stage}
}

func activated(r Record, e Activated, at time.Time, jitter float64) (Record, []Effect) {
	done := *r.Target
	switch e.Result {
	case fleet.Committed, fleet.RebootNeeded:
		done.At = at
		r.Active, r.Target, r.Failure, r.Attempt = &done, nil, nil, 0
		r.Phase, r.Reboot = fleet.PhaseIdle, e.Result == fleet.RebootNeeded
		if r.Reboot {
			r.Phase = fleet.PhaseReboot
		}
	default:
		f := fleet.Failure{Class: fleet.Bad, Code: fleet.CodeActivate, Stage: fleet.Activate, Message: string(e.Result)}
		if e.Failure != nil {
			f = *e.Failure
		}
		if e.Result == fleet.RollbackFailed {
			f.Class = fleet.Bad // trying again by itself could only make it worse
		}
		r = failed(r, f, at, jitter)
	}
	if r.Newest != nil && r.Newest.Number > done.Release.Number {
		return turn(r, e.Systems, at)
	}
	return r, nil
}

// failed holds the target when the release is to blame, else notes when to try again.
func failed(r Record, f fleet.Failure, at time.Time, jitter float64) Record {
	r.Failure = &f
	r.Attempt++
	if f.Class == fleet.Bad {
		r.Phase, r.RetryAt = fleet.PhaseHeld, nil
		return r
	}
	retry := at.Add(Backoff(f.Class, r.Attempt, jitter))
	r.Phase, r.RetryAt = fleet.PhaseRetrying, &retry
	return r
}

// MaxBackoff is more than any Backoff.
const MaxBackoff = 45 * time.Minute

// Backoff is how long to wait after the given number of failures in a row: doubling from 5 s to 10 min,
// from 1 min to 30 min where the host itself is at fault, plus up to half of that by jitter.
func Backoff(c fleet.Class, failures int, jitter float64) time.Duration {
	wait, most := 5*time.Second, 10*time.Minute
	if c == fleet.Local {
		wait, most = time.Minute, MaxBackoff*2/3
	}
	for ; failures > 1 && wait < most; failures-- {
		wait *= 2
	}
	wait = min(wait, most)
	return wait + time.Duration(jitter*float64(wait)/2)
}
