package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// noon is a Monday.
var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func order(o fleet.RolloutOrder) fleet.RolloutOrder {
	o.By, o.At, o.Reason = "Ann <ann@example.org>", noon, "because"
	return o
}

func TestFirst(t *testing.T) {
	later, before := noon.Add(time.Hour), noon.Add(-time.Second)
	paused, frozen := order(fleet.RolloutOrder{Release: 3}), order(fleet.RolloutOrder{Until: &later})
	over := order(fleet.RolloutOrder{Until: &before})
	approved := func(release int) fleet.Ledger {
		return fleet.Ledger{Approved: []fleet.RolloutOrder{order(fleet.RolloutOrder{Ring: "a", Release: release})}}
	}
	for name, c := range map[string]struct {
		ring   fleet.Ring
		ledger fleet.Ledger
		kept   string // a part of it
	}{
		"nothing":             {},
		"paused":              {ledger: fleet.Ledger{Paused: &paused}, kept: "paused by Ann <ann@example.org>: because"},
		"frozen":              {ledger: fleet.Ledger{Freeze: &frozen}, kept: "ring a: frozen until 13:00 UTC by Ann <ann@example.org>: because"},
		"freeze is over":      {ledger: fleet.Ledger{Freeze: &over}},
		"by hand":             {ring: fleet.Ring{Manual: true}, kept: "waits for a person's word: garrison promote --to a release-7 --reason"},
		"by hand, approved":   {ring: fleet.Ring{Manual: true}, ledger: approved(7)},
		"by hand, another":    {ring: fleet.Ring{Manual: true}, ledger: approved(6), kept: "waits for a person's word: garrison promote --to a release-7 --reason"},
		"drill":               {ring: fleet.Ring{DrillDays: 7}, kept: "drill"},
		"window open":         {ring: fleet.Ring{Windows: []string{"Mon 11:00-13:00"}}},
		"window closed":       {ring: fleet.Ring{Windows: []string{"Tue 11:00-13:00"}}, kept: "window opens Tue 11:00 UTC"},
		"window elsewhere":    {ring: fleet.Ring{Windows: []string{"Mon 11:00-13:00"}, Zone: "Asia/Tokyo"}, kept: "window opens 7 Dec 11:00 JST"},
		"window of a newer":   {ring: fleet.Ring{Windows: []string{"at full moon"}}, kept: "window"},
		"zone of who knows":   {ring: fleet.Ring{Windows: []string{"Mon 11:00-13:00"}, Zone: "Moon/Base"}, kept: "window"},
		"resumed after pause": {ledger: fleet.Ledger{Resumed: &paused}},
	} {
		c.ring.Name, c.ring.Batches = "a", 1
		got := rollout.First(&fleet.Manifest{Number: 7, Rings: []fleet.Ring{c.ring}}, c.ledger, noon)
		if (got == "") != (c.kept == "") || !strings.Contains(got, c.kept) {
			t.Errorf("%s: %q, want %q", name, got, c.kept)
		}
	}
}

func TestOrdered(t *testing.T) {
	must := func(l fleet.Ledger, err error) fleet.Ledger {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	empty := fleet.Ledger{}
	until := noon.Add(time.Hour)
	paused := must(rollout.Ordered(empty, fleet.RolloutPause, order(fleet.RolloutOrder{Release: 4})))
	if paused.Paused == nil || empty.Paused != nil {
		t.Error("pause")
	}
	if l := must(rollout.Ordered(paused, fleet.RolloutResume, order(fleet.RolloutOrder{Release: 4}))); l.Paused != nil || l.Resumed.Release != 4 {
		t.Errorf("resume: %+v", l)
	}
	frozen := must(rollout.Ordered(paused, fleet.RolloutFreeze, order(fleet.RolloutOrder{Until: &until})))
	if !rollout.Frozen(frozen, noon) || rollout.Frozen(frozen, until) || frozen.Paused == nil {
		t.Error("freeze")
	}
	if l := must(rollout.Ordered(frozen, fleet.RolloutUnfreeze, order(fleet.RolloutOrder{}))); l.Freeze != nil || l.Unfrozen == nil || frozen.Unfrozen != nil {
		t.Error("unfreeze")
	}
	one := must(rollout.Ordered(empty, fleet.RolloutPromote, order(fleet.RolloutOrder{Ring: "a", Release: 3})))
	two := must(rollout.Ordered(must(rollout.Ordered(one, fleet.RolloutPromote, order(fleet.RolloutOrder{Ring: "b", Release: 3}))), fleet.RolloutPromote, order(fleet.RolloutOrder{Ring: "a", Release: 4})))
	if !rollout.Approved(one, "a", 3) || rollout.Approved(two, "a", 3) || !rollout.Approved(two, "a", 4) || !rollout.Approved(two, "b", 3) {
		t.Errorf("promote: %+v", two.Approved)
	}
	aborted := must(rollout.Ordered(paused, fleet.RolloutAbort, order(fleet.RolloutOrder{Release: 4, To: 2, AtOnce: true})))
	if a := rollout.ToMake(aborted); a == nil || a.To != 2 || aborted.Paused != nil {
		t.Errorf("abort: %+v", aborted)
	}
	aborted.Aborted.Made = 5
	if rollout.ToMake(aborted) != nil || rollout.ToMake(empty) != nil {
		t.Error("an abort that was made is made no more")
	}

	silent := order(fleet.RolloutOrder{})
	silent.Reason = ""
	for name, c := range map[string]struct {
		act  string
		o    fleet.RolloutOrder
		code fleet.Code
	}{
		"no reason":       {fleet.RolloutPause, silent, fleet.CodeUsage},
		"no end":          {fleet.RolloutFreeze, order(fleet.RolloutOrder{}), fleet.CodeUsage},
		"ends now":        {fleet.RolloutFreeze, order(fleet.RolloutOrder{Until: &noon}), fleet.CodeUsage},
		"not frozen":      {fleet.RolloutUnfreeze, order(fleet.RolloutOrder{}), fleet.CodeNotNow},
		"back to nothing": {fleet.RolloutAbort, order(fleet.RolloutOrder{Release: 4}), fleet.CodeUsage},
		"back forward":    {fleet.RolloutAbort, order(fleet.RolloutOrder{Release: 4, To: 4}), fleet.CodeUsage},
	} {
		if _, err := rollout.Ordered(empty, c.act, c.o); fleet.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLastGood(t *testing.T) {
	m := &fleet.Manifest{Number: 9, Rings: []fleet.Ring{{Name: "a", Batches: 1}, {Name: "b", Batches: 2}}}
	l := fleet.Ledger{}
	for _, n := range []int{3, 5, 8, 9} {
		l.Promoted("release-ring-a", fleet.Promotion{Release: n})
	}
	if got := rollout.LastGood(m, l, "release"); got != 0 {
		t.Errorf("nothing went all the way, and yet %d is good", got)
	}
	for _, n := range []int{3, 5, 8, 9} {
		l.Promoted("release-ring-b.2", fleet.Promotion{Release: n})
	}
	if got := rollout.LastGood(m, l, "release"); got != 8 {
		t.Errorf("got %d, want 8", got)
	}
	l.Aborted = &fleet.RolloutOrder{Release: 8, To: 5}
	if got := rollout.LastGood(m, l, "release"); got != 5 {
		t.Errorf("after an abort got %d, want 5", got)
	}
}
