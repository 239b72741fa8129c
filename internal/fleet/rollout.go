package fleet

import "time"

// Rollout is how far the newest release is on its way through the rings, and why no further.
type Rollout struct {
	Schema  int          `json:"schema"`
	At      time.Time    `json:"at"`
	Release int          `json:"release"` // the newest; 0: none is known
	Commit  string       `json:"commit,omitempty"`
	Subject string       `json:"subject,omitempty"`
	State   RolloutState `json:"state"`
	// Reason says in a line why it is in State.
	Reason string        `json:"reason,omitempty"`
	Rings  []RolloutRing `json:"rings"` // empty: the fleet has none, and every host has a release at once
	Freeze *RolloutOrder `json:"freeze,omitempty"`
	Paused *RolloutOrder `json:"paused,omitempty"` // by a person
	// LastGood is the release that an abort goes back to if nobody names another; 0: none is known.
	LastGood int `json:"lastGood,omitempty"`
	// LateSince is since when the roll-out takes longer than its soak times and windows explain.
	LateSince *time.Time `json:"lateSince,omitempty"`
	// Next is when the clock alone will change something.
	Next *time.Time `json:"next,omitempty"`
	// Trouble is why nothing is promoted whatever the gates say: git is away or refuses, the ledger cannot be used. Said by hubs alone.
	Trouble *Failure `json:"trouble,omitempty"`
}

// RolloutState is where a roll-out, or a ring in it, is.
type RolloutState string

// The states.
const (
	RolloutDone    RolloutState = "done"    // has the newest release
	RolloutRolling RolloutState = "rolling" // hosts are at it
	RolloutSoaking RolloutState = "soaking" // all hosts have it, and are watched
	RolloutWaiting RolloutState = "waiting" // for a window, a drill, a person, the end of a freeze, or the ring before
	RolloutStopped RolloutState = "paused"  // failures, a silent host, or a person stopped it
)

// RolloutRing is a ring in a Rollout.
type RolloutRing struct {
	Ring
	State  RolloutState `json:"state"`
	Reason string       `json:"reason,omitempty"`
	// Offered is the release that its first batch has, Release the one that its last one has; 0: none yet.
	Offered int `json:"offered"`
	Release int `json:"release"`
	Batch   int `json:"batch"` // how many batches have Offered
	Hosts   int `json:"hosts"`
	// Of the hosts that were given Offered: those that have it and are well, that failed or hold it, that went silent in it; and those
	// that were away before they were given it, and are not waited for. The first MaxNamed of each, and how many there are.
	Done    Named `json:"done"`
	Failed  Named `json:"failed"`
	Silent  Named `json:"silent"`
	Away    Named `json:"away"`
	Pending Named `json:"pending"` // under way, or not well
	// SoakUntil is when the soak time ends if all stays well.
	SoakUntil *time.Time `json:"soakUntil,omitempty"`
	// Approve says that it waits for a person's word, for the release Candidate.
	Approve   bool       `json:"approve,omitempty"`
	Candidate int        `json:"candidate,omitempty"` // the release that it is to be given next
	Opens     *time.Time `json:"opens,omitempty"`     // when its window opens
	Rebooting []string   `json:"rebooting,omitempty"` // hosts that may, or are at it
	ToReboot  Named      `json:"toReboot"`            // hosts that wait for their turn
}

// Named is a set of hosts, of which the first are named.
type Named struct {
	Count int      `json:"count"`
	Names []string `json:"names,omitempty"`
}

// MaxNamed is how many hosts a Named names.
const MaxNamed = 20

// Add counts a host in.
func (n *Named) Add(host string) {
	if n.Count++; len(n.Names) < MaxNamed {
		n.Names = append(n.Names, host)
	}
}

// Ahead is a release that a host is not given yet by its ring, and what it has of it already.
type Ahead struct {
	Release ReleaseRef `json:"release"`
	OutPath string     `json:"outPath"`
	// StagedAt is when its closure was complete on the host; nil while it is not.
	StagedAt *time.Time `json:"stagedAt,omitempty"`
	Failure  *Failure   `json:"failure,omitempty"` // why it could not be staged; that stops nothing
}

// RolloutAct is something that happened in a roll-out.
type RolloutAct struct {
	Schema  int       `json:"schema"`
	Act     string    `json:"act"` // RolloutPromoted and the others below
	At      time.Time `json:"at"`
	By      string    `json:"by,omitempty"` // "hub", "ci", or a person; "" where it follows from what hosts report
	Ring    string    `json:"ring,omitempty"`
	Batch   int       `json:"batch,omitempty"` // that was promoted
	Release int       `json:"release,omitempty"`
	To      int       `json:"to,omitempty"` // aborted: the release to go back to
	Reason  string    `json:"reason,omitempty"`
	Hosts   []string  `json:"hosts,omitempty"` // that stopped a ring, or may reboot; the first MaxNamed
	// Until is the end of a freeze.
	Until *time.Time `json:"until,omitempty"`
}

// What happens in a roll-out.
const (
	RolloutPromoted  = "promoted"  // a batch was given a release
	RolloutApproved  = "approved"  // a person let a ring be given one
	RolloutPaused    = "paused"    // by a person (without Ring), or a ring by what its hosts report
	RolloutResumed   = "resumed"   // by a person
	RolloutFrozen    = "frozen"    // by a person
	RolloutUnfrozen  = "unfrozen"  // by a person
	RolloutAborted   = "aborted"   // by a person
	RolloutRebooting = "rebooting" // Hosts may reboot
	RolloutComplete  = "complete"  // all rings have Release
)
