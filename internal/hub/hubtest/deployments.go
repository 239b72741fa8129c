package hubtest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// ended is a report of the deployment of a release that ended at some second, with a log that says so.
func ended(host string, release, second int) fleet.DeploymentReport {
	return fleet.DeploymentReport{Schema: 1, Log: fmt.Sprintf("%s %d ü \x00 at %d\n", host, release, second), Deployment: fleet.Deployment{Schema: 1, Host: host,
		Release: fleet.ReleaseRef{Number: release}, Result: fleet.Committed, Stages: []fleet.StageTime{}, EndedAt: at(second).Add(123_456 * time.Nanosecond)}}
}

func deployments(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	none, err := s.Deployments(ctx, "joker", 10)
	if err != nil || none == nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
	if _, found, err := s.DeploymentLog(ctx, "joker", 0); found || err != nil {
		t.Errorf("a log of no deployment: %v, %v", found, err)
	}
	// In the order in which they are told, whatever the clock says; told again, one is the last.
	for _, d := range []fleet.DeploymentReport{ended("joker", 1, 10), ended("joker", 2, 5), ended("ratched", 9, 1), ended("joker", 2, 7), ended("joker", 1, 10)} {
		must(t, s.PutDeployment(ctx, d))
	}
	silent := ended("silent", 3, 1)
	silent.Log = ""
	must(t, s.PutDeployment(ctx, silent))
	for s := range both(s, again) {
		list, err := s.Deployments(ctx, "joker", 10)
		must(t, err)
		want := []fleet.Deployment{ended("joker", 1, 10).Deployment, ended("joker", 2, 7).Deployment, ended("joker", 2, 5).Deployment}
		if !reflect.DeepEqual(list, want) {
			t.Errorf("got %+v\nwant %+v", list, want)
		}
		if list, err := s.Deployments(ctx, "joker", 1); err != nil || len(list) != 1 || !list[0].Key().Equal(want[0].Key()) {
			t.Errorf("the last: %+v, %v", list, err)
		}
		for release, want := range map[int]string{0: ended("joker", 1, 10).Log, 1: ended("joker", 1, 10).Log, 2: ended("joker", 2, 7).Log} {
			if log, found, err := s.DeploymentLog(ctx, "joker", release); err != nil || !found || log != want {
				t.Errorf("log of %d: %q, %v, %v", release, log, found, err)
			}
		}
		for host, release := range map[string]int{"joker": 9, "silent": 3, "nobody": 0} {
			if log, found, err := s.DeploymentLog(ctx, host, release); err != nil || found {
				t.Errorf("log of %s, %d: %q, %v, %v", host, release, log, found, err)
			}
		}
	}
}

// acts: in the order in which they are told; told again, one is there once, as the last.
func acts(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	act := func(host, name string, second int) fleet.Act {
		return fleet.Act{Schema: 1, Host: host, Act: name, By: &fleet.Actor{UID: 0, User: "root"}, Reason: "why", At: at(second).Add(123_456_789 * time.Nanosecond)}
	}
	if none, err := s.Acts(ctx, "joker", 10); err != nil || none == nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
	for _, a := range []fleet.Act{act("joker", "retry", 5), act("ratched", "retry", 5), act("joker", "suspend", 3), act("joker", "retry", 5)} {
		must(t, s.PutAct(ctx, a))
	}
	for s := range both(s, again) {
		list, err := s.Acts(ctx, "joker", 10)
		if want := []fleet.Act{act("joker", "retry", 5), act("joker", "suspend", 3)}; err != nil || !reflect.DeepEqual(list, want) {
			t.Errorf("got %+v, %v\nwant %+v", list, err, want)
		}
	}
}

func diffs(t *testing.T, s Kept, again func() Kept) {
	ctx := t.Context()
	if _, found, err := s.Diff(ctx, "joker"); found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	for _, after := range []string{"/nix/store/a", "/nix/store/b"} {
		must(t, s.PutDiff(ctx, fleet.HostDiff{Schema: 1, Host: "joker", After: after, Pending: true, Diff: json.RawMessage(`{"added":[]}`)}))
	}
	must(t, s.PutDiff(ctx, fleet.HostDiff{Schema: 1, Host: "ratched", Unknown: "why"}))
	for s := range both(s, again) {
		if d, found, err := s.Diff(ctx, "joker"); err != nil || !found || d.After != "/nix/store/b" || string(d.Diff) != `{"added":[]}` || !d.Pending {
			t.Errorf("%+v, %v, %v", d, found, err)
		}
		if d, found, err := s.Diff(ctx, "ratched"); err != nil || !found || d.Diff != nil || d.Unknown != "why" {
			t.Errorf("%+v, %v, %v", d, found, err)
		}
	}
}
