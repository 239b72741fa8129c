package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// rollouts are some that differ in what is to be seen of them.
func rollouts(at time.Time) map[string]fleet.Rollout {
	named := func(names ...string) fleet.Named { return fleet.Named{Count: len(names), Names: names} }
	in := func(d time.Duration) *time.Time { t := at.Add(d); return &t }
	canary := fleet.RolloutRing{Ring: fleet.Ring{Name: "canary", Batches: 1, SoakSeconds: 7200}, State: fleet.RolloutDone, Reason: "has release-42", Offered: 42, Release: 42, Batch: 1, Hosts: 1, Done: named("ratched")}
	web := fleet.RolloutRing{Ring: fleet.Ring{Name: "web", Batches: 2, Failures: 1}, State: fleet.RolloutWaiting, Reason: "has release-41; waits for ring canary", Offered: 41, Release: 41, Batch: 2, Hosts: 5, Done: named("a", "b", "c", "d", "e")}
	rest := fleet.RolloutRing{Ring: fleet.Ring{Name: "rest", Batches: 1, Manual: true}, State: fleet.RolloutWaiting, Reason: "has release-41; waits for ring web", Offered: 41, Release: 41, Batch: 1, Hosts: 120, Done: fleet.Named{Count: 118, Names: []string{"h001"}}, Away: named("loki", "nero")}
	base := fleet.Rollout{Schema: 1, At: at, Release: 42, Commit: strings.Repeat("a", 40), Subject: "nginx: HSTS"}
	with := func(change func(*fleet.Rollout), rings ...fleet.RolloutRing) fleet.Rollout {
		v := base
		v.Rings = rings
		change(&v)
		return v
	}
	soaks := canary
	soaks.State, soaks.Reason, soaks.SoakUntil = fleet.RolloutSoaking, "soaks release-42 until 13:12 UTC (1 h 12 min left)", in(72*time.Minute)
	rolling := web
	rolling.State, rolling.Offered, rolling.Batch, rolling.Done, rolling.Pending, rolling.Reason = fleet.RolloutRolling, 42, 1, named("a"), named("b"), "batch 1 of 2: 1 of 3 hosts have release-42; b activates it"
	stopped := web
	stopped.State, stopped.Offered, stopped.Batch, stopped.Done, stopped.Failed, stopped.Silent, stopped.Away = fleet.RolloutStopped, 42, 2, named("a"), named("b", "c"), named("d"), named("e")
	stopped.Reason = "paused: b was rolled back from release-42: unit nginx.service failed; c holds release-42: unit nginx.service failed; d was given release-42 and is silent since 11:02 UTC (2 failed, 1 may)"
	asks := rest
	asks.Approve, asks.Candidate, asks.Reason = true, 42, "has release-41; release-42 waits for somebody to say: garrison promote --to rest release-42"
	asks.Rebooting, asks.ToReboot = []string{"h001"}, named("h002", "h003")
	opens := asks
	opens.Approve, opens.Opens, opens.Reason = false, in(26*time.Hour), "has release-41; release-42 window opens Mon 09:00 CET"
	done := func(r fleet.RolloutRing) fleet.RolloutRing {
		r.State, r.Offered, r.Release, r.Reason = fleet.RolloutDone, 42, 42, "has release-42"
		return r
	}
	return map[string]fleet.Rollout{
		"1 none":    {Schema: 1, At: at, Release: 42, State: fleet.RolloutDone, Rings: []fleet.RolloutRing{}},
		"2 soaking": with(func(v *fleet.Rollout) { v.State = fleet.RolloutSoaking }, soaks, web, rest),
		"3 rolling": with(func(v *fleet.Rollout) { v.State = fleet.RolloutRolling; v.LateSince = in(-time.Hour) }, canary, rolling, rest),
		"4 stopped": with(func(v *fleet.Rollout) { v.State = fleet.RolloutStopped }, canary, stopped, rest),
		"5 asks":    with(func(v *fleet.Rollout) { v.State = fleet.RolloutWaiting }, canary, done(web), asks),
		"6 window": with(func(v *fleet.Rollout) {
			v.State = fleet.RolloutWaiting
			v.Freeze = &fleet.RolloutOrder{By: "Ann <ann@example.org>", At: at, Reason: "nobody is here over the holidays", Until: in(240 * time.Hour)}
		}, canary, done(web), opens),
		"7 paused": with(func(v *fleet.Rollout) {
			v.State = fleet.RolloutStopped
			v.Paused = &fleet.RolloutOrder{By: "token ops", At: at, Reason: "looking\x1b[2J at it"}
			v.Trouble = &fleet.Failure{Code: fleet.CodeUnauthorized, Message: "the remote refuses the push", Hint: "give the hub a deploy key that may write"}
		}, soaks, web, rest),
		"8 done": with(func(v *fleet.Rollout) { v.State = fleet.RolloutDone }, canary, done(web), done(rest)),
	}
}

// TestShowRollout holds how a roll-out is shown against testdata/rollout.txt (written by -update), on screens of different widths.
func TestShowRollout(t *testing.T) {
	was := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = was })
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	all := rollouts(at)
	var got bytes.Buffer
	for _, s := range []console{{columns: 60}, {columns: 80}, {columns: 120}, {}, {columns: 80, colours: true}} {
		for _, name := range sortedKeys(all) {
			var one bytes.Buffer
			s.to = &one
			s.rollout(all[name], at, name == "8 done")
			text := one.String()
			if s.colours {
				text = strings.ReplaceAll(text, "\x1b", "ESC")
			}
			if strings.ContainsAny(text, "\x1b\r") {
				t.Errorf("%s, %+v: something controls the terminal: %q", name, s, text)
			}
			fmt.Fprintf(&got, "## %s, %d columns, colours: %v\n%s\n", name, s.columns, s.colours, text)
			for line := range strings.Lines(text) {
				if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); s.columns > 0 && !s.colours && n > s.columns {
					t.Errorf("%s: %d columns on a screen of %d: %q", name, n, s.columns, line)
				}
			}
		}
	}
	file := filepath.Join("testdata", "rollout.txt")
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("it shows\n%s\nand should, as in %s,\n%s", got.Bytes(), file, want)
	}
}
