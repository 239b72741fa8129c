package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Ordered is the ledger after a person's order; what l had before is left as it was. In o are who, when and why, and what each act asks for: o.Release (the newest
// for pause, resume and abort; the one that o.Ring may be given for promote), Until for freeze, To and AtOnce for abort. It moves no ring. Errors have CodeNotNow
// when there is nothing to be ordered, CodeUsage when something is missing.
func Ordered(l fleet.Ledger, act string, o fleet.RolloutOrder) (fleet.Ledger, error) {
	if o.Reason == "" {
		return l, fleet.Errorf("", fleet.CodeUsage, "an order about the roll-out needs a reason").WithHint("say it with --reason: it stands in the ledger, for whoever asks later")
	}
	if len(o.Reason) > maxReason {
		return l, fleet.Errorf("", fleet.CodeUsage, "the reason has %d bytes, at most %d are kept", len(o.Reason), maxReason)
	}
	switch act {
	case fleet.RolloutPause:
		l.Paused = &o
	case fleet.RolloutResume:
		l.Paused, l.Resumed = nil, &o
	case fleet.RolloutFreeze:
		if o.Until == nil || !o.Until.After(o.At) {
			return l, fleet.Errorf("", fleet.CodeUsage, "a freeze needs an end that is to come").WithHint("say --until with a time or a duration: 2026-12-27, 2026-12-27T08:00+01:00, 3d")
		}
		if o.Until.After(o.At.Add(maxFreeze)) {
			return l, fleet.Errorf("", fleet.CodeUsage, "a freeze lasts at most %d days", maxFreeze/24/time.Hour)
		}
		l.Freeze = &o
	case fleet.RolloutUnfreeze:
		if !Frozen(l, o.At) {
			return l, fleet.Errorf("", fleet.CodeNotNow, "no freeze is in force")
		}
		l.Freeze, l.Unfrozen = nil, &o
	case fleet.RolloutPromote:
		l.Approved = slices.DeleteFunc(slices.Clone(l.Approved), func(a fleet.RolloutOrder) bool { return a.Ring == o.Ring && a.Release <= o.Release })
		l.Approved = append(l.Approved, o)
		l.Approved = l.Approved[max(0, len(l.Approved)-maxApproved):]
	case fleet.RolloutAbort:
		if o.To < 1 || o.To >= o.Release {
			return l, fleet.Errorf("", fleet.CodeUsage, "%s is not older than %s", fleet.TagName(o.To), fleet.TagName(o.Release)).WithHint("name the release to go back to: --to")
		}
		l.Aborted, l.Paused = &o, nil
	default:
		return l, fmt.Errorf("there is no order %q", act)
	}
	return l, nil
}

// Bounds of what people order.
const (
	maxReason   = 4 << 10 // bytes
	maxApproved = 100
	maxFreeze   = 366 * 24 * time.Hour
)

// LastGood is the newest release before newest that the last of its steps was given, and that was not aborted: what an abort goes back to. 0: none is known.
// release is the name of the branch with all releases.
func LastGood(m *fleet.Manifest, l fleet.Ledger, release string) int {
	steps := m.Steps()
	if len(steps) == 0 {
		return 0
	}
	last := steps[len(steps)-1]
	good := 0
	for _, p := range l.Promotions[fleet.RingBranch(release, last.Ring, last.Batch)] {
		if p.Release < m.Number && !Aborted(l, p.Release) {
			good = max(good, p.Release)
		}
	}
	return good
}

// Aborted says whether somebody ordered that release n goes no further. The one that was made for it does, be it older than the order.
func Aborted(l fleet.Ledger, n int) bool {
	o := l.Aborted
	return o != nil && n > o.To && n <= o.Release && n != o.Made
}

// ToMake is the abort that is ordered and not carried out yet; nil for none. Whoever makes releases releases To again.
func ToMake(l fleet.Ledger) *fleet.RolloutOrder {
	if l.Aborted != nil && l.Aborted.Made == 0 {
		return l.Aborted
	}
	return nil
}
