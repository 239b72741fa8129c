package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// First says whether a release may be given to its first step as it is published, by what CI knows of: the release, the ledger, the clock. It is told
// in a line what keeps it, "" for nothing. A drill is looked at by a hub alone, so a ring that asks for one gets nothing in this way.
func First(m *fleet.Manifest, l fleet.Ledger, now time.Time) (kept string) {
	if len(m.Rings) == 0 {
		return ""
	}
	ring := m.Rings[0]
	switch open, opens := windowsOf(ring, now); {
	case Frozen(l, now):
		return "frozen " + ordered(l.Freeze)
	case l.Paused != nil:
		return "paused " + ordered(l.Paused)
	case ring.Manual && !Approved(l, ring.Name, m.Number):
		return fmt.Sprintf("ring %s waits for a person's word", ring.Name)
	case ring.DrillDays > 0:
		return fmt.Sprintf("ring %s wants a drill that passed, which a hub looks at", ring.Name)
	case !open:
		return fmt.Sprintf("the window of ring %s opens %s", ring.Name, opens.UTC().Format("2006-01-02 15:04 MST"))
	}
	return ""
}

// Frozen says whether a freeze is in force.
func Frozen(l fleet.Ledger, now time.Time) bool {
	return l.Freeze != nil && (l.Freeze.Until == nil || now.Before(*l.Freeze.Until))
}

// Approved says whether a person gave their word for that ring to get that release.
func Approved(l fleet.Ledger, ring string, release int) bool {
	return slices.ContainsFunc(l.Approved, func(o fleet.RolloutOrder) bool { return o.Ring == ring && o.Release == release })
}

// ordered says who ordered something, until when and why.
func ordered(o *fleet.RolloutOrder) string {
	s := "by " + o.By
	if o.Until != nil {
		s += " until " + o.Until.UTC().Format("2006-01-02 15:04 MST")
	}
	if o.Reason != "" {
		s += ": " + o.Reason
	}
	return s
}

// windowsOf says whether a ring may be given a release at that time by its windows, else when they open. One that cannot be read is never open.
func windowsOf(r fleet.Ring, now time.Time) (open bool, opens time.Time) {
	zone, err := time.LoadLocation(r.Zone)
	if err != nil {
		return false, time.Time{}
	}
	var ws deploy.Windows
	for _, text := range r.Windows {
		var w deploy.Window
		if err := w.UnmarshalText([]byte(text)); err == nil {
			ws = append(ws, w)
		}
	}
	if len(ws) == 0 && len(r.Windows) > 0 {
		return false, time.Time{}
	}
	return ws.Open(now, zone), ws.Next(now, zone)
}
