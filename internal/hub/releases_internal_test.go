package hub

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

var made = time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)

// minute is so long after release 7 was made.
func minute(n int) time.Time { return made.Add(time.Duration(n) * time.Minute) }

func published(n int, changed ...string) fleet.Published {
	return fleet.Published{Schema: 1, Release: fleet.ReleaseRef{Number: n}, CreatedAt: made, Hosts: 3, Changed: changed}
}

func of(host string, result fleet.Result, class fleet.Class, at int) Outcome {
	o := Outcome{Host: host, Release: 7, Result: result, Class: class, EndedAt: minute(at)}
	if class != "" {
		o.Code = fleet.CodeCheck
	}
	return o
}

// knows is what a host says that knows release n.
func knows(host string, n int, phase fleet.Phase, change func(*fleet.Status)) fleet.Status {
	s := fleet.Status{Host: host, Phase: phase, At: minute(1), Seen: &fleet.Seen{At: minute(1)}, Newest: &fleet.ReleaseRef{Number: n},
		Active: &fleet.Target{At: minute(2), Toplevel: fleet.Toplevel{OutPath: "new"}}}
	if change != nil {
		change(&s)
	}
	return s
}

func TestViewOfRelease(t *testing.T) {
	silent := func(s *fleet.Status) { at := minute(-100); s.Seen.Silent = &at }
	next, back := published(8), published(8)
	back.RollbackTo = 6
	at := func(n int) *time.Time { m := minute(n); return &m }
	manifest := &fleet.Manifest{Number: 7, Hosts: map[string]fleet.Entry{"a": {Toplevel: fleet.Toplevel{OutPath: "newer"}}}}
	for _, c := range []struct {
		name   string
		r      released
		state  fleet.ReleaseState
		text   string
		doneAt *time.Time
		hosts  []string // host: standing (why)
	}{
		{"newest, nobody has said anything", released{newest: true, Published: published(7, "a")}, fleet.ReleaseUnderWay, "0 of 3 hosts", nil, []string{"a: under way"}},
		{"newest, all have it", released{newest: true, Published: published(7, "a"), hosts: []fleet.Status{
			knows("a", 7, fleet.PhaseIdle, nil), knows("b", 7, fleet.PhaseIdle, nil), knows("c", 7, fleet.PhaseIdle, nil)},
			outcomes: []Outcome{of("a", fleet.RolledBack, fleet.Bad, 1), of("a", fleet.Committed, "", 5), of("a", fleet.Committed, "", 50)}},
			fleet.ReleaseDone, "all 3 hosts", at(5), []string{"a: done", "b: unchanged", "c: unchanged"}},
		{"newest, all have it, by their word", released{newest: true, Published: published(7, "a"), hosts: []fleet.Status{
			knows("a", 7, fleet.PhaseIdle, nil), knows("b", 7, fleet.PhaseIdle, nil), knows("c", 7, fleet.PhaseIdle, nil)}},
			fleet.ReleaseDone, "all 3 hosts", at(2), []string{"a: done", "b: unchanged", "c: unchanged"}},
		{"newest, changed nothing", released{newest: true, Published: published(7), hosts: []fleet.Status{
			knows("a", 7, fleet.PhaseIdle, nil), knows("b", 7, fleet.PhaseIdle, nil), knows("c", 6, fleet.PhaseIdle, nil)}},
			fleet.ReleaseUnderWay, "2 of 3 hosts", nil, []string{"a: unchanged", "b: unchanged", "c: under way"}},
		{"newest, another system than it says", released{newest: true, Published: published(7, "a"), manifest: manifest, hosts: []fleet.Status{knows("a", 7, fleet.PhaseIdle, nil)}},
			fleet.ReleaseUnderWay, "0 of 3 hosts", nil, []string{"a: under way"}},
		{"newest, one failed, one is silent, one has it though silent", released{newest: true, Published: published(7, "a", "b", "c"), hosts: []fleet.Status{
			knows("a", 7, fleet.PhaseHeld, func(s *fleet.Status) { s.Failure = &fleet.Failure{Code: fleet.CodeCheck} }),
			knows("b", 6, fleet.PhaseIdle, silent), knows("c", 7, fleet.PhaseIdle, silent)}},
			fleet.ReleaseFailed, "1 of 3 hosts; failed: a (check-failed); silent: b", nil, []string{"a: failed (check-failed)", "b: silent", "c: done"}},
		{"newest, waited for", released{newest: true, Published: published(7, "a", "b"), hosts: []fleet.Status{
			knows("a", 7, fleet.PhaseReboot, nil), knows("b", 7, fleet.PhaseRetrying, func(s *fleet.Status) { s.Failure = &fleet.Failure{Code: fleet.CodeCache} })}},
			fleet.ReleaseUnderWay, "0 of 3 hosts; waits: a (reboot); retrying: b (cache-failed)", nil, []string{"a: waits (reboot)", "b: retrying (cache-failed)"}},
		{"newest, hosts that are not its", released{newest: true, Published: func() fleet.Published { p := published(7); p.Hosts, p.Manual = 0, []string{"m"}; return p }(), hosts: []fleet.Status{
			knows("m", 7, fleet.PhaseManual, nil), knows("g", 6, fleet.PhaseHeld, func(s *fleet.Status) { s.Seen.Gone = true })}},
			fleet.ReleaseDone, "all 0 hosts", nil, []string{}},
		{"older, all had it", released{next: &next, Published: published(7, "a", "b"), outcomes: []Outcome{
			of("b", fleet.Committed, "", 3), of("a", fleet.RebootNeeded, "", 9)}}, fleet.ReleaseDone, "all 2 hosts had it", at(9), []string{"a: done", "b: done"}},
		{"older, failed and then not", released{next: &next, Published: published(7, "a"), outcomes: []Outcome{
			of("a", fleet.RolledBack, fleet.Bad, 3), of("a", fleet.Committed, "", 4)}}, fleet.ReleaseDone, "its one host had it", at(4), []string{"a: done"}},
		{"older, had it, and chose it again in vain", released{next: &next, Published: published(7, "a"), outcomes: []Outcome{
			of("a", fleet.Committed, "", 4), of("a", fleet.RolledBack, fleet.Bad, 5)}}, fleet.ReleaseDone, "its one host had it", at(4), []string{"a: done"}},
		{"older, failed", released{next: &next, Published: published(7, "a", "b"), outcomes: []Outcome{
			of("a", fleet.Committed, "", 3), of("b", fleet.NotActivated, fleet.Transient, 4), of("b", fleet.NotActivated, fleet.Bad, 5), of("b", fleet.NotActivated, fleet.Transient, 6)}},
			fleet.ReleaseFailed, "1 of 2 hosts had it; failed: b (not-activated, check-failed)", nil, []string{"a: done", "b: failed (not-activated, check-failed)"}},
		{"older, superseded", released{next: &next, Published: published(7, "a", "b", "c"), outcomes: []Outcome{
			of("a", fleet.Committed, "", 3), of("b", fleet.NotActivated, fleet.Local, 4)}},
			fleet.ReleaseSuperseded, "1 of 3 hosts had it; superseded by release-8", nil, []string{"a: done", "b: superseded (not-activated, check-failed)", "c: superseded"}},
		{"older, by whom is not known", released{Published: published(7, "a")}, fleet.ReleaseSuperseded, "0 of 1 hosts had it", nil, []string{"a: superseded"}},
		{"older, changed nothing", released{next: &next, Published: published(7)}, fleet.ReleaseDone, "changed no host", nil, []string{}},
		{"older, on a host that had not the one before", released{next: &next, Published: published(7), outcomes: []Outcome{of("a", fleet.Committed, "", 3)}},
			fleet.ReleaseDone, "its one host had it", nil, []string{"a: done"}},
		{"older, taken back", released{next: &back, Published: published(7, "a"), outcomes: []Outcome{of("a", fleet.RollbackFailed, fleet.Local, 3)}},
			fleet.ReleaseFailed, "0 of 1 hosts had it; failed: a (rollback-failed, check-failed); taken back by release-8", nil, []string{"a: failed (rollback-failed, check-failed)"}},
	} {
		v := c.r.view()
		hosts := []string{}
		for _, p := range v.Progress {
			line := p.Host + ": " + p.Standing
			if p.Why != "" {
				line += " (" + p.Why + ")"
			}
			hosts = append(hosts, line)
		}
		if v.State != c.state || v.Text != c.text || !reflect.DeepEqual(v.DoneAt, c.doneAt) || !slices.Equal(hosts, c.hosts) {
			t.Errorf("%s: %s, %q, done %v, %q", c.name, v.State, v.Text, v.DoneAt, hosts)
		}
	}
}
