package fleet

import (
	"encoding/json"
	"time"
)

// EventSpec is the version of CloudEvents that events are written in.
const EventSpec = "1.0"

// Event is something that happened in the fleet, as a hub keeps and tells it: a CloudEvent in JSON (CloudEvents 1.0, structured mode).
// Source and ID together name it: one that is told again is the same.
type Event struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Source      string          `json:"source"` // "/ci", "/release", "/rollout", "/alerts", "/drills", or "/hosts/" and a host's name
	Type        string          `json:"type"`
	Subject     string          `json:"subject,omitempty"` // what it is about: a release's tag, a host, an alert's key
	Time        time.Time       `json:"time"`
	ContentType string          `json:"datacontenttype"`
	Data        json.RawMessage `json:"data"`
	// Seq is an extension: the order in which the hub noted it, above 0 and rising; 0 before it was.
	Seq int64 `json:"seq,omitempty"`
}

// The types of events, and what their data are.
const (
	EventRun        = "garrison.ci.run"            // Run: it began, came to a stage, or ended
	EventReleased   = "garrison.release.published" // Published
	EventPhase      = "garrison.host.phase"        // PhaseChange
	EventDeployment = "garrison.host.deployment"   // Deployment, when it ended
	EventAct        = "garrison.host.act"          // Act
	EventAlert      = "garrison.alert.firing"      // Alert
	EventResolved   = "garrison.alert.resolved"    // Alert
	EventDrill      = "garrison.drill.ended"       // DrillReport
	EventRollout    = "garrison.rollout.act"       // RolloutAct
)

// EventTypes are all of them.
func EventTypes() []string {
	return []string{EventRun, EventReleased, EventPhase, EventDeployment, EventAct, EventAlert, EventResolved, EventDrill, EventRollout}
}

// NewEvent makes an event of data, one of our own types.
func NewEvent(kind, source, id, subject string, at time.Time, data any) (Event, error) {
	doc, err := json.Marshal(data)
	return Event{SpecVersion: EventSpec, ID: id, Source: source, Type: kind, Subject: subject, Time: at.UTC(), ContentType: "application/json", Data: doc}, err
}

// PhaseChange says that a host went from one phase to another.
type PhaseChange struct {
	Schema  int         `json:"schema"`
	Host    string      `json:"host"`
	At      time.Time   `json:"at"`
	Was     Phase       `json:"was,omitempty"` // "" for a host that was not known
	Phase   Phase       `json:"phase"`
	Release *ReleaseRef `json:"release,omitempty"` // that it is about: the target's, else the active one
	Failure *Failure    `json:"failure,omitempty"`
}
