package web

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/garrison-nix/garrison/internal/closure"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// hostView is all that is known of a host.
type hostView struct {
	row
	Why   []fleet.Reason
	Past  []past
	Diff  *fleet.HostDiff
	Lines []string // of the diff
	Sum   string
	Log   string // the end of what was said last
	Live  bool   // an activation is under way, and its log grows
	Disks []disk
	Keys  []credential
}

// past is a line of a host's history: a deployment, or an act.
type past struct {
	*fleet.Deployment
	Act     *fleet.Act
	At      time.Time
	Seconds float64
}

type disk struct {
	fleet.Disk
	Free float64 // percent
	Low  bool
}

type credential struct {
	fleet.Credential
	Standing string // valid, ends soon, ended
}

const (
	historyShown = 50
	logShown     = 64 << 10 // bytes, from its end
	endsSoon     = 14 * 24 * time.Hour
)

func (s *server) host(r *http.Request) (page, error) {
	name, ctx := r.PathValue("host"), r.Context()
	status, found, err := s.Hub.Host(ctx, name)
	if err == nil && !found {
		err = errNotFound
	}
	if err != nil {
		return page{}, err
	}
	newest := 0
	if m := s.Hub.Newest(); m != nil {
		newest = m.Number
	}
	now := time.Now()
	v := hostView{row: rowOf(status, newest, now, s.Hub.Silent), Why: fleet.Explain(status).Why}
	if v.Is == fleet.Silent {
		v.Why = append([]fleet.Reason{{Said: "This host " + v.Wrong + ". What follows is what it said last.", Commands: []string{"ssh " + name + " systemctl status garrison-agent", "ssh " + name + " garrison status"}}}, v.Why...)
	}
	deployments, err := s.Hub.Store.Deployments(ctx, name, historyShown)
	if err != nil {
		return page{}, err
	}
	acts, err := s.Hub.Store.Acts(ctx, name, historyShown)
	if err != nil {
		return page{}, err
	}
	v.Past = pastOf(deployments, acts)
	diff, found, err := s.Hub.Store.Diff(ctx, name)
	if err != nil {
		return page{}, err
	}
	if found {
		v.Diff = &diff
		var d closure.Diff
		if len(diff.Diff) > 0 && json.Unmarshal(diff.Diff, &d) == nil {
			v.Lines, v.Sum = d.Lines(), d.Summary()
		}
	}
	if v.Live = status.Phase == fleet.PhaseActivating; !v.Live {
		log, _, err := s.Hub.Store.DeploymentLog(ctx, name, 0)
		if err != nil {
			return page{}, err
		}
		v.Log = log[max(0, len(log)-logShown):]
	}
	for _, d := range status.Disks {
		part := 100 * float64(d.FreeBytes) / float64(max(1, d.TotalBytes))
		v.Disks = append(v.Disks, disk{Disk: d, Free: part, Low: part < 10})
	}
	for _, c := range status.Credentials {
		standing := "valid"
		if !c.Ends.After(now) {
			standing = "ended"
		} else if c.Ends.Before(now.Add(endsSoon)) {
			standing = "ends soon"
		}
		v.Keys = append(v.Keys, credential{c, standing})
	}
	return page{Title: name, Template: "host.html", Nav: "fleet", Live: "host", Host: name, Body: v}, nil
}

// pastOf puts deployments and acts in one order, newest first.
func pastOf(deployments []fleet.Deployment, acts []fleet.Act) []past {
	all := make([]past, 0, len(deployments)+len(acts))
	for i, d := range deployments {
		all = append(all, past{Deployment: &deployments[i], At: d.EndedAt, Seconds: total(d.Stages)})
	}
	for i, a := range acts {
		all = append(all, past{Act: &acts[i], At: a.At})
	}
	slices.SortStableFunc(all, func(a, b past) int { return b.At.Compare(a.At) })
	return all[:min(len(all), historyShown)]
}

func total(stages []fleet.StageTime) (seconds float64) {
	for _, s := range stages {
		seconds += s.Seconds
	}
	return seconds
}

// HasRelease says whether there is a page about the deployment's release.
func (p past) HasRelease() bool { return p.Deployment != nil && p.Release.Number > 0 }

// runs and what they said.

const runsShown = 100

func (s *server) runs(r *http.Request) (page, error) {
	list, err := s.Hub.Store.Runs(r.Context(), runsShown)
	return page{Title: "Runs", Template: "runs.html", Nav: "runs", Live: "run", Body: list}, err
}

type runView struct {
	fleet.Run
	Fall waterfall
	Log  string
	Cut  bool // the beginning of the log is left out
	Own  bool // its log is here
}

func (s *server) run(r *http.Request) (page, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return page{}, errNotFound
	}
	list, err := s.Hub.Store.Runs(r.Context(), 1000)
	if err != nil {
		return page{}, err
	}
	at := slices.IndexFunc(list, func(r fleet.Run) bool { return r.ID == id })
	if at < 0 {
		return page{}, errNotFound
	}
	v := runView{Run: list[at]}
	v.Fall = fallOfRun(&v.Run)
	if v.Log, v.Cut, v.Own, err = logEnd(s.Hub.LogDir, id); err != nil {
		return page{}, err
	}
	p := page{Title: "Run " + cmp.Or(r.PathValue("id"), "?"), Template: "run.html", Nav: "runs", Body: v}
	if v.State == fleet.RunRunning {
		p.Live = "run"
	}
	return p, nil
}
