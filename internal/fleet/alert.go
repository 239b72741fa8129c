package fleet

import "time"

// AlertKind says what is wrong.
type AlertKind string

// The kinds of alerts.
const (
	AlertRelease    AlertKind = "release-failed"    // CI made no release of what was pushed
	AlertDeployment AlertKind = "deployment-failed" // a host has not, and will not by itself have, what the newest release says; or was rolled back
	AlertRefused    AlertKind = "release-refused"   // a host does not accept what the release branch points at
	AlertSilent     AlertKind = "host-silent"       // a host has not reported for too long, or never
	AlertFetch      AlertKind = "fetch-failing"     // a host has not reached git for too long
	AlertRetrying   AlertKind = "deployment-stuck"  // a host tries again and again for too long
	AlertDrift      AlertKind = "drift"             // somebody switched a host by hand
	AlertReboot     AlertKind = "reboot-failed"     // a host is not well after a reboot, or could not reboot
	AlertCredential AlertKind = "credential"        // a token or key expires soon, has expired, or is refused
	AlertPush       AlertKind = "push-stuck"        // what a host built does not get into the cache
	AlertDisk       AlertKind = "disk-low"          // a host or the hub has little space left
	AlertClock      AlertKind = "clock-off"         // a host's clock is not the hub's
	AlertDrill      AlertKind = "drill-failed"      // the last drill failed
	AlertFollow     AlertKind = "hub-blind"         // the hub cannot see what is published
	AlertDelivery   AlertKind = "alert-undelivered" // a sender does not take what it is sent
	AlertRollout    AlertKind = "rollout-paused"    // a release goes no further: a ring has failures, or a host went silent in it
	AlertLate       AlertKind = "rollout-late"      // a roll-out takes longer than its soak times and windows explain
)

// AlertKinds are all of them.
func AlertKinds() []AlertKind {
	return []AlertKind{AlertRelease, AlertDeployment, AlertRefused, AlertSilent, AlertFetch, AlertRetrying, AlertDrift, AlertReboot, AlertCredential, AlertPush, AlertDisk, AlertClock, AlertDrill, AlertFollow, AlertDelivery, AlertRollout, AlertLate}
}

// Severity is how much an alert matters.
type Severity string

// The severities. Critical: something does not work that should, and will not by itself. Warning: it will be so.
const (
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// Alert is one thing that is wrong, from when a hub saw it until it was over.
type Alert struct {
	Schema   int       `json:"schema"`
	ID       int64     `json:"id"`
	Key      string    `json:"key"` // kind and what it is about; no two alerts that are open have the same
	Kind     AlertKind `json:"kind"`
	Severity Severity  `json:"severity"`
	Host     string    `json:"host,omitempty"`    // where, if at a host
	Release  string    `json:"release,omitempty"` // tag of the release concerned
	What     string    `json:"what"`              // in a line
	Detail   string    `json:"detail,omitempty"`  // the error, at most 4 KiB
	Commands []string  `json:"commands"`          // what to type next
	Since    time.Time `json:"since"`             // when it began to be wrong
	// OpenedAt is when the hub opened the alert, ResolvedAt when it was over; nil while it is not.
	OpenedAt   time.Time  `json:"openedAt"`
	ResolvedAt *time.Time `json:"resolvedAt,omitempty"`
}

// Delivery is an event on its way to a sender.
type Delivery struct {
	ID       int64      `json:"id"`
	Sender   string     `json:"sender"` // its name in the configuration
	Event    Event      `json:"event"`
	At       time.Time  `json:"at"` // when it was queued
	Attempts int        `json:"attempts"`
	NextAt   time.Time  `json:"nextAt"`           // when it is to be tried
	DoneAt   *time.Time `json:"doneAt,omitempty"` // when it was delivered, or given up: then GivenUp is true
	GivenUp  bool       `json:"givenUp,omitempty"`
	Error    string     `json:"error,omitempty"` // of the last attempt
}

// SenderState is how a sender of a hub does.
type SenderState struct {
	Schema    int        `json:"schema"`
	Name      string     `json:"name"`
	Type      string     `json:"type"`
	Pending   int        `json:"pending"`             // deliveries that are not done, at most some hundred
	Oldest    *time.Time `json:"oldest,omitempty"`    // when the first of them was queued
	Delivered *time.Time `json:"delivered,omitempty"` // when something last was
	Attempts  int        `json:"attempts,omitempty"`  // of the delivery that is tried
	NextAt    *time.Time `json:"nextAt,omitempty"`    // when one is tried again
	Error     string     `json:"error,omitempty"`     // of the last attempt, if it failed
	GivenUp   int        `json:"givenUp,omitempty"`   // of the last deliveries that are done
	Template  string     `json:"template,omitempty"`  // why the configured text could not be made; the default was sent
}

// SenderTest is what came of a test message.
type SenderTest struct {
	Schema  int     `json:"schema"`
	Name    string  `json:"name"`
	Type    string  `json:"type"`
	Error   string  `json:"error,omitempty"` // "" if it was taken
	Seconds float64 `json:"seconds"`
}
