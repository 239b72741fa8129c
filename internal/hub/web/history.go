package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// releasesView is a part of the timeline of releases.
type releasesView struct {
	List  []fleet.ReleaseView
	Older int // the number that the next page is before; 0: there is none
}

const releasesShown = 30

func (s *server) releases(r *http.Request) (page, error) {
	before, _ := strconv.Atoi(r.URL.Query().Get("before")) // what is none is the beginning
	list, err := s.Hub.Releases(r.Context(), max(0, before), releasesShown)
	v := releasesView{List: list}
	if n := len(list); n == releasesShown && list[n-1].Release.Number > 1 {
		v.Older = list[n-1].Release.Number
	}
	return page{Title: "Releases", Template: "releases.html", Nav: "releases", Live: "host run event", Body: v}, err
}

// releaseView is one release with its way.
type releaseView struct {
	fleet.ReleaseView
	Fall      waterfall
	All       bool
	Counts    []standingCount
	Unchanged []string
	Rollout   *rolloutView // of the newest release alone
	Lead      float64      // seconds from the push to the last host; 0 while that is not over
}

type standingCount struct {
	Standing string
	N        int
}

func (s *server) release(r *http.Request) (page, error) {
	number, ok := fleet.TagNumber(fleet.TagPrefix + r.PathValue("number"))
	if !ok {
		return page{}, errNotFound
	}
	view, found, err := s.Hub.Release(r.Context(), number)
	if err == nil && !found {
		err = errNotFound
	}
	if err != nil {
		return page{}, err
	}
	v := releaseView{ReleaseView: view, All: r.URL.Query().Get("hosts") == "all"}
	v.Fall = fallOf(view, v.All)
	v.Lead = lead(view)
	of := map[string]int{}
	for _, p := range view.Progress {
		of[p.Standing]++
		if p.Standing == "unchanged" {
			v.Unchanged = append(v.Unchanged, p.Host)
		}
	}
	v.Rollout = s.rollout(r.Context(), number)
	for _, standing := range keys(of) {
		v.Counts = append(v.Counts, standingCount{standing, of[standing]})
	}
	return page{Title: view.Release.Name(), Template: "release.html", Nav: "releases", Live: "host run event", Body: v}, nil
}

// lead is how many seconds it took from the push to the last host.
func lead(v fleet.ReleaseView) float64 {
	d, _ := v.LeadTime()
	return d.Seconds()
}

// alertsView are the alerts that are over, and who is told.
type alertsView struct {
	Watched bool
	Past    []fleet.Alert
	Senders []fleet.SenderState
}

const alertsShown = 200

func (s *server) alerts(r *http.Request) (page, error) {
	p := page{Title: "Alerts", Template: "alerts.html", Nav: "alerts", Live: "event"}
	v := alertsView{Watched: s.Hub.Alerts != nil}
	if v.Watched {
		all, err := s.Hub.Alerts.Past(r.Context(), alertsShown)
		if err != nil {
			return p, err
		}
		for _, a := range all {
			if a.ResolvedAt != nil {
				v.Past = append(v.Past, a)
			}
		}
		if v.Senders, err = s.Hub.Alerts.Senders(r.Context()); err != nil {
			return p, err
		}
	}
	p.Body = v
	return p, nil
}

// eventsView are the newest events.
type eventsView struct {
	Types []string
	Type  string
	List  []event
}

type event struct {
	fleet.Event
	What, Text, Link, Standing string
}

const eventsShown = 200

func (s *server) events(r *http.Request) (page, error) {
	v := eventsView{Types: fleet.EventTypes()}
	var types []string
	if t := r.URL.Query().Get("type"); slices.Contains(v.Types, t) {
		v.Type, types = t, []string{t}
	}
	list, err := s.Hub.Store.Events(r.Context(), types, -1, eventsShown)
	for _, e := range list {
		v.List = append(v.List, inWords(e))
	}
	return page{Title: "Events", Template: "events.html", Nav: "events", Live: "event", Body: v}, err
}

// inWords says in words what an event is. Data that cannot be read, as of a later version, leave what its envelope says.
func inWords(e fleet.Event) event {
	v := event{Event: e, What: e.Type, Text: e.Subject}
	read := func(to any) bool { return json.Unmarshal(e.Data, to) == nil }
	failure := func(f *fleet.Failure) string {
		if f == nil {
			return ""
		}
		return ": " + fleet.FirstLine(f.Message)
	}
	switch e.Type {
	case fleet.EventRun:
		var r fleet.Run
		if v.What = "CI"; read(&r) {
			v.Standing, v.Link = string(r.State), fmt.Sprintf("/-/runs/%d", r.ID)
			v.Text = fmt.Sprintf("run %d of %s: %s%s", r.ID, brief(r.Source.Commit, 12, ""), r.State, failure(r.Failure))
			if r.State == fleet.RunRunning && r.Stage != "" {
				v.Text += ", " + string(r.Stage)
			}
		}
	case fleet.EventReleased:
		var p fleet.Published
		if v.What = "release"; read(&p) {
			v.Standing, v.Link = "released", fmt.Sprintf("/-/releases/%d", p.Release.Number)
			v.Text = fmt.Sprintf("%s was published: %s", p.Release.Name(), p.Release.Source.Subject)
		}
	case fleet.EventPhase:
		var c fleet.PhaseChange
		if v.What = "phase"; read(&c) {
			v.Link, v.Text = "/-/hosts/"+c.Host, fmt.Sprintf("%s: %s%s", c.Host, c.Phase, failure(c.Failure))
			if c.Was != "" {
				v.Text = fmt.Sprintf("%s: %s → %s%s", c.Host, c.Was, c.Phase, failure(c.Failure))
			}
		}
	case fleet.EventDeployment:
		var d fleet.Deployment
		if v.What = "deployment"; read(&d) {
			v.Standing, v.Link = string(d.Result), "/-/hosts/"+d.Host
			v.Text = fmt.Sprintf("%s: %s %s in %s%s", d.Host, d.Release.Name(), d.Result, seconds(total(d.Stages)), failure(d.Failure))
		}
	case fleet.EventAct:
		var a fleet.Act
		if v.What = "act"; read(&a) {
			v.Link, v.Text = "/-/hosts/"+a.Host, a.Host+": "+a.Act
			if a.By != nil {
				v.Text += " by " + a.By.String()
			}
			if a.Reason != "" {
				v.Text += ": " + a.Reason
			}
		}
	case fleet.EventAlert, fleet.EventResolved:
		var a fleet.Alert
		if v.What = "alert"; read(&a) {
			v.Standing, v.Link, v.Text = string(a.Severity), "/-/alerts", a.What
			if e.Type == fleet.EventResolved {
				v.Standing, v.Text = "resolved", "over: "+a.What
			}
		}
	case fleet.EventRollout:
		var a fleet.RolloutAct
		if v.What = "roll-out"; read(&a) {
			v.Link, v.Standing, v.Text = "/-/rollout", a.Act, strings.TrimPrefix(e.Words(), "roll-out: ")
		}
	case fleet.EventDrill:
		var d fleet.DrillReport
		if v.What = "drill"; read(&d) {
			v.Standing, v.Link, v.Text = "fail", "/-/drills#drill-"+url.PathEscape(d.ID), "a drill of "+d.Host+" failed"
			if d.Passed {
				v.Standing, v.Text = "pass", "a drill of "+d.Host+" passed"
			}
		}
	}
	return v
}

const drillsShown = 50

func (s *server) drills(r *http.Request) (page, error) {
	list, err := s.Hub.Store.Drills(r.Context(), drillsShown)
	return page{Title: "Drills", Template: "drills.html", Nav: "drills", Live: "event", Body: list}, err
}

// figure are a fleet's figures over some days.
type figure struct {
	Days int
	fleet.Stats
}

func (s *server) figures(r *http.Request) (page, error) {
	var list []figure
	now := time.Now().UTC()
	for _, days := range []int{7, 30, 90} {
		stats, err := s.Hub.Stats(r.Context(), now.AddDate(0, 0, -days), now)
		if err != nil {
			return page{}, err
		}
		list = append(list, figure{days, stats})
	}
	return page{Title: "Figures", Template: "figures.html", Nav: "figures", Body: list}, nil
}
