package drill

import (
	"crypto/rand"
	"encoding/json"
)

// markerFile is the marker's file in the repository, which the module (or the example's lib) reads.
const markerFile = "drill.json"

// marker is what a drill changes in a fleet's repository: a text that every host shows at /etc/gitops-test, and what shall be broken where
// (docs/FORMATS.md).
type marker struct {
	Schema int    `json:"schema"`
	Text   string `json:"text"`
	// Break says for a host what of its system is broken.
	Break map[string]breakage `json:"break"`
}

// breakage is a way in which a host's system can be broken on purpose.
type breakage string

const (
	breakEvaluate breakage = "evaluate" // its evaluation throws
	breakBuild    breakage = "build"    // it evaluates, and does not build
	breakActivate breakage = "activate" // its activation script fails
	breakUnit     breakage = "unit"     // one of its units fails
	breakCheck    breakage = "check"    // its declared health check fails
	breakNetwork  breakage = "network"  // it cuts the host off
	breakSlow     breakage = "slow"     // its activation takes a while: to be interrupted
)

// complaint is what the broken part says, for it to be found in logs.
func (b breakage) complaint() string { return "garrison drill: " + string(b) + " is broken on purpose" }

// newMarker has a text that no other drill had.
func newMarker() marker {
	return marker{Schema: 1, Text: "garrison drill " + rand.Text() + "\n", Break: map[string]breakage{}}
}

// broken is a marker that breaks a host.
func broken(host string, b breakage) marker {
	m := newMarker()
	m.Break[host] = b
	return m
}

func (m marker) bytes() []byte {
	b, _ := json.MarshalIndent(m, "", "  ") // strings alone
	return append(b, '\n')
}
