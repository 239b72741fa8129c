package hub_test

import (
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/hub"
)

const newSystem, oldSystem = "/nix/store/00000000000000000000000000000000-nixos-system-new", "/nix/store/00000000000000000000000000000000-nixos-system-old"

// rolling is release 7 with hosts h1, h2 and so on, made at a fixed time.
func rolling(hosts ...string) *fleet.Manifest {
	m := &fleet.Manifest{Schema: 1, Number: 7, CreatedAt: time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC), Source: fleet.Source{Commit: strings.Repeat("a", 40)},
		Hosts: map[string]fleet.Entry{}, Manual: []string{"m1"}}
	for _, h := range hosts {
		m.Hosts[h] = fleet.Entry{Toplevel: fleet.Toplevel{OutPath: newSystem}}
	}
	return m
}

// said is a status of a host that knows release n, after, by default, release 7.
func said(host string, n int, phase fleet.Phase, change func(*fleet.Status)) fleet.Status {
	s := fleet.Status{Schema: 1, Host: host, At: rolling().CreatedAt.Add(time.Second), Phase: phase}
	if n > 0 {
		s.Newest = &fleet.ReleaseRef{Number: n}
	}
	s.Active = &fleet.Target{Toplevel: fleet.Toplevel{OutPath: oldSystem}}
	if phase == fleet.PhaseIdle && n >= 7 {
		s.Active.OutPath = newSystem
	}
	if change != nil {
		change(&s)
	}
	return s
}

func TestRollout(t *testing.T) {
	has := func(host string) fleet.Status { return said(host, 7, fleet.PhaseIdle, nil) }
	for _, c := range []struct {
		name   string
		hosts  []string
		said   []fleet.Status
		after  time.Duration // since the release was made
		state  forge.State
		expect string
	}{
		{"nobody has said anything", []string{"h1", "h2"}, nil, time.Second, forge.Pending, "0 of 2 hosts"},
		{"for long", []string{"h1", "h2"}, nil, time.Hour, forge.Pending, "0 of 2 hosts; silent: h1, h2"},
		{"all", []string{"h1", "h2"}, []fleet.Status{has("h1"), has("h2")}, time.Second, forge.Success, "all 2 hosts"},
		{"one host", []string{"h1"}, []fleet.Status{has("h1")}, time.Second, forge.Success, "its one host"},
		{"one that has it may fall silent", []string{"h1"}, []fleet.Status{has("h1")}, 48 * time.Hour, forge.Success, "its one host"},
		{"hosts that are not of the release", []string{"h1"}, []fleet.Status{has("h1"), said("m1", 7, fleet.PhaseHeld, nil)}, time.Second, forge.Success, "its one host"},
		{"idle with the release before", []string{"h1", "h2"}, []fleet.Status{has("h1"), said("h2", 6, fleet.PhaseIdle, nil)}, time.Second, forge.Pending, "1 of 2 hosts"},
		{"idle with another system", []string{"h1"}, []fleet.Status{said("h1", 7, fleet.PhaseIdle, func(s *fleet.Status) { s.Active.OutPath = oldSystem })}, time.Second, forge.Pending, "0 of 1 hosts"},
		{"its ring comes later", []string{"h1", "h2", "h3"}, []fleet.Status{has("h1"), said("h2", 6, fleet.PhaseIdle, func(s *fleet.Status) { s.Ahead = &fleet.Ahead{Release: fleet.ReleaseRef{Number: 7}} }), said("h3", 6, fleet.PhaseIdle, func(s *fleet.Status) { s.Ahead = &fleet.Ahead{Release: fleet.ReleaseRef{Number: 6}} })}, time.Second, forge.Pending, "1 of 3 hosts; 1 until their ring is given it"},
		{"under way", []string{"h1"}, []fleet.Status{said("h1", 7, fleet.PhaseStaging, nil)}, time.Second, forge.Pending, "0 of 1 hosts"},
		{"held, and another is away", []string{"h1", "h2", "h3"}, []fleet.Status{has("h1"), said("h2", 7, fleet.PhaseHeld, func(s *fleet.Status) {
			s.At = s.At.Add(time.Hour)
			s.Failure = &fleet.Failure{Code: fleet.CodeTimeout}
			s.Last = &fleet.Deployment{Release: fleet.ReleaseRef{Number: 7}, Result: fleet.RolledBack}
		})}, time.Hour, forge.Failure, "1 of 3 hosts; failed: h2 (rolled-back, timeout); silent: h3"},
		{"held since the release before", []string{"h1"}, []fleet.Status{said("h1", 6, fleet.PhaseHeld, nil)}, time.Second, forge.Pending, "0 of 1 hosts"},
		{"refused", []string{"h1"}, []fleet.Status{said("h1", 6, fleet.PhaseIdle, func(s *fleet.Status) {
			s.Refused = &fleet.Refusal{Failure: fleet.Failure{Code: fleet.CodeUnknownKey}}
		})}, time.Second, forge.Failure, "0 of 1 hosts; failed: h1 (refused, " + string(fleet.CodeUnknownKey) + ")"},
		{"neither system is whole", []string{"h1"}, []fleet.Status{said("h1", 7, fleet.PhaseRetrying, func(s *fleet.Status) {
			s.Failure = &fleet.Failure{Code: fleet.CodeTimeout}
			s.Last = &fleet.Deployment{Release: fleet.ReleaseRef{Number: 7}, Result: fleet.RollbackFailed}
		})}, time.Second, forge.Failure, "0 of 1 hosts; failed: h1 (rollback-failed, timeout)"},
		{"retrying", []string{"h1"}, []fleet.Status{said("h1", 7, fleet.PhaseRetrying, func(s *fleet.Status) { s.Failure = &fleet.Failure{Code: fleet.CodeCache} })},
			time.Second, forge.Pending, "0 of 1 hosts; retrying: h1 (" + string(fleet.CodeCache) + ")"},
		{"git is away", []string{"h1"}, []fleet.Status{said("h1", 6, fleet.PhaseIdle, func(s *fleet.Status) { s.Remote.Failure = &fleet.Failure{Code: fleet.CodeUnauthorized} })},
			time.Second, forge.Pending, "0 of 1 hosts; retrying: h1 (unauthorized)"},
		{"people are waited for", []string{"h1", "h2", "h3", "h4"}, []fleet.Status{
			said("h1", 7, fleet.PhaseWaiting, func(s *fleet.Status) { s.Wait = &fleet.Wait{For: fleet.ForConfirm} }),
			said("h2", 7, fleet.PhaseReboot, nil), said("h3", 7, fleet.PhaseOverruled, nil),
			said("h4", 7, fleet.PhaseIdle, func(s *fleet.Status) { s.Drift = true })},
			time.Second, forge.Pending, "0 of 4 hosts; waits: h1 (confirm), h2 (reboot), h3 (overruled) and 1 more"},
		{"one that waits and is silent", []string{"h1"}, []fleet.Status{said("h1", 7, fleet.PhaseReboot, nil)}, time.Hour, forge.Pending, "0 of 1 hosts; silent: h1"},
		{"a phase of the future", []string{"h1"}, []fleet.Status{said("h1", 7, "dreaming", nil)}, time.Second, forge.Pending, "0 of 1 hosts"},
		{"heard of lately, though of an older release", []string{"h1"}, []fleet.Status{said("h1", 6, fleet.PhaseIdle, func(s *fleet.Status) { s.At = s.At.Add(59 * time.Minute) })},
			time.Hour, forge.Pending, "0 of 1 hosts"},
	} {
		m := rolling(c.hosts...)
		got := hub.Rollout(m, c.said, m.CreatedAt.Add(c.after), 15*time.Minute)
		want := forge.Status{Context: hub.RolloutContext, State: c.state, Text: "release-7: " + c.expect}
		if got != want {
			t.Errorf("%s: %+v, want %+v", c.name, got, want)
		}
	}
	before := forge.Status{Context: hub.RolloutContext, State: forge.Pending, Text: "release-7: 2 of 5 hosts"}
	if got := hub.Superseded(before, "release-8"); got.State != forge.Success || got.Text != "superseded by release-8; until then release-7: 2 of 5 hosts" {
		t.Errorf("%+v", got)
	}
}
