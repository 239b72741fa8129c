package web_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/web/webtest"
)

// trouble fills a world with a fleet in which much is wrong.
func trouble(t testing.TB) *world {
	names := []string{"ratched", "joker", "ursula", "hal", "loki", "medusa", "moriarty", "nero", "oz", "pazuzu", "saruman", "voldemort"}
	w := newWorld(t, hub.WebTable{}, names...)
	now := time.Now().UTC()
	old, r := refTo(40, "Bump nixpkgs", now.Add(-26*time.Hour)), refTo(41, "nginx: HSTS for all vhosts", now.Add(-40*time.Minute))
	w.publish(old, now.Add(-26*time.Hour), names...)
	w.publish(r, now.Add(-40*time.Minute), append(names, "wotan")...)
	newDesk(t, w, now)
	w.act(fleet.RolloutAct{Schema: 1, Act: fleet.RolloutPromoted, At: now.Add(-39 * time.Minute), By: "ci", Ring: "canary", Batch: 1, Release: 41})
	w.act(fleet.RolloutAct{Schema: 1, Act: fleet.RolloutPromoted, At: now.Add(-20 * time.Minute), By: "hub", Ring: "web", Batch: 1, Release: 41, Reason: "ring canary passed it"})
	w.act(fleet.RolloutAct{Schema: 1, Act: fleet.RolloutPaused, At: now.Add(-10 * time.Minute), Ring: "web", Release: 41, Hosts: []string{"joker"}, Reason: "joker was rolled back"})
	failure := &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeCheck, Stage: fleet.Check, Message: "nginx.service failed in the new system: exit status 1\nnginx: [emerg] unknown directive \"add_headr\"", Hint: "journalctl -u nginx.service"}
	for i, h := range names {
		s := status(h, r, now)
		d := fleet.Deployment{Schema: 1, Host: h, Release: r, Toplevel: fleet.Toplevel{OutPath: system(h, 41)}, Previous: system(h, 40), Result: fleet.Committed,
			Stages: stages(now.Add(-40*time.Minute+200*time.Millisecond), 0.4, 0.1, 2.1+float64(i)*0.4, 0.02, 1.7+float64(i%3), 0.3, 0.2)}
		switch h {
		case "joker":
			s.Phase, s.Failure, s.Target, s.Active.Release, d.Result, d.Failure = fleet.PhaseHeld, failure, &fleet.Target{Release: r}, old, fleet.RolledBack, failure
		case "hal":
			s.Phase, s.Target = fleet.PhaseActivating, &fleet.Target{Release: r}
			s.Active.Release = old
		case "loki":
			at := now.Add(-3 * time.Hour)
			s.At, s.NextPoll = at, at.Add(time.Minute)
			s.Seen = &fleet.Seen{At: at}
		case "medusa":
			s.Phase, s.Wait, s.Target = fleet.PhaseWaiting, &fleet.Wait{For: fleet.ForConfirm}, &fleet.Target{Release: r}
		case "nero":
			s.Phase = fleet.PhaseManual
		}
		d.EndedAt = d.Stages[6].EndedAt()
		if h == "loki" {
			must(t, w.store.PutStatus(t.Context(), s))
			continue
		}
		w.tell(h, "/api/v1/reports", s)
		if h != "hal" && h != "medusa" && h != "nero" {
			w.tell(h, "/api/v1/deployments", fleet.DeploymentReport{Schema: 1, Deployment: d, Log: "activating the configuration...\nsetting up /etc...\nreloading user units for root...\n"})
		}
	}
	w.alert(fleet.Alert{Schema: 1, Key: "deployment-failed/joker", Kind: fleet.AlertDeployment, Severity: fleet.Critical, Host: "joker", Release: "release-41", What: "joker rolled release-41 back: nginx.service failed in the new system", Detail: failure.Message, Commands: []string{"garrison explain --host joker", "ssh joker journalctl -u nginx.service"}, Since: now.Add(-39 * time.Minute), OpenedAt: now.Add(-39 * time.Minute)})
	w.alert(fleet.Alert{Schema: 1, Key: "host-silent/loki", Kind: fleet.AlertSilent, Severity: fleet.Warning, Host: "loki", What: "loki has not reported for 3 h", Commands: []string{"ssh loki systemctl status garrison-agent"}, Since: now.Add(-3 * time.Hour), OpenedAt: now.Add(-170 * time.Minute)})
	return w
}

// open opens a tab that asks with a token to read.
func (w *world) open(b *webtest.Browser, width, height int) *webtest.Tab {
	tab := b.Open(width, height)
	tab.Headers(map[string]string{"Authorization": "Bearer " + secretOf("read")})
	return tab
}

func quiet(t *testing.T, where string, tab *webtest.Tab) {
	t.Helper()
	if c := tab.Complaints(); len(c) > 0 {
		t.Errorf("%s: the browser complains of %q", where, c)
	}
}

// TestBrowser: every page in a real browser, narrow and wide, light and dark: nothing is complained of, nothing is wider than the window, what is
// written can be read.
func TestBrowser(t *testing.T) {
	shots := os.Getenv("GARRISON_SHOTS") // a folder, to look at the pages
	b := webtest.Start(t)
	for name, w := range map[string]*world{"trouble": trouble(t), "hostile": hostile(t)} {
		for _, v := range []struct {
			name   string
			width  int
			scheme string
		}{{"wide", 1280, "light"}, {"phone", 320, "dark"}} {
			tab := w.open(b, v.width, 900)
			tab.Prefer("prefers-color-scheme", v.scheme)
			for _, path := range allPaths() {
				where := name + ", " + v.name + ", " + path
				tab.Go(w.url + path)
				wide := tab.Wide()
				if len(wide) > 0 {
					t.Errorf("%s: wider than the window: %q", where, wide)
				}
				pale := tab.Pale()
				if len(pale) > 0 {
					t.Errorf("%s: hard to read: %q", where, pale)
				}
				quiet(t, where, tab)
				if shots != "" {
					tab.Shot(filepath.Join(shots, name+"-"+v.name+strings.NewReplacer("/", "-", "?", "-").Replace(path)+".png"), true)
				}
			}
		}
	}
}

// TestBrowserLive: a report is on the page without anybody asking; what is typed, opened and chosen stays; what cannot be kept up to date says so, and recovers.
func TestBrowserLive(t *testing.T) {
	w := newWorld(t, hub.WebTable{}, "ratched", "joker")
	now := time.Now().UTC()
	one, two := refTo(1, "one", now), refTo(2, "two", now)
	w.publish(one, now, "ratched", "joker")
	for i, h := range w.hosts {
		s := status(h, one, now.Add(time.Duration(i)*time.Millisecond))
		w.tell(h, "/api/v1/reports", s)
	}
	b := webtest.Start(t)
	tab := w.open(b, 1280, 900)
	tab.Go(w.url + "/")
	tab.Until("the page is live", `document.querySelector("#link").textContent == "live"`)
	tab.Until("all is well", `document.querySelector("h1").textContent.includes("All is well.")`)

	s := status("joker", one, time.Now().UTC().Add(4*time.Second))
	s.Phase, s.Failure, s.Target = fleet.PhaseHeld, &fleet.Failure{Message: "it was so late"}, &fleet.Target{Release: one}
	w.tell("joker", "/api/v1/reports", s)
	tab.Until("joker failed", `document.querySelector("#host-joker.failed")?.textContent.includes("it was so late") && document.querySelector("#hosts tr").id == "host-joker" && document.querySelector("#verdict.bad")`)
	w.alert(fleet.Alert{Schema: 1, Key: "x", Kind: fleet.AlertDeployment, Severity: fleet.Critical, Host: "joker", What: "joker holds release-1", Detail: "in full", Since: now, OpenedAt: now})
	w.Show(fleet.Event{Type: fleet.EventAlert})
	tab.Until("the alert is there, and in the title", `document.querySelector("#alerts .alert h3").textContent.includes("joker holds release-1") && document.title.startsWith("(1)")`)
	w.publish(two, time.Now().UTC(), "ratched", "joker", "medusa")
	tab.Until("the release and a new host are there", `document.querySelector("#verdict").textContent.includes("release-2") && document.querySelector("#host-medusa") && document.querySelector("#host-ratched").textContent.includes("has not seen release-2 yet")`)

	// What somebody is at stays as it is.
	tab.Eval(`document.querySelector("#alerts summary").click(); document.querySelector("#q").focus()`, nil)
	tab.Type("joker")
	tab.Until("only joker is shown", `[...document.querySelector("#hosts").rows].filter(r => !r.hidden).length == 1 && location.search == "?q=joker"`)
	s.At, s.Failure.Message = s.At.Add(time.Second), "it was later still"
	w.tell("joker", "/api/v1/reports", s)
	tab.Until("what is newer is there", `document.querySelector("#host-joker").textContent.includes("it was later still")`)
	tab.Until("what was opened and typed is as it was", `document.querySelector("#alerts details").open && document.querySelector("#q").value == "joker" && document.activeElement.id == "q"`)
	tab.Eval(`document.querySelector("#q").value = ""; document.querySelector("#q").dispatchEvent(new Event("input"))`, nil)
	tab.Until("all are shown", `[...document.querySelector("#hosts").rows].filter(r => !r.hidden).length == 3`)
	tab.Eval(`document.querySelector('#columns a[href*="sort=host"]').click()`, nil)
	tab.Until("they are sorted by name", `[...document.querySelector("#hosts").rows].map(r => r.id).join() == "host-joker,host-medusa,host-ratched" && location.search == "?sort=host"`)
	tab.Eval(`[...document.querySelectorAll(".chip")].find(c => c.textContent.includes("failed")).click()`, nil)
	tab.Until("only those that failed are there", `document.querySelector("#hosts").rows.length == 1`)
	quiet(t, "live", tab)

	// The hub goes, and comes back.
	address := w.at.Listener.Addr().String()
	w.stop()
	tab.Until("it is said that nothing is known", `!document.querySelector("#lost").hidden && document.querySelector("#lost").textContent.includes("Not connected since") && document.body.classList.contains("stale") && document.querySelector("#link").textContent == "not connected" && getComputedStyle(document.querySelector("main")).filter == "grayscale(1)"`)
	w.serve(address, hub.WebTable{})
	w.tell("joker", "/api/v1/reports", status("joker", two, time.Now().UTC().Add(20*time.Second)))
	w.publish(refTo(3, "three", now), time.Now().UTC(), "joker")
	tab.Until("it is live again, and what it missed is there", `document.querySelector("#lost").hidden && !document.body.classList.contains("stale") && document.querySelector("#link").textContent == "live" && document.querySelector("#verdict").textContent.includes("release-3")`)
	tab.Complaints() // of the connections that it lost
}

// TestBrowserLogs: a run's log grows on its page, and ends with the run.
func TestBrowserLogs(t *testing.T) {
	w := newWorld(t, hub.WebTable{}, "joker")
	run := fleet.Run{Schema: 1, State: fleet.RunRunning, StartedAt: time.Now(), Stage: fleet.Build, Stages: []fleet.StageTime{}}
	id, err := w.NoteRun(t.Context(), run)
	must(t, err)
	log, err := os.Create(hub.LogFile(w.dir, id))
	must(t, err)
	defer log.Close()
	say := func(text string) { _, err := log.WriteString(text); must(t, err) }
	say("building <b>one</b>\n")
	tab := w.open(webtest.Start(t), 800, 600)
	tab.Go(fmt.Sprintf("%s/-/runs/%d", w.url, id))
	tab.Until("the log is there", `document.querySelector("#log").textContent == "building <b>one</b>\n"`)
	say("building two \x1b[31mred\n")
	tab.Until("it grows", `document.querySelector("#log").textContent == "building <b>one</b>\nbuilding two \ufffd[31mred\n"`)
	run.ID, run.State, run.Stage = id, fleet.RunFailed, fleet.Build
	ended := time.Now()
	run.EndedAt, run.Failure = &ended, &fleet.Failure{Stage: fleet.Build, Message: "it does not build"}
	say("the end\n")
	_, err = w.NoteRun(t.Context(), run)
	must(t, err)
	tab.Until("the run has failed", `document.querySelector("h1").textContent.includes("failed") && document.querySelector("#run").textContent.includes("it does not build") && document.querySelector("#log").textContent.endsWith("the end\n")`)
	quiet(t, "a run's page", tab)

	r := refTo(1, "one", time.Now())
	s := status("joker", r, time.Now().UTC())
	s.Phase, s.Target = fleet.PhaseActivating, &fleet.Target{Release: r}
	w.tell("joker", "/api/v1/reports", s)
	w.tell("joker", "/api/v1/logs", fleet.LogPart{Schema: 1, Host: "joker", Activation: "a", Text: "activating\n"})
	tab.Go(w.url + "/-/hosts/joker")
	tab.Until("what is said in the activation is there", `document.querySelector("#log").textContent == "activating\n"`)
	w.tell("joker", "/api/v1/logs", fleet.LogPart{Schema: 1, Host: "joker", Activation: "a", Offset: 11, Text: "setting up /etc\n"})
	tab.Until("it grows", `document.querySelector("#log").textContent.endsWith("setting up /etc\n")`)
	quiet(t, "a host's page", tab)
}

// TestBrowserLogin: with the keyboard alone; and out again. A session whose token is revoked is marked on an open page.
func TestBrowserLogin(t *testing.T) {
	w := newWorld(t, hub.WebTable{}, "joker")
	tab := webtest.Start(t).Open(390, 800)
	login := func() {
		t.Helper()
		tab.Until("the field has the focus", `document.activeElement.id == "token"`)
		tab.Type(secretOf("read"))
		tab.Leads(func() { tab.Key("Enter") })
	}
	tab.Go(w.url + "/-/releases")
	tab.Complaints() // of the answer 401
	login()
	tab.Until("it is the page that was asked for", `location.pathname == "/-/releases" && document.querySelector("h1").textContent == "Releases" && document.cookie == ""`)
	tab.Key("Tab")
	tab.Until("the first stop leads to the content", `document.activeElement.className == "skip" && document.activeElement.getBoundingClientRect().width > 20`)
	tab.Leads(func() { tab.Eval(`document.querySelector('form[action="/-/logout"] button').click()`, nil) })
	tab.Until("it is the form again", `document.querySelector("#token")`)
	tab.Complaints()
	login()
	tab.Until("the page is live", `document.querySelector("#link").textContent == "live"`)
	w.writeTokens("push")
	tab.Until("the page says that its reader is not known any more", `!document.querySelector("#lost").hidden && document.querySelector("#lost-why").textContent.includes("not logged in")`)
}

// TestBrowserWithoutScript: all is there, and comes again by itself.
func TestBrowserWithoutScript(t *testing.T) {
	w := trouble(t)
	tab := w.open(webtest.Start(t), 1280, 900)
	tab.Scripts(false)
	tab.Go(w.url + "/?q=voldemort")
	tab.Scripts(true) // to look at it; it is not loaded again
	tab.Until("one host is found", `document.querySelector("#hosts").rows.length == 1 && document.querySelector("#link").textContent.startsWith("as of") && document.querySelector("noscript meta[http-equiv=refresh]")`)
	quiet(t, "without script", tab)
}
