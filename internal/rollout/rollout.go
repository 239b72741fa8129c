// Package rollout decides which ring of a fleet is given which release: a pure function from what git has, what hosts report, and the clock.
package rollout

import (
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Facts are all that a decision is made of. Nothing of them is the controller's own: it stands in git, or hosts tell it again.
type Facts struct {
	Now    time.Time
	Branch string // the release branch's name; "": release
	// Newest is the release that the release branch points at; Releases are those that rings may have or get, by number, Newest among them. One
	// that is missing there is not promoted, and not counted as taken.
	Newest   *fleet.Manifest
	Releases map[int]*fleet.Manifest
	// Tips are the releases that the rings' branches point at. A step that is not there was never given any.
	Tips   map[fleet.Step]int
	Ledger fleet.Ledger
	Hosts  map[string]*Host // all that are known, also those that no release names any more; nothing of them is changed
	// Drilled is when the last drill ended, if it passed; zero: it did not, or none is known.
	Drilled time.Time
	// Silent is after which time a host that said nothing is not heard of; Heard since when the hub listens.
	Silent time.Duration
	Heard  time.Time
	// Held is why nothing is given to anybody by who asks, in words: what could be given waits for somebody who may. "": it is given.
	Held string
}

// Host is what is known of a host.
type Host struct {
	Status fleet.Status // with Seen, if a hub heard of it
	Took   []Took       // the systems that it confirmed (also for the next boot), in that order
	Faults []Fault      // releases that it was rolled back from, or holds, in that order; times of both by its own clock
}

// Took is a system that a host confirmed.
type Took struct {
	Release int
	OutPath string
	At      time.Time
}

// Fault is a release that a host did not keep, or holds.
type Fault struct {
	Release int
	At      time.Time
	Why     string // in a few words, "unit nginx.service failed"
}

// Move gives a step a release.
type Move struct {
	fleet.Step
	From, To int // releases; From 0: it had none
	Reason   string
}

// Decision is what follows from facts.
type Decision struct {
	View    fleet.Rollout
	Moves   []Move
	Permits map[string]fleet.RebootPermit // all that are in force from now on: what Ledger.Reboots is to be
	// Again is when to decide again if nothing is reported until then: also when a host's silence begins to count, which View.Next leaves out. Zero: never.
	Again time.Time
}
