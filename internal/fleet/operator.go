package fleet

import (
	"strconv"
	"time"
)

// Actor is who gave an order to an agent, as the kernel says of the other end of its socket.
type Actor struct {
	UID  int    `json:"uid"`
	User string `json:"user,omitempty"`
}

// String is the user's name, or the number where it has none.
func (a Actor) String() string {
	if a.User != "" {
		return a.User
	}
	return "uid " + strconv.Itoa(a.UID)
}

// The acts: what an operator can have an agent do, and what it sees somebody do beside it.
const (
	ActRetry    = "retry"
	ActConfirm  = "confirm"
	ActDeploy   = "deploy"
	ActRollback = "rollback"
	ActSuspend  = "suspend"
	ActResume   = "resume"
	ActAccept   = "accept"   // a refused tip
	ActSwitched = "switched" // by hand: nixos-rebuild and the like
	ActReboot   = "reboot"   // by the agent, in a window
	// ActForgotten is a hub's: it was told to forget the host.
	ActForgotten = "forgotten"
)

// Act is one of them, as history keeps it.
type Act struct {
	Schema  int         `json:"schema"`
	Host    string      `json:"host"`
	At      time.Time   `json:"at"`
	Act     string      `json:"act"`
	By      *Actor      `json:"by,omitempty"` // nil: not known, or the agent itself
	Reason  string      `json:"reason,omitempty"`
	Release *ReleaseRef `json:"release,omitempty"`
	OutPath string      `json:"outPath,omitempty"`
	Commit  string      `json:"commit,omitempty"` // accept
	Until   *time.Time  `json:"until,omitempty"`
	Now     bool        `json:"now,omitempty"` // windows were overruled
}

// Order is what an operator asks of an agent on its socket.
type Order struct {
	Act       string  `json:"act"`
	Reason    string  `json:"reason,omitempty"`
	Release   int     `json:"release,omitempty"`   // confirm, deploy
	Tag       string  `json:"tag,omitempty"`       // confirm: object name of the tag that was looked at
	StorePath string  `json:"storePath,omitempty"` // deploy
	Back      int     `json:"back,omitempty"`      // rollback: how many confirmed systems
	Seconds   float64 `json:"seconds,omitempty"`   // suspend
	Commit    string  `json:"commit,omitempty"`    // accept: the refused tip, or its beginning
	Now       bool    `json:"now,omitempty"`       // confirm, deploy: do not wait for a window
}

// Answer is what an agent answers to an order that it takes.
type Answer struct {
	Schema int    `json:"schema"`
	Said   string `json:"said"`
	Status Status `json:"status"`
}

// Choice is a system that an operator chose over the newest release. It is left alone until a newer
// release brings this host another system than the one overruled.
type Choice struct {
	Act       string      `json:"act"` // ActDeploy or ActRollback
	By        Actor       `json:"by"`
	Reason    string      `json:"reason,omitempty"`
	Since     time.Time   `json:"since"`
	Release   ReleaseRef  `json:"release"` // number 0 for a bare store path
	OutPath   string      `json:"outPath"`
	Overruled *ReleaseRef `json:"overruled,omitempty"` // the newest release then; nil for none
	System    string      `json:"system,omitempty"`    // which that says for this host
}

// Drift is a system that somebody switched to beside the agent. Like a Choice, it is left alone.
type Drift struct {
	Since     time.Time   `json:"since"`
	Current   string      `json:"current"`
	Profile   string      `json:"profile"`
	Overruled *ReleaseRef `json:"overruled,omitempty"`
	System    string      `json:"system,omitempty"` // "" once a newer release has taken over
}

// Suspension keeps activations from starting.
type Suspension struct {
	By     Actor     `json:"by"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
}

// Confirmation is an operator's word for one exact release.
type Confirmation struct {
	By      Actor      `json:"by"`
	At      time.Time  `json:"at"`
	Release ReleaseRef `json:"release"`
	OutPath string     `json:"outPath"`
	Now     bool       `json:"now,omitempty"` // windows do not matter
}

// WaitFor is what a staged system waits for.
type WaitFor string

// What a staged system may wait for. ForGrace: until whoever switches the host by hand has ended.
const (
	ForConfirm WaitFor = "confirm"
	ForWindow  WaitFor = "window"
	ForResume  WaitFor = "resume"
	ForGrace   WaitFor = "grace"
)

// Wait says what a staged system waits for, and until when if that is known.
type Wait struct {
	For   WaitFor    `json:"for"`
	Until *time.Time `json:"until,omitempty"`
}

// Name is the release's tag; the system was named by its store path where there is none.
func (r ReleaseRef) Name() string {
	if r.Test != "" {
		return r.Test
	}
	if r.Number == 0 {
		return "a store path"
	}
	return TagName(r.Number)
}
