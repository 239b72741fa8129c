package web_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/closure"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
)

// evil is what a host could say to be more than text.
const evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{.}}\x1b[31m\x00\u202egnp.exe\u2066\u200f\u0085 and " + "löng "

// allPaths are those of a world that trouble or hostile made.
func allPaths() []string {
	return []string{"/", "/?state=failed&sort=host&down=1&q=o", "/?rows=joker", "/-/hosts/joker", "/-/releases", "/-/releases?before=41", "/-/releases/41", "/-/releases/41?hosts=all", "/-/runs", "/-/runs/1", "/-/alerts", "/-/events", "/-/events?type=" + fleet.EventDeployment, "/-/drills", "/-/figures",
		"/-/rollout", "/-/rollout/order?act=promote&ring=rest&release=41", "/-/rollout/order?act=pause&release=41", "/-/rollout/order?act=resume&release=41", "/-/rollout/order?act=freeze", "/-/rollout/order?act=unfreeze", "/-/rollout/order?act=abort&release=41&to=40"}
}

// hostile is a world in which whatever can be text is evil.
func hostile(t testing.TB) *world {
	long := evil + strings.Repeat("W", 5000)
	w := newWorld(t, hub.WebTable{}, "joker", "hal")
	now := time.Now().UTC()
	r := refTo(41, long, now)
	r.Source.Branch, r.Source.Author, r.Commit, r.Source.Commit = long, long, evil, evil
	w.publish(r, now, "joker", "hal")
	failure := &fleet.Failure{Class: fleet.Class(evil), Code: fleet.Code(evil), Stage: fleet.Stage(evil), Message: evil + "\n" + long, Hint: long}
	refusal := fleet.Refusal{Tip: evil, Since: now, Failure: *failure}
	actor := fleet.Actor{User: evil}
	s := status("joker", r, now)
	s.Version, s.Failure, s.Refused = long, failure, &refusal
	s.Systems = fleet.Systems{Current: long, Profile: evil, Booted: evil + "2"}
	s.Phase, s.Choice, s.Suspended = fleet.PhaseHeld, &fleet.Choice{Act: evil, By: actor, Reason: long, Release: r}, &fleet.Suspension{By: actor, Reason: long, Since: now, Until: now.Add(time.Hour)}
	s.Target = &fleet.Target{Release: r, Toplevel: fleet.Toplevel{OutPath: long}}
	s.Drift, s.Drifted = true, &fleet.Drift{Since: now, Current: evil, Profile: evil}
	s.Remotes = []fleet.Remote{{Name: evil, URL: "javascript:" + evil, Contact: fleet.Contact{Failure: failure}, Tip: evil, Refused: &refusal, Ignored: &refusal}}
	s.Remote.Failure, s.Hub.Failure, s.Push, s.Pushing = failure, failure, fleet.Contact{Failure: failure}, 3
	s.Disks, s.Credentials = []fleet.Disk{{Of: evil}}, []fleet.Credential{{Name: evil, Ends: now}}
	s.Reboot = &fleet.Reboot{Needed: true, Failure: failure}
	w.tell("joker", "/api/v1/reports", s)
	other := status("hal", r, now)
	other.Phase, other.Test = fleet.Phase("held"), nil
	other.Failure = failure
	w.tell("hal", "/api/v1/reports", other)
	d := fleet.Deployment{Schema: 1, Host: "joker", Release: r, Toplevel: fleet.Toplevel{OutPath: evil}, Previous: evil, Result: fleet.RolledBack, Failure: failure, Stages: []fleet.StageTime{{Stage: fleet.Stage(evil), StartedAt: now, Seconds: 1e12, ToolSeconds: 2e12}, {Stage: fleet.Fetch, StartedAt: now.Add(-1e6 * time.Hour), Seconds: -3}}, EndedAt: now}
	w.tell("joker", "/api/v1/deployments", fleet.DeploymentReport{Schema: 1, Deployment: d, Log: long})
	w.tell("joker", "/api/v1/acts", fleet.Act{Schema: 1, Host: "joker", At: now, Act: evil, By: &actor, Reason: long, Release: &fleet.ReleaseRef{Number: 41}})
	diff, err := json.Marshal(closure.Diff{Changes: []closure.Change{{Name: evil, Kind: closure.Upgraded, Before: []string{evil}, After: []string{evil}}}})
	must(t, err)
	w.tell("joker", "/api/v1/diffs", fleet.HostDiff{Schema: 1, Host: "joker", At: now, Before: evil, After: evil, Diff: diff, Unknown: evil})
	ended := now
	_, err = w.NoteRun(t.Context(), fleet.Run{Schema: 1, ID: 1, Source: r.Source, State: fleet.RunFailed, StartedAt: now, EndedAt: &ended, Stage: fleet.Stage(evil), Failure: failure, By: evil, URL: "javascript:" + evil, Release: &r})
	must(t, err)
	must(t, os.WriteFile(hub.LogFile(w.dir, 1), []byte(long), 0o600))
	w.alert(fleet.Alert{Schema: 1, Key: evil, Kind: fleet.AlertKind(evil), Severity: fleet.Critical, Host: "joker", Release: evil, What: long, Detail: long, Commands: []string{long}, Since: now, OpenedAt: now})
	must(t, w.store.PutDrill(t.Context(), fleet.DrillReport{Schema: 1, ID: "one", Version: evil, StartedAt: now, EndedAt: now, Where: evil, Host: evil, Scenarios: []fleet.DrillScenario{{Name: "x", Title: evil, Result: fleet.DrillResult(evil), Detail: evil, Checks: []fleet.DrillCheck{{Name: evil, Result: fleet.DrillFail, Detail: evil}}, Commands: []string{evil}}}}))
	bad := newDesk(t, w, now)
	for i := range bad.v.Rings {
		x := &bad.v.Rings[i]
		x.Name, x.Reason, x.Zone, x.Windows = evil, long, evil, []string{evil}
		x.Failed, x.Rebooting = fleet.Named{Count: 30, Names: []string{evil, long}}, []string{evil}
	}
	bad.v.Rings[2].Name = "rest"
	bad.v.Freeze, bad.v.Paused, bad.v.Trouble = &fleet.RolloutOrder{By: evil, Reason: long, Until: &now}, &fleet.RolloutOrder{By: evil, Reason: long}, failure
	w.act(fleet.RolloutAct{Schema: 1, Act: evil, At: now, By: evil, Ring: evil, Reason: long, Release: 41, Hosts: []string{evil}})
	w.act(fleet.RolloutAct{Schema: 1, Act: fleet.RolloutPromoted, At: now, By: evil, Ring: evil, Release: 41})
	event, err := fleet.NewEvent(evil, evil, evil, evil, now, evil)
	must(t, err)
	_, err = w.store.PutEvents(t.Context(), []fleet.Event{event})
	must(t, err)
	return w
}

var unseen = regexp.MustCompile("[\x00-\x08\x0b-\x1f\x7f\u0080-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

// TestHostile: whatever a host, a commit or a drill says is text, is seen as what it is, and is bounded.
func TestHostile(t *testing.T) {
	w := hostile(t)
	for _, path := range allPaths() {
		text := w.get(path)
		valid(t, path, text)
		for _, bad := range []string{"<script>alert", "<img", "javascript:<", `href="javascript:`, "onerror=alert(2)>"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %q in it", path, bad)
			}
		}
		if at := unseen.FindStringIndex(text); at != nil {
			t.Errorf("%s has %q in it", path, text[max(0, at[0]-20):at[1]])
		}
		if len(text) > 200_000 {
			t.Errorf("%s has %d bytes", path, len(text))
		}
	}
	if text := w.get("/-/hosts/joker"); !strings.Contains(text, "&lt;script&gt;alert(1)") || !strings.Contains(text, "\ufffd[31m") {
		t.Error("what the host said is not shown")
	}
	if resp := w.request(http.MethodGet, "/?q="+"%3Cscript%3Ealert(1)%3C/script%3E&state=%22%3E&sort=%3C&rows=%3Cb", "", token("read")); strings.Contains(read(t, resp), "<script>alert") {
		t.Error("what was asked for is more than text")
	}
	if strings.Contains(w.log.String(), "level=ERROR") {
		t.Error("a page could not be made")
	}
}

var (
	tag  = regexp.MustCompile(`<(/?)([a-zA-Z][a-zA-Z0-9]*)((?:\s+[a-zA-Z0-9-]+(?:="[^"<]*")?)*)\s*>`)
	attr = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9-]*)(?:="([^"<]*)")?`)
	void = []string{"meta", "link", "input", "br", "img"}
)

// valid holds a page's markup against what HTML asks for: each element ends where it should, ids are there once and those that are referred to are
// there; and against the policy, which forbids styles and scripts within.
func valid(t *testing.T, path, text string) {
	t.Helper()
	var open []string
	ids, wanted := map[string]bool{}, map[string]bool{}
	rest := text[strings.Index(text, ">")+1:] // after the doctype
	if bare := strings.IndexByte(tag.ReplaceAllString(rest, ""), '<'); bare >= 0 {
		t.Errorf("%s: a < that begins no tag: %.80q", path, tag.ReplaceAllString(rest, "")[bare:])
	}
	for _, m := range tag.FindAllStringSubmatch(rest, -1) {
		name := m[2]
		if m[1] == "/" {
			if len(open) == 0 || open[len(open)-1] != name {
				t.Errorf("%s: </%s> ends %v", path, name, open)
				return
			}
			open = open[:len(open)-1]
			continue
		}
		if !slices.Contains(void, name) {
			open = append(open, name)
		}
		seen := map[string]bool{}
		for _, a := range attr.FindAllStringSubmatch(m[3], -1) {
			if seen[a[1]] || a[1] == "style" || strings.HasPrefix(a[1], "on") {
				t.Errorf("%s: <%s> has %s, again or although it must not", path, name, a[1])
			}
			seen[a[1]] = true
			switch a[1] {
			case "id":
				if ids[a[2]] || a[2] == "" || strings.ContainsAny(a[2], " \t\n") {
					t.Errorf("%s: the id %q is there twice, or is none", path, a[2])
				}
				ids[a[2]] = true
			case "for", "aria-labelledby":
				wanted[a[2]] = true
			}
		}
		if name == "style" || name == "script" && !strings.Contains(m[3], " src=") {
			t.Errorf("%s: <%s> within the page", path, name)
		}
	}
	if len(open) > 0 {
		t.Errorf("%s: %v do not end", path, open)
	}
	for id := range wanted {
		if !ids[id] {
			t.Errorf("%s: nothing has the id %q", path, id)
		}
	}
	for _, needed := range []string{`<html lang="en">`, "<title>", `name="viewport"`, "<main", "<h1"} {
		if !strings.Contains(text, needed) {
			t.Errorf("%s: there is no %s", path, needed)
		}
	}
}

// TestPages: what is asked about a fleet is answered.
func TestPages(t *testing.T) {
	w := trouble(t)
	for path, wants := range map[string][]string{
		"/":                  {"2 alerts are open.", "joker rolled release-41 back", "garrison explain --host joker", "1 failed", "waits for somebody to say: garrison confirm release-41", "has never reported", "nginx: HSTS for all vhosts"},
		"/?state=failed":     {"1 of 13", "host-joker"},
		"/?q=voldemort":      {"1 of 13", "host-voldemort"},
		"/-/hosts/joker":     {"this host holds release-41", "garrison retry", "nginx.service failed in the new system", "61.0 GiB of 240.0 GiB free", "ends soon", "rolled-back", "reloading user units", "add_headr"},
		"/-/hosts/loki":      {"has not reported since the hub is back"},
		"/-/hosts/wotan":     {"has never reported"},
		"/-/releases":        {"release-41", "release-40", "by Ada", "superseded"},
		"/-/releases/41":     {"evaluate", "publish", "8 done", "run 2 and its log", "voldemort"},
		"/-/runs":            {"nginx: HSTS", "released"},
		"/-/runs/2":          {"building nixos-system", "4.20 s", "3.57 s", "release-41"},
		"/-/alerts":          {"Open", "loki has not reported", "no sender is configured"},
		"/-/events":          {"joker: release-41 rolled-back in", "release-41 was published"},
		"/-/drills":          {"No drill was told of yet"},
		"/-/figures":         {"7 days", "Change failure rate"},
		"/-/events?type=bad": {"release-41 was published"},
	} {
		text := w.get(path)
		valid(t, path, text)
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %q:\n%s", path, want, text)
			}
		}
	}
	if text := w.get("/?state=failed"); strings.Contains(text, "host-ratched") {
		t.Error("ratched has not failed")
	}
	if text := w.get("/?rows=ratched,hal"); strings.Count(text, "<tr id=") != 2 {
		t.Error("two rows were asked for")
	}
	row := regexp.MustCompile(`<tr id="host-loki"[^>]*class="([^"]*)"`).FindStringSubmatch(w.get("/"))
	if len(row) < 2 || row[1] == "converged" {
		t.Errorf("a host that was not heard for hours is %v", row)
	}
	for _, path := range []string{"/-/hosts/nobody", "/-/releases/99", "/-/releases/x", "/-/runs/99", "/-/runs/x", "/-/nothing", "/-/runs/99/log"} {
		if resp := w.request(http.MethodGet, path, "", token("read")); resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	must(t, w.store.PutDrill(t.Context(), fleet.DrillReport{Schema: 1, ID: "d1", Host: "joker", Where: "sandbox", StartedAt: time.Now(), EndedAt: time.Now().Add(9 * time.Second), Passed: true,
		Scenarios: []fleet.DrillScenario{{Name: "bad", Title: "A bad release", Result: fleet.DrillPass, Seconds: 3.2, Checks: []fleet.DrillCheck{{Name: "rolled back", Result: fleet.DrillPass}}}}}))
	must(t, w.store.PutDrill(t.Context(), fleet.DrillReport{Schema: 1, ID: "d2", Host: "joker", Where: "live", StartedAt: time.Now(), EndedAt: time.Now().Add(9 * time.Second), Error: "the fleet is not as it was",
		Scenarios: []fleet.DrillScenario{{Name: "cut", Result: fleet.DrillFail, Next: []string{"garrison explain --host joker"}}, {Name: "power-cut", Result: fleet.DrillSkip, Detail: "only in a sandbox"}}}))
	text := w.get("/-/drills")
	for _, want := range []string{"A bad release", "passed", `id="drill-d2"`, `<a href="/-/hosts/joker">joker</a>`, "the fleet is not as it was", "garrison explain --host joker", `<span class="muted">only in a sandbox</span>`} {
		if !strings.Contains(text, want) {
			t.Errorf("the drills do not say %q: %s", want, text)
		}
	}
}

// TestAllIsWell: and it is said only then.
func TestAllIsWell(t *testing.T) {
	w := newWorld(t, hub.WebTable{}, "ratched", "joker")
	says := func(want string) {
		t.Helper()
		if text := w.get("/"); !strings.Contains(text, want) {
			t.Errorf("it does not say %q: %s", want, text)
		}
	}
	says("No host has reported yet.")
	now := time.Now().UTC()
	one, two := refTo(1, "one", now), refTo(2, "two", now)
	w.publish(one, now, "ratched", "joker")
	w.tell("ratched", "/api/v1/reports", status("ratched", one, now))
	says("A change is under way.")
	w.tell("joker", "/api/v1/reports", status("joker", one, now))
	says("All is well.")
	says("2 of 2 hosts are converged on release-1.")
	w.publish(two, now, "ratched", "joker")
	says("A change is under way.")
	says("has not seen release-2 yet")
	held := status("joker", two, time.Now().UTC().Add(2*time.Second))
	held.Phase, held.Failure = fleet.PhaseHeld, &fleet.Failure{Message: "it was so late"}
	w.tell("joker", "/api/v1/reports", held)
	says("1 host needs somebody.")
}

// TestStoreFails: a page says that it cannot be made, and not what the store said.
func TestStoreFails(t *testing.T) {
	w := newWorld(t, hub.WebTable{})
	must(t, w.store.Close())
	w.store = nil
	for _, path := range []string{"/", "/-/releases", "/-/runs", "/-/alerts", "/-/events", "/-/drills", "/-/figures", "/-/hosts/joker"} {
		resp := w.request(http.MethodGet, path, "", token("read"))
		if text := read(t, resp); resp.StatusCode != http.StatusInternalServerError || !strings.Contains(text, "cannot read its store") || strings.Contains(text, "sql") {
			t.Errorf("%s: %s: %s", path, resp.Status, text)
		}
	}
}

// many is a world with so many hosts, of which some are not well.
func many(t testing.TB, n int) *world {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("host-%04d", i))
	}
	w := newWorld(t, hub.WebTable{}, names...)
	now := time.Now().UTC()
	r := refTo(41, "nginx: HSTS for all vhosts", now)
	w.publish(r, now, names...)
	for i, name := range names {
		s := status(name, r, now)
		if i%50 == 7 {
			s.Phase, s.Failure, s.Target = fleet.PhaseHeld, &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeCheck, Message: "nginx.service failed in the new system: exit status 1"}, &fleet.Target{Release: r}
		}
		must(t, w.store.PutStatus(t.Context(), s))
	}
	return w
}

func TestManyHosts(t *testing.T) {
	w := many(t, 1000)
	text := w.get("/")
	valid(t, "/", text)
	if n := strings.Count(text, "<tr id=\"host-"); n != 1000 {
		t.Errorf("%d rows", n)
	}
	if first := strings.Index(text, "<tr id=\"host-"); !strings.HasPrefix(text[first:], `<tr id="host-host-0007"`) {
		t.Errorf("the first is %.60q, and not the first that failed", text[first:])
	}
	if text := w.get("/-/releases/41"); strings.Count(text, `<tr class="host">`) != 60 || !strings.Contains(text, "940 more hosts") {
		t.Error("the waterfall has not 60 hosts of 1,000")
	}
	if text := w.get("/-/releases/41?hosts=all"); strings.Count(text, `<tr class="host">`) != 1000 {
		t.Error("the waterfall has not all 1,000")
	}
}
