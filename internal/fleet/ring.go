package fleet

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Ring is a part of the fleet that gets a release after the ring before it, and what must hold for that. A release says what its rings are;
// without any, all hosts have it at once (docs/ROLLOUT.md).
type Ring struct {
	Name string `json:"name"`
	// Batches is in how many parts its hosts get a release, one after the other; at least 1. Entry.Batch says which one a host is in.
	Batches int `json:"batches"`
	// SoakSeconds is how long all its hosts must be well with a release before the next ring gets it.
	SoakSeconds int64 `json:"soakSeconds,omitempty"`
	// Failures is how many of its hosts may fail with a release, or hold it, before that goes no further.
	Failures int `json:"failures,omitempty"`
	// Windows are the times at which it may be given a release, in Zone (IANA; "": UTC); none: always.
	Windows []string `json:"windows,omitempty"`
	Zone    string   `json:"zone,omitempty"`
	// Manual says that it is given a release by a person's word alone.
	Manual bool `json:"manual,omitempty"`
	// DrillDays is how many days ago a drill must at most have passed before it is given a release; 0: no drill is asked for.
	DrillDays int `json:"drillDays,omitempty"`
	// Reboots is how many of its hosts may be down for a reboot at a time; 0: no limit, each follows its own windows.
	Reboots int `json:"reboots,omitempty"`
}

// Bounds of what a release may say of rings.
const (
	MaxRings       = 50
	MaxBatches     = 1000
	MaxRingSoak    = 90 * 24 * time.Hour
	maxRingWindows = 50
)

// ValidRingName says whether s can name a ring: small letters, digits and hyphens, and no name that a test release's branch could end in.
func ValidRingName(s string) bool {
	return len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s != "" && isAlnum(s[0]) && isAlnum(s[len(s)-1]) && s != "test" && !strings.HasSuffix(s, "-test")
}

// RingBranch is the branch that points at the release which a batch of a ring has; batches count from 1. release is the name of the branch with all
// releases.
func RingBranch(release, ring string, batch int) string {
	b := release + "-ring-" + ring
	if batch > 1 {
		b += "." + strconv.Itoa(batch)
	}
	return b
}

// IsRingBranch says whether RingBranch makes such a name for that release branch.
func IsRingBranch(release, branch string) bool {
	rest, ok := strings.CutPrefix(branch, release+"-ring-")
	ring, batch, more := strings.Cut(rest, ".")
	n, err := strconv.Atoi(batch)
	return ok && ValidRingName(ring) && (!more || err == nil && n > 1 && n <= MaxBatches && strconv.Itoa(n) == batch)
}

// RolloutBranch is the branch with the roll-out's Ledger.
func RolloutBranch(release string) string { return release + "-rollout" }

// validateRings checks what a manifest says of rings.
func (m *Manifest) validateRings() error {
	if len(m.Rings) > MaxRings {
		return fmt.Errorf("manifest has %d rings, at most %d are read", len(m.Rings), MaxRings)
	}
	rings := map[string]Ring{}
	for _, r := range m.Rings {
		if _, twice := rings[r.Name]; twice || !ValidRingName(r.Name) {
			return fmt.Errorf("manifest has a ring with the name %q, or has it twice", r.Name)
		}
		if r.Batches < 1 || r.Batches > MaxBatches || r.SoakSeconds < 0 || r.SoakSeconds > int64(MaxRingSoak/time.Second) || r.Failures < 0 || r.DrillDays < 0 || r.Reboots < 0 || len(r.Windows) > maxRingWindows {
			return fmt.Errorf("manifest's ring %s has a number that is out of bounds", r.Name)
		}
		rings[r.Name] = r
	}
	for h, e := range m.Hosts {
		r, there := rings[e.Ring]
		if len(rings) == 0 && (e.Ring != "" || e.Batch != 0) || len(rings) > 0 && m.Test == "" && (!there || e.Batch < 1 || e.Batch > r.Batches) {
			return fmt.Errorf("manifest's host %s is in batch %d of ring %q, which it does not have", h, e.Batch, e.Ring)
		}
	}
	return nil
}

// Step is one part of a roll-out: a batch of a ring.
type Step struct {
	Ring  string `json:"ring"`
	Batch int    `json:"batch"` // from 1
}

// Steps are those of a release, in the order in which they get it.
func (m *Manifest) Steps() (steps []Step) {
	for _, r := range m.Rings {
		for b := range r.Batches {
			steps = append(steps, Step{r.Name, b + 1})
		}
	}
	return steps
}
