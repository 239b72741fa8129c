package web_test

import (
	"fmt"
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

func TestShots(t *testing.T) {
	w := trouble(t)
	b := webtest.Start(t)
	for _, v := range []struct {
		name   string
		width  int
		scheme string
	}{{"wide", 1280, "light"}, {"dark", 1280, "dark"}, {"phone", 390, "light"}} {
		tab := b.Open(v.width, 900)
		tab.Prefer("prefers-color-scheme", v.scheme)
		tab.Headers(map[string]string{"Authorization": "Bearer " + secretOf("read")})
		for name, path := range map[string]string{"fleet": "/", "host": "/-/hosts/joker", "release": "/-/releases/41", "releases": "/-/releases", "run": "/-/runs/2", "runs": "/-/runs", "alerts": "/-/alerts", "events": "/-/events", "figures": "/-/figures", "drills": "/-/drills"} {
			tab.Go(w.url + path)
			time.Sleep(500 * time.Millisecond)
			tab.Shot(fmt.Sprintf("/tmp/f4-shots/%s-%s.png", v.name, name), true)
			if c := tab.Complaints(); len(c) > 0 {
				t.Errorf("%s: %q", path, c)
			}
		}
	}
}
