// Package notify tells people what is wrong in a fleet, once, and that it is over.
//
// What is wrong follows from what is known (Assess, a pure function); an Alert is opened when something begins to be wrong and resolved when it is
// over, and that is an event like any other. Every event passes the rules, which queue deliveries to senders. All of that is in the
// store before it is sent, so a hub that dies sends the rest when it is back. Start at Keeper.
package notify

import (
	"context"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Store keeps alerts, and deliveries until they are made.
type Store interface {
	// OpenAlerts are those that are not resolved, by Key.
	OpenAlerts(ctx context.Context) ([]fleet.Alert, error)
	// Alerts are the newest, resolved ones too, newest first, at most so many.
	Alerts(ctx context.Context, most int) ([]fleet.Alert, error)
	// PutAlert keeps a and the event about it, both or none, and returns both as kept. ID 0: it is opened, given an ID and put
	// into the event's data by event, unless one with its Key is open; then that one is returned, and no event.
	PutAlert(ctx context.Context, a fleet.Alert, event func(fleet.Alert) (*fleet.Event, error)) (fleet.Alert, *fleet.Event, error)
	// Events are as hub.Past has them.
	Events(ctx context.Context, types []string, after int64, most int) ([]fleet.Event, error)
	// Cursor is the Seq of the last event that has passed the rules; false when none ever has.
	Cursor(ctx context.Context) (seq int64, found bool, err error)
	// Queue keeps deliveries, giving them IDs, and moves the cursor there: both or none.
	Queue(ctx context.Context, cursor int64, d []fleet.Delivery) error
	// Deliveries are those that are not done, in the order in which they are due, at most so many of each sender.
	Deliveries(ctx context.Context, most int) ([]fleet.Delivery, error)
	// PutDelivery keeps how one that has an ID stands.
	PutDelivery(ctx context.Context, d fleet.Delivery) error
	// LastDeliveries are the newest of each sender that are done, newest first, at most so many of each.
	LastDeliveries(ctx context.Context, most int) ([]fleet.Delivery, error)
}

// Facts are what is known of a fleet at a moment.
type Facts struct {
	Now      time.Time
	Started  time.Time       // when the hub began to listen
	Newest   *fleet.Manifest // the newest release; nil while the hub has seen none
	Hosts    []fleet.Status  // with Seen
	Runs     []fleet.Run     // the newest, newest first
	Drills   []fleet.DrillReport
	Rollout  *fleet.Rollout     // nil while nothing is known of it; no rings where there are none
	Own      []fleet.Credential // the hub's
	Disks    []fleet.Disk       // the hub's
	Follower *fleet.Contact     // the hub's look at git; nil when it follows none
	Pending  []fleet.Delivery   // of senders that there are
	Done     []fleet.Delivery   // the last of each such sender, newest first
}
