package deploy

import (
	"slices"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// while is a release that the host is given, while another is the newest.
func while(f Found, newest Found) Found {
	f.Head = &Head{Release: newest.Release, Entry: *newest.Entry}
	return f
}

// TestRings walks through the life of a host whose ring is behind the newest release.
func TestRings(t *testing.T) {
	has := []Event{while(release(1, "a"), release(2, "b")), Staged{}, ok} // it was given release-1, and release-2 is the newest
	chosen := Choose{Act: fleet.ActDeploy, By: root, Target: *release(3, "c").Entry.Target(ref(3), t0), Now: true}
	ahead := append(slices.Clone(has), while(release(1, "a"), release(3, "c")), chosen, Staged{}, ok)
	accept := func(f Found) []Event {
		return []Event{Refused{f.Release.Commit, fleet.Failure{Code: fleet.CodeForcePushed}}, Accept{By: root, Commit: f.Release.Commit}}
	}
	anew := func(f Found) Found { f.Anew = true; return f }
	for _, c := range []struct {
		name   string
		events []Event
		phase  fleet.Phase
		newest int // 0: none
		head   int // 0: none
		active string
		effect Effect
	}{
		{"nothing is given yet", []Event{Nothing{Head: while(release(1, "a"), release(2, "b")).Head}}, fleet.PhaseNew, 0, 2, "", 0},
		{"nor after a restart", []Event{Nothing{Head: while(release(1, "a"), release(2, "b")).Head}, Restarted{}}, fleet.PhaseNew, 0, 2, "", 0},
		{"nothing new", []Event{Nothing{Head: while(release(1, "a"), release(2, "b")).Head}, Nothing{Head: while(release(1, "a"), release(1, "a")).Head}}, fleet.PhaseNew, 0, 2, "", 0},
		{"the first is given", []Event{Nothing{Head: while(release(1, "a"), release(2, "b")).Head}, while(release(1, "a"), release(2, "b"))}, fleet.PhaseStaging, 1, 2, "", Stage},
		{"it is given one", has, fleet.PhaseIdle, 1, 2, "a", 0},
		{"a newer one is published", append(has, while(release(1, "a"), release(3, "c"))), fleet.PhaseIdle, 1, 3, "a", 0},
		{"a late answer does not take that back", append(has, while(release(1, "a"), release(3, "c")), while(release(1, "a"), release(2, "b"))), fleet.PhaseIdle, 1, 3, "a", 0},
		{"nor one of before that", append(has, release(1, "a")), fleet.PhaseIdle, 1, 2, "a", 0},
		{"its ring is given one between", append(has, while(release(2, "b"), release(3, "c"))), fleet.PhaseStaging, 2, 3, "a", Stage},
		{"its ring is given the newest", append(has, release(2, "b")), fleet.PhaseStaging, 2, 0, "a", Stage},
		{"in the middle of an activation", append(has, while(release(2, "b"), release(3, "c")), Staged{}, release(3, "c"), ok), fleet.PhaseStaging, 3, 0, "b", Stage},
		{"its ring is behind", append(has, release(2, "b"), Staged{}, ok, while(release(1, "a"), release(2, "b"))), fleet.PhaseIdle, 2, 0, "b", 0},

		{"an operator is ahead of the ring", ahead, fleet.PhaseOverruled, 1, 3, "c", 0},
		{"the ring does not bring it back", append(ahead, while(release(2, "b"), release(3, "c"))), fleet.PhaseOverruled, 2, 3, "c", 0},
		{"and meets it", append(ahead, release(3, "c")), fleet.PhaseIdle, 3, 0, "c", 0},
		{"one that is newer than the choice", append(ahead, release(4, "d")), fleet.PhaseStaging, 4, 0, "c", Stage},

		{"a release branch with another history, accepted, gives nothing yet", slices.Concat(has, accept(release(9, "z")), []Event{while(release(1, "a"), Found{Release: ref(9), Entry: release(9, "z").Entry})}), fleet.PhaseIdle, 1, 9, "a", 0},
		{"and may have a lower number", slices.Concat(has, []Event{while(release(1, "a"), release(5, "c"))}, accept(release(3, "z")), []Event{while(release(1, "a"), release(3, "z"))}), fleet.PhaseIdle, 1, 3, "a", 0},
		{"which then is given", slices.Concat(has, []Event{while(release(4, "b"), release(5, "c")), Staged{}, ok}, accept(release(3, "z")), []Event{while(release(4, "b"), release(3, "z")), anew(release(3, "z"))}), fleet.PhaseStaging, 3, 0, "b", Stage},
		{"once", slices.Concat(has, []Event{anew(release(1, "a"))}), fleet.PhaseIdle, 1, 2, "a", 0},

		{"a test on the newest release", append(has, test(1, 2, "x")), fleet.PhaseStaging, 1, 2, "a", Stage},
		{"and on what was given", append(has, test(1, 1, "x")), fleet.PhaseStaging, 1, 2, "a", Stage},
		{"on nothing else", append(has, test(1, 3, "x")), fleet.PhaseIdle, 1, 2, "a", 0},
		{"its end leads back to what was given", append(has, test(1, 2, "x"), Staged{}, Activated{Result: fleet.Tested, Systems: fleet.Systems{Current: out("x"), Profile: out("a")}}, TestGone{}), fleet.PhaseStaging, 1, 2, "a", Stage},
		{"what it is built on is given: that first", append(has, test(1, 2, "x"), Staged{}, Activated{Result: fleet.Tested, Systems: fleet.Systems{Current: out("x"), Profile: out("a")}}, release(2, "b")), fleet.PhaseStaging, 2, 0, "a", Stage},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := New("h", t0)
			var effects []Effect
			for i, e := range c.events {
				r, effects = free.Next(r, e, t0.Add(time.Duration(i)*10*time.Minute), 0.5)
			}
			newest, head, effect := 0, 0, Effect(0)
			if r.Newest != nil {
				newest = r.Newest.Number
			}
			if r.Head != nil {
				head = r.Head.Release.Number
			}
			if len(effects) > 0 {
				effect = effects[0]
			}
			active := ""
			if r.Active != nil {
				active = r.Active.OutPath[len(out("")):]
			}
			if r.Phase != c.phase || newest != c.newest || head != c.head || active != c.active || effect != c.effect || r.Accept != nil || !r.Valid() {
				t.Fatalf("phase %s, newest %d, head %d, active %q, effects %v; record %+v", r.Phase, newest, head, active, effects, r)
			}
		})
	}
}

// TestPermits: with reboots by the ring's word, a host reboots by a permit for the boot that runs, once, and in its windows if there are any.
func TestPermits(t *testing.T) {
	byRing := Policy{Permits: true}
	nightly := Policy{Permits: true, Reboots: Windows{{Days: [7]bool{true, true, true, true, true, true, true}, Start: 120, End: 300}}}
	needs := []Event{Restarted{Boot: "1"}, release(1, "a"), Staged{}, ok, release(2, "b"), Staged{}, Activated{Result: fleet.RebootNeeded, Systems: running("a")}}
	with := func(more ...Event) []Event { return slices.Concat(needs, more) }
	for _, c := range []struct {
		name    string
		p       Policy
		events  []Event
		at      time.Time // of the last one
		reboots bool
	}{
		{"without one", byRing, with(Due{}), t0, false},
		{"with one", byRing, with(Permitted{"1"}, Due{}), t0, true},
		{"of another boot", byRing, with(Permitted{"0"}, Due{}), t0, false},
		{"that was taken back", byRing, with(Permitted{"1"}, Permitted{""}, Due{}), t0, false},
		{"that is used", byRing, with(Permitted{"1"}, Due{}, Due{}), t0, false},
		{"that is told again", byRing, with(Permitted{"1"}, Due{}, Permitted{"1"}, Due{}), t0, false},
		{"a restart does not end it", byRing, with(Permitted{"1"}, Restarted{Systems: running("a"), Boot: "1"}, Due{}), t0, true},
		{"a boot does", byRing, with(Permitted{"1"}, Restarted{Systems: running("a"), Boot: "2"}, Due{}), t0, false},
		{"outside of the windows", nightly, with(Permitted{"1"}, Due{}), t0, false},
		{"in a window", nightly, with(Permitted{"1"}, Due{}), t0.Add(20 * time.Hour), true},
		{"in a window, without one", nightly, with(Due{}), t0.Add(20 * time.Hour), false},
		{"while suspended", byRing, with(Permitted{"1"}, Suspend{By: root, Reason: "r", Until: t0.Add(time.Hour)}, Due{}), t0, false},
		{"where none is needed", byRing, []Event{Restarted{Boot: "1"}, release(1, "a"), Staged{}, ok, Permitted{"1"}, Due{}}, t0, false},
	} {
		r := New("h", t0)
		var effects []Effect
		for i, e := range c.events {
			at := t0
			if i == len(c.events)-1 {
				at = c.at
			}
			r, effects = c.p.Next(r, e, at, 0)
		}
		if slices.Contains(effects, Reboot) != c.reboots {
			t.Errorf("%s: %v, %+v", c.name, effects, r)
		}
		if wake := c.p.Wake(r, c.at); wake != nil && !wake.After(c.at) {
			t.Errorf("%s: woken again and again", c.name)
		}
	}
	r := New("h", t0)
	for _, e := range needs {
		r, _ = byRing.Next(r, e, t0, 0)
	}
	if when := byRing.RebootAt(r, t0); when == nil || byRing.MayReboot(r) || byRing.Wake(r, t0) != nil {
		t.Errorf("a host that waits for its ring: %v", when)
	}
}
