package notify_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/notify"
)

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

func fail(code fleet.Code, class fleet.Class) *fleet.Failure {
	return &fleet.Failure{Class: class, Code: code, Message: "what went wrong", Hint: "what to do"}
}

func target(n int) *fleet.Target {
	return &fleet.Target{Release: fleet.ReleaseRef{Number: n}, At: ago(time.Hour)}
}

// host is one that is well, but for what change does to it.
func host(name string, change func(*fleet.Status)) fleet.Status {
	s := fleet.Status{Schema: 1, Host: name, At: now, Phase: fleet.PhaseIdle, Since: ago(2 * time.Hour), Newest: &fleet.ReleaseRef{Number: 412}, Active: target(412),
		Last:   &fleet.Deployment{Host: name, Release: fleet.ReleaseRef{Number: 412}, Result: fleet.Committed, EndedAt: ago(2 * time.Hour)},
		Remote: fleet.Contact{LastOK: now}, Seen: &fleet.Seen{At: now}}
	if change != nil {
		change(&s)
	}
	return s
}

func run(id int64, branch string, state fleet.RunState, code fleet.Code, ended time.Duration) fleet.Run {
	at := ago(ended)
	r := fleet.Run{Schema: 1, ID: id, Source: fleet.Source{Commit: fmt.Sprintf("%040d", id), Branch: branch, Subject: "a change"}, State: state, StartedAt: at.Add(-time.Minute), EndedAt: &at}
	if code != "" {
		r.Stage, r.Failure = fleet.Build, fail(code, fleet.Bad)
	}
	if state == fleet.RunRunning {
		r.EndedAt = nil
	}
	return r
}

func ended(result fleet.Result, n int, f *fleet.Failure) *fleet.Deployment {
	return &fleet.Deployment{Release: fleet.ReleaseRef{Number: n}, Result: result, Failure: f, EndedAt: ago(time.Minute)}
}

func contact(code fleet.Code, lasts time.Duration) fleet.Contact {
	return fleet.Contact{Failure: fail(code, fleet.Transient), Since: ago(lasts)}
}

func delivery(sender string, attempts int, waits time.Duration) fleet.Delivery {
	return fleet.Delivery{ID: 1, Sender: sender, Attempts: attempts, At: ago(waits), Error: "answers 500"}
}

func givenUp(sender string, is bool) fleet.Delivery {
	at := ago(time.Minute)
	return fleet.Delivery{ID: 2, Sender: sender, Attempts: 9, At: ago(time.Hour), DoneAt: &at, GivenUp: is, Error: "answers 400"}
}

// assessed are all cases: what is known, and the keys (with ! where critical) of what is wrong.
var assessed = []struct {
	name  string
	facts notify.Facts
	want  string
}{
	{"nothing is known", notify.Facts{}, ""},
	{"all is well", notify.Facts{Hosts: []fleet.Status{host("web1", nil)}, Runs: []fleet.Run{run(1, "main", fleet.RunReleased, "", time.Hour)}}, ""},

	{"the newest run failed", notify.Facts{Runs: []fleet.Run{run(2, "main", fleet.RunFailed, fleet.CodeBuild, time.Minute), run(1, "main", fleet.RunReleased, "", time.Hour)}}, "release-failed:main:000000000000!"},
	{"a newer one succeeded", notify.Facts{Runs: []fleet.Run{run(2, "main", fleet.RunReleased, "", time.Minute), run(1, "main", fleet.RunFailed, fleet.CodeBuild, time.Hour)}}, ""},
	{"a newer one found nothing to do", notify.Facts{Runs: []fleet.Run{run(2, "main", fleet.RunUnchanged, "", time.Minute), run(1, "main", fleet.RunFailed, fleet.CodeBuild, time.Hour)}}, ""},
	{"a newer one is at work", notify.Facts{Runs: []fleet.Run{run(2, "main", fleet.RunRunning, "", 0), run(1, "main", fleet.RunFailed, fleet.CodeBuild, time.Hour)}}, "release-failed:main:000000000000!"},
	{"a newer push superseded it", notify.Facts{Runs: []fleet.Run{run(2, "main", fleet.RunFailed, fleet.CodeSuperseded, time.Minute)}}, ""},
	{"somebody stopped it", notify.Facts{Runs: []fleet.Run{run(2, "main", fleet.RunFailed, fleet.CodeCanceled, time.Minute)}}, ""},
	{"the hub died in it", notify.Facts{Runs: []fleet.Run{run(2, "main", fleet.RunFailed, fleet.CodeInterrupted, time.Minute), run(1, "main", fleet.RunReleased, "", time.Hour)}}, ""},
	{"another CI was quicker", notify.Facts{Runs: []fleet.Run{run(2, "main", fleet.RunFailed, fleet.CodeRace, time.Minute)}}, ""},
	{"superseded after a failure", notify.Facts{Runs: []fleet.Run{run(2, "main", fleet.RunFailed, fleet.CodeSuperseded, time.Minute), run(1, "main", fleet.RunFailed, fleet.CodeBuild, time.Hour)}}, "release-failed:main:000000000000!"},
	{"released elsewhere since", notify.Facts{Newest: &fleet.Manifest{CreatedAt: ago(time.Minute)}, Runs: []fleet.Run{run(2, "main", fleet.RunFailed, fleet.CodeBuild, time.Hour)}}, ""},
	{"released elsewhere before", notify.Facts{Newest: &fleet.Manifest{CreatedAt: ago(2 * time.Hour)}, Runs: []fleet.Run{run(2, "main", fleet.RunFailed, fleet.CodeBuild, time.Hour)}}, "release-failed:main:000000000000!"},
	{"a test branch's run failed", notify.Facts{Runs: []fleet.Run{run(2, "web1-test", fleet.RunFailed, fleet.CodeBuild, time.Hour), run(1, "main", fleet.RunReleased, "", 2*time.Hour)}}, "release-failed:web1-test:000000000000"},
	{"a test branch's run failed long ago", notify.Facts{Runs: []fleet.Run{run(2, "web1-test", fleet.RunFailed, fleet.CodeBuild, 25*time.Hour)}}, ""},

	{"held", hosts(func(s *fleet.Status) {
		s.Phase, s.Target, s.Failure = fleet.PhaseHeld, target(413), fail(fleet.CodeCheck, fleet.Bad)
	}), "deployment-failed:web1:release-413!"},
	{"rolled back and held", hosts(func(s *fleet.Status) {
		s.Phase, s.Target, s.Failure, s.Last = fleet.PhaseHeld, target(413), fail(fleet.CodeCheck, fleet.Bad), ended(fleet.RolledBack, 413, fail(fleet.CodeCheck, fleet.Bad))
	}), "deployment-failed:web1:release-413!"},
	{"a test release is held", hosts(func(s *fleet.Status) {
		s.Phase, s.Target = fleet.PhaseHeld, &fleet.Target{Release: fleet.ReleaseRef{Test: "release-web1-test-3"}}
	}), "deployment-failed:web1:release-web1-test-3"},
	{"a newer release is on its way after a failure", hosts(func(s *fleet.Status) {
		s.Phase, s.Target, s.Last = fleet.PhaseStaging, target(414), ended(fleet.RolledBack, 413, fail(fleet.CodeCheck, fleet.Bad))
	}), "deployment-failed:web1:release-413!"},
	{"the next but one is on its way after a failure; the next was the system that ran", hosts(func(s *fleet.Status) {
		s.Phase, s.Active, s.Target, s.Last = fleet.PhaseStaging, target(414), target(415), ended(fleet.RolledBack, 413, fail(fleet.CodeCheck, fleet.Bad))
	}), ""},
	{"a newer release came after a failure", hosts(func(s *fleet.Status) {
		s.Last = ended(fleet.Committed, 414, nil)
	}), ""},
	{"rolled back by nothing of its own, and well since", hosts(func(s *fleet.Status) {
		s.Last = ended(fleet.RolledBack, 413, nil) // an operator chose another
	}), ""},
	{"roll-back failed", hosts(func(s *fleet.Status) {
		s.Phase, s.Target, s.Last, s.Failure = fleet.PhaseRetrying, target(413), ended(fleet.RollbackFailed, 413, nil), fail(fleet.CodeRollback, fleet.Local)
	}), "deployment-failed:web1:release-413!"},
	{"not activated, for the release's fault", hosts(func(s *fleet.Status) {
		s.Phase, s.Target, s.Last = fleet.PhaseStaging, target(414), ended(fleet.NotActivated, 413, fail(fleet.CodeManifest, fleet.Bad))
	}), "deployment-failed:web1:release-413!"},
	{"not activated, for what may pass", hosts(func(s *fleet.Status) {
		s.Phase, s.Target, s.Last = fleet.PhaseStaging, &fleet.Target{Release: fleet.ReleaseRef{Number: 414}, At: now}, ended(fleet.NotActivated, 413, fail(fleet.CodeCache, fleet.Transient))
	}), ""},
	{"retrying for long", hosts(func(s *fleet.Status) {
		s.Phase, s.Target, s.Attempt, s.Failure = fleet.PhaseRetrying, target(413), 7, fail(fleet.CodeSubstitute, fleet.Transient)
	}), "deployment-stuck:web1:release-413"},
	{"retrying for long, at it just now", hosts(func(s *fleet.Status) { s.Phase, s.Target, s.Attempt = fleet.PhaseStaging, target(413), 7 }), "deployment-stuck:web1:release-413"},
	{"retrying since a moment", hosts(func(s *fleet.Status) {
		s.Phase, s.Target, s.Attempt = fleet.PhaseRetrying, &fleet.Target{At: ago(29 * time.Minute)}, 3
	}), ""},
	{"a long first attempt", hosts(func(s *fleet.Status) { s.Phase, s.Target = fleet.PhaseStaging, target(413) }), ""},

	{"refused", hosts(func(s *fleet.Status) {
		s.Refused = &fleet.Refusal{Tip: strings.Repeat("a", 40), Since: now, Failure: *fail(fleet.CodeUnknownKey, fleet.Bad)}
	}), "release-refused:web1:aaaaaaaaaaaa!"},

	{"silent", hosts(func(s *fleet.Status) { since := ago(time.Hour); s.Seen = &fleet.Seen{At: since, Silent: &since} }), "host-silent:web1!"},
	{"never heard of", hosts(func(s *fleet.Status) {
		since := ago(time.Hour)
		*s = fleet.Status{Host: "web1", Phase: fleet.PhaseUnheard, Seen: &fleet.Seen{Silent: &since}}
	}), "host-silent:web1!"},
	{"not heard of yet", hosts(func(s *fleet.Status) {
		*s = fleet.Status{Host: "web1", Phase: fleet.PhaseUnheard, Seen: &fleet.Seen{}}
	}), ""},
	{"silent, and what it said last", hosts(func(s *fleet.Status) {
		since := ago(time.Hour)
		s.At, s.Seen, s.Drift, s.Remote = since, &fleet.Seen{At: since, Silent: &since}, true, contact(fleet.CodeRemote, time.Hour+time.Minute)
	}), "drift:web1 host-silent:web1!"},
	{"gone", hosts(func(s *fleet.Status) { s.Seen.Gone, s.Drift = true, true }), ""},
	{"not seen by a hub", hosts(func(s *fleet.Status) { s.Seen, s.Drift = nil, true }), "drift:web1"},

	{"git is away", hosts(func(s *fleet.Status) { s.Remote = contact(fleet.CodeRemote, 15*time.Minute) }), "fetch-failing:web1"},
	{"git is away since a moment", hosts(func(s *fleet.Status) { s.Remote = contact(fleet.CodeRemote, 14*time.Minute) }), ""},
	{"git refuses", hosts(func(s *fleet.Status) { s.Remote = contact(fleet.CodeUnauthorized, time.Minute) }), "credential:web1:git!"},
	{"git has refused just now", hosts(func(s *fleet.Status) { s.Remote = contact(fleet.CodeUnauthorized, time.Second) }), ""},
	{"one of two remotes refuses", hosts(func(s *fleet.Status) {
		s.Remotes = []fleet.Remote{{Name: "a"}, {Name: "b", Contact: contact(fleet.CodeKey, time.Hour)}}
	}), "credential:web1:git remote b!"},
	{"the only remote refuses", hosts(func(s *fleet.Status) {
		s.Remote = contact(fleet.CodeUnauthorized, time.Hour)
		s.Remotes = []fleet.Remote{{Name: "a", Contact: s.Remote}}
	}), "credential:web1:git remote a!"},

	{"drift", hosts(func(s *fleet.Status) { s.Drift, s.Drifted = true, &fleet.Drift{Since: ago(time.Minute)} }), "drift:web1"},
	{"an operator's choice", hosts(func(s *fleet.Status) { s.Phase, s.Choice = fleet.PhaseOverruled, &fleet.Choice{} }), ""},
	{"needs a reboot", hosts(func(s *fleet.Status) { s.Phase, s.Reboot = fleet.PhaseReboot, &fleet.Reboot{Needed: true} }), ""},
	{"not well after a reboot", hosts(func(s *fleet.Status) {
		s.Reboot = &fleet.Reboot{Tried: true, Failure: fail(fleet.CodeCheck, fleet.Local)}
	}), "reboot-failed:web1!"},
	{"could not be rebooted", hosts(func(s *fleet.Status) {
		at := ago(time.Minute)
		s.Reboot = &fleet.Reboot{Needed: true, At: &at, Failure: fail(fleet.CodeInternal, fleet.Local)}
	}), "reboot-failed:web1!"},

	{"a credential ends soon", hosts(func(s *fleet.Status) {
		s.Credentials = []fleet.Credential{{Name: "the cache", Ends: now.Add(13 * 24 * time.Hour)}}
	}), "credential:web1:the cache"},
	{"a credential has ended", hosts(func(s *fleet.Status) { s.Credentials = []fleet.Credential{{Name: "the cache", Ends: now}} }), "credential:web1:the cache!"},
	{"a credential ends sometime", hosts(func(s *fleet.Status) {
		s.Credentials = []fleet.Credential{{Name: "the cache", Ends: now.Add(15 * 24 * time.Hour)}, {Name: "git"}}
	}), ""},
	{"the hub's credential ends soon", notify.Facts{Own: []fleet.Credential{{Name: "the forge", Ends: now.Add(time.Hour)}}}, "credential:hub:the forge"},

	{"what was built is not pushed", hosts(func(s *fleet.Status) { s.Pushing, s.Push = 1, contact(fleet.CodeCache, time.Hour) }), "push-stuck:web1"},
	{"not pushed since a moment", hosts(func(s *fleet.Status) { s.Pushing, s.Push = 1, contact(fleet.CodeCache, 59*time.Minute) }), ""},
	{"nothing is left to push", hosts(func(s *fleet.Status) { s.Push = contact(fleet.CodeCache, time.Hour) }), ""},
	{"the cache refuses", hosts(func(s *fleet.Status) { s.Pushing, s.Push = 1, contact(fleet.CodeUnauthorized, time.Hour) }), "credential:web1:the cache!"},

	{"a disk is low", disk(4<<30, 100<<30), "disk-low:web1:store"},
	{"a disk is nearly full", disk(1<<30, 100<<30), "disk-low:web1:store!"},
	{"a large disk with enough", disk(6<<30, 4<<40), ""},
	{"a small disk with enough", disk(60<<20, 512<<20), ""},
	{"a small disk is low", disk(40<<20, 512<<20), "disk-low:web1:store"},
	{"a disk of which nothing is known", disk(0, 0), ""},
	{"the hub's disk is low", notify.Facts{Disks: []fleet.Disk{{Of: "the hub's data", FreeBytes: 1 << 20, TotalBytes: 1 << 40}}}, "disk-low:hub:the hub's data!"},

	{"a clock is ahead", hosts(func(s *fleet.Status) { s.ClockOffSeconds = 86400 }), "clock-off:web1"},
	{"a clock is behind", hosts(func(s *fleet.Status) { s.ClockOffSeconds = -61 }), "clock-off:web1"},

	{"the last drill failed", drills(false, true), "drill-failed:sandbox!"},
	{"the last drill passed", drills(true, false), ""},
	{"the last drill of a host failed, another host's passed since", drilledHosts(), "drill-failed:live:web1!"},

	{"no rings", rolls(func(v *fleet.Rollout) { v.Rings, v.LateSince = nil, &now }), ""},
	{"a ring soaks", rolls(nil), ""},
	{"a ring failed", rolls(func(v *fleet.Rollout) {
		v.Rings[0].State, v.Rings[0].Failed = fleet.RolloutStopped, fleet.Named{Count: 30, Names: []string{"web1", "web2"}}
	}), "rollout-paused:canary:release-412!"},
	{"a host of a ring went silent", rolls(func(v *fleet.Rollout) {
		v.Rings[0].State, v.Rings[0].Silent = fleet.RolloutStopped, fleet.Named{Count: 1, Names: []string{"web1"}}
	}), "rollout-paused:canary:release-412!"},
	{"a person paused", rolls(func(v *fleet.Rollout) { v.State, v.Rings[1].State = fleet.RolloutStopped, fleet.RolloutStopped }), ""},
	{"as many failed as may", rolls(func(v *fleet.Rollout) { v.Rings[0].Failed = fleet.Named{Count: 1, Names: []string{"web1"}} }), ""},
	{"a roll-out is late", rolls(func(v *fleet.Rollout) { v.LateSince = &now }), "rollout-late:release-412"},
	{"nothing can be promoted", rolls(func(v *fleet.Rollout) { v.Trouble = fail(fleet.CodeUnauthorized, fleet.Local) }), "rollout-paused:hub!"},
	{"nothing can be promoted for a moment", rolls(func(v *fleet.Rollout) { v.Trouble = fail(fleet.CodeRemote, fleet.Transient) }), ""},

	{"the hub sees", notify.Facts{Follower: &fleet.Contact{LastOK: now}}, ""},
	{"the hub is blind since a moment", notify.Facts{Follower: blind(fleet.CodeRemote, time.Minute)}, ""},
	{"the hub is blind", notify.Facts{Follower: blind(fleet.CodeRemote, 15*time.Minute)}, "hub-blind"},
	{"the hub is not let in", notify.Facts{Follower: blind(fleet.CodeUnauthorized, time.Minute)}, "credential:hub:git!"},

	{"a sender takes nothing", notify.Facts{Pending: []fleet.Delivery{delivery("mail", 3, 10*time.Minute)}}, "alert-undelivered:mail!"},
	{"a sender takes nothing since a moment", notify.Facts{Pending: []fleet.Delivery{delivery("mail", 3, 9*time.Minute)}}, ""},
	{"a message waits for its turn", notify.Facts{Pending: []fleet.Delivery{delivery("mail", 0, time.Hour)}}, ""},
	{"the last message was given up", notify.Facts{Done: []fleet.Delivery{givenUp("mail", true)}}, "alert-undelivered:mail!"},
	{"one before the last was given up", notify.Facts{Done: []fleet.Delivery{givenUp("mail", false), givenUp("mail", true)}}, ""},
}

func hosts(change func(*fleet.Status)) notify.Facts {
	return notify.Facts{Hosts: []fleet.Status{host("web1", change), host("web2", nil)}}
}

func disk(free, total int64) notify.Facts {
	return hosts(func(s *fleet.Status) { s.Disks = []fleet.Disk{{Of: "store", FreeBytes: free, TotalBytes: total}} })
}

// rolls is a roll-out with a ring that soaks and one that waits, but for what change does to it.
func rolls(change func(*fleet.Rollout)) notify.Facts {
	v := fleet.Rollout{Schema: 1, At: now, Release: 412, State: fleet.RolloutSoaking, Rings: []fleet.RolloutRing{
		{Ring: fleet.Ring{Name: "canary"}, State: fleet.RolloutSoaking, Offered: 412, Release: 412, Hosts: 1, Done: fleet.Named{Count: 1}},
		{Ring: fleet.Ring{Name: "rest"}, State: fleet.RolloutWaiting, Offered: 411, Release: 411, Hosts: 1}}}
	if change != nil {
		change(&v)
	}
	return notify.Facts{Rollout: &v}
}

func drills(passed ...bool) (f notify.Facts) {
	for i, p := range passed {
		d := fleet.DrillReport{Schema: 1, Where: "sandbox", Passed: p, EndedAt: ago(time.Duration(i) * time.Hour)}
		if !p {
			d.Scenarios = []fleet.DrillScenario{{Name: "power-cut", Result: "fail", Detail: "it did not come back"}, {Name: "full-disk", Result: "pass"}}
		}
		f.Drills = append(f.Drills, d)
	}
	return f
}

func drilledHosts() (f notify.Facts) {
	for i, host := range []string{"web2", "web1", "web1", "web2"} {
		f.Drills = append(f.Drills, fleet.DrillReport{Schema: 1, Where: "live", Host: host, Passed: i != 1 && i != 3, EndedAt: ago(time.Duration(i) * time.Hour)})
	}
	return f
}

// TestDrillAlert has what failed, and what to type.
func TestDrillAlert(t *testing.T) {
	limits := notify.Defaults()
	limits.Hub = "https://hub.example.org"
	failed := fleet.DrillScenario{Name: "network-cut", Result: fleet.DrillFail, Checks: []fleet.DrillCheck{
		{Name: "CI releases it", Result: fleet.DrillPass}, {Name: "the host rolled back", Result: fleet.DrillFail, Detail: "waited 10m in vain\nand more"}}}
	for where, want := range map[string]string{
		"live": "the drill of web1 failed: network-cut|network-cut: the host rolled back: waited 10m in vain and more|garrison explain --host web1 --hub https://hub.example.org|" +
			"garrison drill --live web1 --hub https://hub.example.org  # in a clone of the fleet's repository|garrison drill --live web1 --revert  # in a clone of the fleet's repository",
		"sandbox": "the drill of sandbox failed: network-cut|network-cut: the host rolled back: waited 10m in vain and more|garrison drill",
	} {
		all := limits.Assess(notify.Facts{Drills: []fleet.DrillReport{{Schema: 1, Where: where, Host: "web1", EndedAt: ago(time.Hour), Scenarios: []fleet.DrillScenario{failed}}}})
		if len(all) != 1 {
			t.Fatalf("%s: %+v", where, all)
		}
		if got := strings.Join(append([]string{all[0].What, all[0].Detail}, all[0].Commands...), "|"); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", where, got, want)
		}
	}
}

func blind(code fleet.Code, lasts time.Duration) *fleet.Contact {
	c := contact(code, lasts)
	return &c
}

func TestAssess(t *testing.T) {
	limits := notify.Defaults()
	limits.Hub = "https://hub.example.org"
	seen := map[fleet.AlertKind]bool{}
	for _, c := range assessed {
		t.Run(c.name, func(t *testing.T) {
			c.facts.Now = now
			var got []string
			for _, f := range limits.Assess(c.facts) {
				k := f.Key
				if f.Severity == fleet.Critical {
					k += "!"
				}
				got = append(got, k)
				seen[f.Kind] = true
				switch {
				case f.What == "" || strings.Contains(f.What, "\n") || f.Since.IsZero() || f.Since.After(now.Add(14*24*time.Hour)):
					t.Errorf("it says %+v", f)
				case !strings.HasPrefix(f.Key, string(f.Kind)):
					t.Errorf("%s has the key %s", f.Kind, f.Key)
				case len(f.Commands) == 0:
					t.Errorf("nobody is told what to type about %s", f.Key)
				case f.Host != "" && (f.Cause == "" || f.Of == ""):
					t.Errorf("%s cannot be told of many hosts", f.Key)
				}
				if f.Host != "" && !strings.Contains(f.What, f.Host) {
					t.Errorf("%q does not say where", f.What)
				}
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("wrong: %q, want %q", s, c.want)
			}
		})
	}
	for _, kind := range fleet.AlertKinds() {
		if !seen[kind] {
			t.Errorf("no case leads to %s", kind)
		}
	}
}

// TestPausedSaysWho: who is told of a ring that stopped reads who is affected, why, and what to type.
func TestPausedSaysWho(t *testing.T) {
	f := rolls(func(v *fleet.Rollout) {
		v.Rings[0].State, v.Rings[0].Reason = fleet.RolloutStopped, "1 host failed, none may"
		v.Rings[0].Failed = fleet.Named{Count: 21, Names: []string{"web1", "web2", "web3"}}
	})
	f.Now, f.Hosts = now, []fleet.Status{host("web1", func(s *fleet.Status) {
		s.Phase, s.Target, s.Failure = fleet.PhaseHeld, target(412), fail(fleet.CodeCheck, fleet.Bad)
	})}
	for _, c := range notify.Defaults().Assess(f) {
		if c.Kind != fleet.AlertRollout {
			continue
		}
		if c.What != "release-412 goes no further than ring canary: failed: web1, web2, web3 and 18 more" || !strings.Contains(c.Detail, "none may\nweb1: what went wrong\n→ what to do") ||
			!strings.HasPrefix(strings.Join(c.Commands, "\n"), "garrison explain --host web1\ngarrison logs 412 --host web1\ngarrison ") {
			t.Errorf("%+v", c)
		}
		return
	}
	t.Error("nobody is told")
}

// TestDetailBounded: whatever a host says, what people are told stays short.
func TestDetailBounded(t *testing.T) {
	f := hosts(func(s *fleet.Status) {
		long := fail(fleet.CodeCheck, fleet.Bad)
		long.Message = strings.Repeat("ä", 100<<10) + "\xff"
		s.Phase, s.Target, s.Failure = fleet.PhaseHeld, target(413), long
	})
	f.Now = now
	if d := notify.Defaults().Assess(f)[0].Detail; len(d) > 4<<10 || !strings.HasSuffix(d, "ä…") {
		t.Errorf("the detail has %d bytes and ends with %q", len(d), d[len(d)-8:])
	}
}

// TestGroup: a cause that many hosts share is told once, and nobody is told twice of a host.
func TestGroup(t *testing.T) {
	limits := notify.Defaults()
	found := func(n int) []notify.Condition {
		f := notify.Facts{Now: now}
		for i := range n {
			f.Hosts = append(f.Hosts, host(fmt.Sprintf("web%d", i+1), func(s *fleet.Status) { s.Remote = contact(fleet.CodeRemote, time.Hour) }))
		}
		f.Hosts = append(f.Hosts, host("db", func(s *fleet.Status) { s.Drift = true }))
		return limits.Assess(f)
	}
	const group = "fetch-failing:*:remote-unreachable"
	for _, c := range []struct {
		hosts int
		open  string
		want  string
	}{
		{3, "", "drift:db fetch-failing:web1 fetch-failing:web2 fetch-failing:web3"},
		{4, "", "drift:db " + group},
		{5, "fetch-failing:web1 fetch-failing:web2", "drift:db " + group + " fetch-failing:web1 fetch-failing:web2"},
		{2, group, "drift:db " + group},
		{2, group + " fetch-failing:web1 fetch-failing:web2", "drift:db fetch-failing:web1 fetch-failing:web2"},
		{0, group, "drift:db"},
	} {
		var open []fleet.Alert
		for k := range strings.FieldsSeq(c.open) {
			open = append(open, fleet.Alert{Key: k})
		}
		var got []string
		for _, g := range notify.Group(found(c.hosts), open, limits.Group) {
			got = append(got, g.Key)
			if g.Key == group && (g.Host != "" || len(g.Commands) == 0 || !strings.Contains(g.What, "web1")) {
				t.Errorf("the group says %+v", g)
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("of %d hosts with %q open: %q, want %q", c.hosts, c.open, s, c.want)
		}
	}
	many := notify.Group(found(200), nil, limits.Group)
	if i := slices.IndexFunc(many, func(c notify.Condition) bool { return c.Key == group }); len(many) != 2 || !strings.Contains(many[i].Detail, "web200") || !strings.HasPrefix(many[i].What, "200 hosts do not reach git") {
		t.Errorf("of 200 hosts: %d messages, %+v", len(many), many[0])
	}
}
