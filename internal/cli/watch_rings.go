package cli

import (
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// ringLine is a line of watch -o json about a ring, or, without one, about the roll-out as a whole.
type ringLine struct {
	Kind    string             `json:"kind"` // "ring", "rollout"
	Ring    *fleet.RolloutRing `json:"ring,omitempty"`
	Rollout *fleet.Rollout     `json:"rollout,omitempty"` // without its rings
}

// tellRings prints what is new of the rings, and says whether that is enough, or will never be.
func (w *fleetWatcher) tellRings(v fleet.ReleaseView) (done bool, err error) {
	ring, ofRing := strings.CutPrefix(w.until, untilRing)
	if w.rings == nil {
		if ofRing {
			return true, fleet.Errorf(fleet.Bad, fleet.CodeNotFound, "there is no ring %s: the fleet has none, or the hub knows none", ring).WithHint("garrison watch --until healthy")
		}
		return false, nil
	}
	now := time.Now()
	for i := range w.rings.Rings {
		r := &w.rings.Rings[i]
		if err := w.say("ring "+r.Name, now, r.Lasting(), inkOfRollout(r.State), ringLine{Kind: "ring", Ring: r}); err != nil {
			return false, err
		}
	}
	slim := *w.rings
	slim.Rings = nil
	if notes := w.rings.Notes(); len(notes) > 0 || w.lines["roll-out"] != "" {
		if err := w.say("roll-out", now, orElse(strings.Join(notes, "; "), w.rings.Title()), yellow, ringLine{Kind: "rollout", Rollout: &slim}); err != nil {
			return false, err
		}
	}
	if w.until == "" || v.State == fleet.ReleaseSuperseded {
		return false, nil
	}
	n := v.Release.Number
	if ofRing {
		r := ringNamed(w.rings, ring)
		switch {
		case r == nil:
			return true, fleet.Errorf(fleet.Bad, fleet.CodeNotFound, "there is no ring %s in the newest release", ring).WithHint("garrison status shows its rings")
		case r.Release >= n && r.Pending.Count == 0 && r.State != fleet.RolloutStopped && r.State != fleet.RolloutRolling:
			return true, w.end(v, green, "ring "+ring+" has "+fleet.TagName(r.Release))
		}
	}
	return w.stopped(v, ring)
}

func ringNamed(v *fleet.Rollout, name string) *fleet.RolloutRing {
	for i := range v.Rings {
		if v.Rings[i].Name == name {
			return &v.Rings[i]
		}
	}
	return nil
}

// stopped says whether the release goes no further on its way to the ring (""; the last one) without somebody's help.
func (w *fleetWatcher) stopped(v fleet.ReleaseView, ring string) (bool, error) {
	n, why := v.Release.Number, ""
	for _, r := range w.rings.Rings {
		switch {
		case r.State == fleet.RolloutStopped && (r.Offered == n || w.rings.Paused != nil && r.Offered < n):
			why = "is paused: ring " + r.Name + ": " + strings.TrimPrefix(r.Lasting(), "paused: ")
		case r.Approve && r.Offered < n && w.until == "converged":
			why = "waits for somebody: ring " + r.Name + ": " + r.Lasting()
		}
		if why != "" || r.Name == ring {
			break
		}
	}
	if why == "" {
		return false, nil
	}
	if err := w.end(v, red, failures(v)...); err != nil {
		return true, err
	}
	return true, fleet.Errorf(fleet.Bad, fleet.CodeNotConverged, "%s %s", v.Release.Name(), why).WithHint("%s", strings.Join(w.rings.Commands(), "; "))
}

// countdown is what is waited for, as of now; "" where no clock says how long yet.
func (w *fleetWatcher) countdown(now time.Time) string {
	if w.rings == nil {
		return ""
	}
	for _, r := range w.rings.Rings {
		if r.Counts() != nil {
			return "ring " + r.Name + " " + r.Said(now)
		}
	}
	return ""
}
