package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestExplain holds what is said of every phase and flag against testdata/explain.txt (written by -update).
func TestExplain(t *testing.T) {
	at := time.Date(2026, 11, 23, 6, 0, 0, 0, time.Local)
	later := at.Add(20 * time.Hour)
	ref := func(n int) fleet.ReleaseRef { return fleet.ReleaseRef{Number: n, Commit: fmt.Sprintf("%040x", n)} }
	system := func(name string) string { return "/nix/store/00000000000000000000000000000000-nixos-system-" + name }
	newest, root := ref(7), fleet.Actor{User: "root"}
	base := func(p fleet.Phase) fleet.Status {
		return fleet.Status{Schema: 1, Host: "joker", Phase: p, Since: at, Newest: &newest, Active: &fleet.Target{Release: ref(6), Toplevel: fleet.Toplevel{OutPath: system("old")}}, Systems: fleet.Systems{Current: system("old")}}
	}
	working := func(p fleet.Phase) fleet.Status {
		s := base(p)
		s.Target = &fleet.Target{Release: newest, Toplevel: fleet.Toplevel{OutPath: system("new")}}
		return s
	}
	with := func(s fleet.Status, change func(*fleet.Status)) fleet.Status { change(&s); return s }
	failure := &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeCheck, Stage: fleet.Check, Message: "nginx.service failed in the new system\nand more", Hint: "journalctl -u nginx.service"}
	suspension := &fleet.Suspension{By: root, Reason: "the audit", Since: at, Until: later}
	choice := &fleet.Choice{Act: fleet.ActRollback, By: root, Reason: "the lights went out", Release: ref(5), OutPath: system("older")}
	drift := &fleet.Drift{Since: at, Current: system("x")}
	waiting := func(w fleet.Wait) fleet.Status {
		return with(working(fleet.PhaseWaiting), func(s *fleet.Status) { s.Wait = &w })
	}
	ahead := func(batch int, a fleet.Ahead) fleet.Status {
		a.Release = ref(8)
		return with(base(fleet.PhaseIdle), func(s *fleet.Status) { s.Ring, s.Batch, s.Ahead = "web", batch, &a })
	}
	var got bytes.Buffer
	for _, c := range []struct {
		name string
		s    fleet.Status
	}{
		{"new", fleet.Status{Phase: fleet.PhaseNew, Since: at}},
		{"idle", base(fleet.PhaseIdle)},
		{"manual", base(fleet.PhaseManual)},
		{"not in the release", with(base(fleet.PhaseManual), func(s *fleet.Status) {
			s.Failure = &fleet.Failure{Message: "release-7 has no host joker", Hint: "is the agent's host name one of the flake's nixosConfigurations?"}
		})},
		{"staging", working(fleet.PhaseStaging)},
		{"activating", working(fleet.PhaseActivating)},
		{"held", with(working(fleet.PhaseHeld), func(s *fleet.Status) { s.Failure = failure })},
		{"retrying", with(working(fleet.PhaseRetrying), func(s *fleet.Status) {
			s.Failure, s.RetryAt = &fleet.Failure{Message: "the cache does not answer"}, &later
		})},
		{"waiting for a confirmation", waiting(fleet.Wait{For: fleet.ForConfirm})},
		{"waiting for a window", waiting(fleet.Wait{For: fleet.ForWindow, Until: &later})},
		{"suspended with something to do", with(waiting(fleet.Wait{For: fleet.ForResume, Until: &later}), func(s *fleet.Status) { s.Suspended = suspension })},
		{"suspended with nothing to do", with(base(fleet.PhaseIdle), func(s *fleet.Status) { s.Suspended = suspension })},
		{"before a correction", with(waiting(fleet.Wait{For: fleet.ForGrace, Until: &later}), func(s *fleet.Status) {
			s.Drifted, s.Drift, s.Target, s.Systems.Current = drift, true, s.Active, system("x")
		})},
		{"a test", with(base(fleet.PhaseTesting), func(s *fleet.Status) { s.Test = &fleet.ReleaseRef{Test: "release-joker-test-3"} })},
		{"a test that is ignored", with(base(fleet.PhaseIdle), func(s *fleet.Status) {
			s.Remotes = []fleet.Remote{{Ignored: &fleet.Refusal{Since: at, Failure: fleet.Failure{Message: "release-joker-test-3 is built on release-6, and the newest release is release-7", Hint: "rebase it"}}}}
		})},
		{"rolled back by an operator", with(base(fleet.PhaseOverruled), func(s *fleet.Status) { s.Choice = choice })},
		{"switched by hand", with(base(fleet.PhaseOverruled), func(s *fleet.Status) { s.Drifted, s.Drift = drift, true })},
		{"held, and switched by hand", with(working(fleet.PhaseHeld), func(s *fleet.Status) {
			s.Failure, s.Drifted, s.Drift, s.Systems.Current = failure, drift, true, system("x")
		})},
		{"reboot", with(base(fleet.PhaseReboot), func(s *fleet.Status) { s.Reboot = &fleet.Reboot{Needed: true} })},
		{"reboot in a window", with(base(fleet.PhaseReboot), func(s *fleet.Status) { s.Reboot = &fleet.Reboot{Needed: true, At: &later} })},
		{"another kernel", with(base(fleet.PhaseIdle), func(s *fleet.Status) { s.Reboot = &fleet.Reboot{Needed: true, Tried: true} })},
		{"not well after a reboot", with(base(fleet.PhaseIdle), func(s *fleet.Status) { s.Reboot = &fleet.Reboot{Tried: true, Failure: failure} })},
		{"refused", with(base(fleet.PhaseIdle), func(s *fleet.Status) {
			s.Refused = &fleet.Refusal{Since: at, Failure: fleet.Failure{Message: "the release tag is not signed", Hint: "put the branch back"}}
		})},
		{"a full disk and a wrong clock", with(base(fleet.PhaseIdle), func(s *fleet.Status) {
			s.Disks = []fleet.Disk{{Of: "store", FreeBytes: 9 << 20, TotalBytes: 100 << 30}, {Of: "state", FreeBytes: 4 << 30, TotalBytes: 100 << 30}, {Of: "boot", FreeBytes: 40 << 20, TotalBytes: 512 << 20}}
			s.ClockOffSeconds = -86399.6
		})},
		{"its ring is not given the newest yet, which is here", ahead(1, fleet.Ahead{StagedAt: &at})},
		{"nor its batch, and it is being fetched", ahead(2, fleet.Ahead{})},
		{"nor, and it cannot be fetched", ahead(1, fleet.Ahead{Failure: &fleet.Failure{Message: "the cache does not answer"}})},
		{"no git, no hub", with(base(fleet.PhaseIdle), func(s *fleet.Status) {
			s.Remote = fleet.Contact{Since: at, Failure: &fleet.Failure{Message: "cannot fetch from git", Hint: "is it up?"}}
			s.Hub = fleet.Contact{Since: at, Failure: &fleet.Failure{Message: "cannot reach the hub"}}
		})},
	} {
		fmt.Fprintf(&got, "## %s\n", c.name)
		a := &app{Stdio: Stdio{Out: &got}}
		a.tellExplanation(fleet.Explain(c.s))
		fmt.Fprintln(&got)
	}
	file := filepath.Join("testdata", "explain.txt")
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
		t.Errorf("it explains\n%s\nand should, as in %s,\n%s", got.Bytes(), file, want)
	}
}

// Every phase is explained, and has a meaning.
func TestEveryPhaseIsExplained(t *testing.T) {
	for _, p := range fleet.Phases() {
		s := fleet.Status{Phase: p, Target: &fleet.Target{}}
		if e := fleet.Explain(s); len(e.Why) != 1 || bytes.Contains([]byte(e.Why[0].Said+s.Meaning()), []byte("does not know:")) || bytes.Contains([]byte(s.Meaning()), []byte("that this garrison")) {
			t.Errorf("%s: %+v; %s", p, e, s.Meaning())
		}
	}
}
