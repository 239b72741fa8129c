package fleet

import (
	"errors"
	"fmt"
)

// Class says what becomes of a failure. Every error that stops a stage has one.
type Class string

const (
	// Transient failures (network, cache, lock) are retried with backoff and alarmed when they last.
	Transient Class = "transient"
	// Bad means that this release is bad for this host: it is held until a newer
	// release or an operator's word.
	Bad Class = "release"
	// Local means that the host itself is at fault (disk full, key missing):
	// alarmed, and retried.
	Local Class = "host"
)

// Code is a stable, documented name of a failure (docs/FORMATS.md lists them). Scripts may match on it.
type Code string

// The codes. Each stands for one thing that a person can do something about.
const (
	CodeInternal      Code = "internal"           // a defect of Garrison
	CodeUsage         Code = "usage"              // the command line was wrong
	CodeConfig        Code = "config"             // a configuration file was wrong
	CodeNotConverged  Code = "not-converged"      // a host is not what the release says
	CodeDiffers       Code = "differs"            // a host differs from what was recorded
	CodeTimeout       Code = "timeout"            // time ran out
	CodeDrillFailed   Code = "drill-failed"       // a drill's check failed
	CodeCanceled      Code = "canceled"           // somebody stopped it
	CodeMissingTool   Code = "missing-tool"       // a program is not there
	CodeNixTooOld     Code = "nix-too-old"        // Nix is older than what is needed
	CodeNoHosts       Code = "no-hosts"           // the flake has no nixosConfigurations
	CodeNoSuchHost    Code = "no-such-host"       // a host was named that is not there
	CodeEvaluate      Code = "evaluate-failed"    // evaluation of a host failed
	CodeBuild         Code = "build-failed"       // a host's system does not build
	CodeSecret        Code = "secret-failed"      // a secret cannot be re-keyed
	CodeKey           Code = "key-unreadable"     // a key file cannot be read or parsed
	CodeGit           Code = "git-failed"         // git failed in a way not told apart further
	CodeRemote        Code = "remote-unreachable" // a git remote cannot be reached
	CodeRace          Code = "lost-race"          // somebody else moved the release branch
	CodeNotDescendant Code = "not-descendant"     // source is not a descendant of the released one
	CodeCache         Code = "cache-failed"       // the cache cannot be reached or answered nonsense
	CodeForge         Code = "forge-failed"       // the forge cannot be reached, or refuses what is asked of it
	CodeUnauthorized  Code = "unauthorized"       // a token was refused
	CodeNotFound      Code = "not-found"          // what was asked for is not there
	CodeInvalid       Code = "invalid-input"      // bytes from outside do not parse
	CodeSignature     Code = "bad-signature"      // a signature of a release tag or a webhook does not fit what it signs
	CodeUnsigned      Code = "unsigned"           // no signature is where one must be: on a release tag, a webhook's delivery
	CodeUnknownKey    Code = "unknown-key"        // a release tag is signed by a key that may not
	CodeKeyExpired    Code = "key-expired"        // a release tag is signed by a key at a time when it may not
	CodeForcePushed   Code = "force-pushed"       // the release branch does not fast-forward
	CodeBranchGone    Code = "branch-gone"        // the release branch was deleted
	CodeReplayed      Code = "replayed"           // an older signed release, or the release number went down
	CodeTagMoved      Code = "tag-moved"          // an accepted release's tag is another object now
	CodeManifest      Code = "bad-manifest"       // the tag's manifest cannot be used
	CodeWrongHost     Code = "wrong-host"         // the manifest gives this host another host's system
	CodeDamaged       Code = "damaged-objects"    // a git remote answers, but what it gives is not whole
	CodeSubstitute    Code = "substitute-failed"  // the closure cannot be fetched
	CodeActivate      Code = "activate-failed"    // switch-to-configuration failed
	CodeCheck         Code = "check-failed"       // the new system is not healthy
	CodeSuperseded    Code = "superseded"         // something newer was pushed, which is released instead
	CodeBusy          Code = "busy"               // another run holds the lock
	CodeInterrupted   Code = "interrupted"        // power cut, reboot or kill in the middle
	CodeRollback      Code = "rollback-failed"    // the previous system could not be restored
	CodeNotNow        Code = "not-now"            // the state of the host, or of the roll-out, does not allow that order
	CodeState         Code = "state-unreadable"   // a state file is damaged or cannot be written
	CodeStorage       Code = "storage-failed"     // a cache's bucket or database cannot be reached, or refuses
)

// Error is a failure that a person can meet: what failed and where, what to do
// next, and the cause for those who ask with -v.
type Error struct {
	Class Class
	Code  Code
	What  string // what failed, and where; one line, no full stop
	Hint  string // what to do next; may be empty when What says it
	Err   error  // the cause; may be nil
}

// Errorf returns an Error with a formatted What. Use the With* methods for the rest.
func Errorf(class Class, code Code, format string, args ...any) *Error {
	return &Error{Class: class, Code: code, What: fmt.Sprintf(format, args...)}
}

// WithHint sets what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// WithCause sets the cause.
func (e *Error) WithCause(err error) *Error {
	e.Err = err
	return e
}

// Error is What and, if there is one, the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.What
	}
	return e.What + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the outermost Error in err's chain, CodeInternal if
// there is none, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}

// ClassOf returns the class of the outermost Error in err's chain that has one.
// An error nobody classified is the host's own: alarmed and retried, never given up.
func ClassOf(err error) Class {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			break
		}
		if e.Class != "" {
			return e.Class
		}
		err = e.Err
	}
	return Local
}

// Failure is an Error as it is written to records, reports and logs.
type Failure struct {
	Class   Class  `json:"class"`
	Code    Code   `json:"code"`
	Stage   Stage  `json:"stage,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// FailureOf describes err for a record; nil for nil.
func FailureOf(stage Stage, err error) *Failure {
	if err == nil {
		return nil
	}
	f := &Failure{Class: ClassOf(err), Code: CodeOf(err), Stage: stage, Message: err.Error()}
	var e *Error
	if errors.As(err, &e) {
		f.Hint = e.Hint
	}
	return f
}
