package fleet

import (
	"encoding/json"
	"time"
)

// Bounds of what a host tells the hub of its deployments, in bytes; hub and agent keep to them.
const (
	MaxReportedLog  = 64 << 10
	MaxReportedDiff = 512 << 10
)

// DeploymentKey tells deployments of a host apart.
type DeploymentKey struct {
	Release int       `json:"release"`
	EndedAt time.Time `json:"endedAt"`
}

// Key is d's.
func (d Deployment) Key() DeploymentKey {
	return DeploymentKey{Release: d.Release.Number, EndedAt: d.EndedAt}
}

// Equal says whether both are of the same deployment.
func (k DeploymentKey) Equal(l DeploymentKey) bool {
	return k.Release == l.Release && k.EndedAt.Equal(l.EndedAt)
}

// Received is the hub's answer to a status: the deployment, and the time of the act, of that host that it was told of last, nil for
// none. What came later it does not know: the agent tells it.
type Received struct {
	Schema     int            `json:"schema"`
	Deployment *DeploymentKey `json:"deployment,omitempty"`
	Act        *time.Time     `json:"act,omitempty"`
}

// LogPart is a part of what is said in an activation, as a host tells the hub while it is under way.
type LogPart struct {
	Schema     int    `json:"schema"`
	Host       string `json:"host"`
	Activation string `json:"activation"` // tells it from others of the host
	Offset     int64  `json:"offset"`     // bytes of it that were told before
	Text       string `json:"text"`       // at most MaxReportedLog bytes
}

// DeploymentReport is a deployment that ended, as a host tells the hub of it, with the end of its log.
type DeploymentReport struct {
	Schema     int        `json:"schema"`
	Deployment Deployment `json:"deployment"`
	Log        string     `json:"log"`
}

// HostDiff is what would change on a host, or, where nothing waits to be done there, what its last deployment changed.
type HostDiff struct {
	Schema  int         `json:"schema"`
	Host    string      `json:"host"`
	At      time.Time   `json:"at"`
	Release *ReleaseRef `json:"release,omitempty"` // of After; none while the host saw no release
	Pending bool        `json:"pending"`           // Before runs and After is wanted
	Before  string      `json:"before"`            // store paths of systems
	After   string      `json:"after"`
	// Diff is a closure.Diff; missing where one of the closures is not known, and Unknown says why.
	Diff    json.RawMessage `json:"diff,omitempty"`
	Unknown string          `json:"unknown,omitempty"`
}
