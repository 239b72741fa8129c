package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// report reads a report into v, and has about tell its schema and host. It is false when it answered: because the report is
// not one, or the token does not speak for its host.
func report(w http.ResponseWriter, r *http.Request, v any, about func() (schema int, host string)) bool {
	if !document(w, r, v) {
		return false
	}
	schema, host := about()
	switch {
	case schema != fleet.StatusSchema:
		http.Error(w, fmt.Sprintf("the report has schema %d, this hub knows %d", schema, fleet.StatusSchema), http.StatusBadRequest)
		return false
	case !slices.Contains(scopesOf(r), ScopeReport+":"+host):
		http.Error(w, "this token does not speak for host "+strconv.Quote(host), http.StatusForbidden)
		return false
	}
	return true
}

func (h *Hub) serveReport(w http.ResponseWriter, r *http.Request) {
	var s fleet.Status
	if !report(w, r, &s, func() (int, string) { return s.Schema, s.Host }) {
		return
	}
	now := time.Now().UTC()
	// By the hub's clock, what a host says now is newer than what it said before: also once its own was set back, or is right again.
	if s.ClockOffSeconds = fleet.ClockOff(s.At, now); s.ClockOffSeconds != 0 {
		s.At, s.NextPoll = now, now.Add(max(0, s.NextPoll.Sub(s.At)))
	}
	s.Seen = &fleet.Seen{At: now}
	sees, err := h.eye(r.Context())
	var known Known
	if err == nil {
		known, err = h.Store.Known(r.Context(), s.Host)
	}
	if err == nil {
		err = h.noteStatus(r.Context(), known.Status, s, now)
	}
	if err == nil {
		err = h.Store.PutStatus(r.Context(), s)
	}
	received := fleet.Received{Schema: fleet.StatusSchema}
	if err == nil {
		h.events.send(fleet.StreamEvent{Kind: kindHost, Status: &s})
		if h.Told != nil {
			h.Told(sees.see(s))
		}
	}
	if d := known.Deployment; d != nil {
		key := d.Key()
		received.Deployment = &key
	}
	if known.Act != nil {
		received.Act = &known.Act.At
	}
	if h.kept(w, s.Host, err) {
		h.answer(w, received, nil)
	}
}

func (h *Hub) serveDeployment(w http.ResponseWriter, r *http.Request) {
	var d fleet.DeploymentReport
	if !report(w, r, &d, func() (int, string) { return d.Schema, d.Deployment.Host }) {
		return
	}
	if d.Deployment.Schema != fleet.StatusSchema || d.Deployment.Release.Number < 1 && d.Deployment.Release.Test == "" || d.Deployment.EndedAt.IsZero() || len(d.Log) > fleet.MaxReportedLog {
		http.Error(w, "the report is not of a deployment with a release, a time when it ended, and a log of at most 64 KiB", http.StatusBadRequest)
		return
	}
	d.Deployment.Failure = shorter(d.Deployment.Failure, maxFailure)
	if !fits(d.Deployment, maxDeployment) {
		http.Error(w, "the deployment has more than 128 KiB", http.StatusBadRequest)
		return
	}
	events, err := deploymentEvent(d.Deployment)
	if err = h.noteOf(r.Context(), d.Deployment.Host, events, err); err == nil {
		err = h.Store.PutDeployment(r.Context(), d)
	}
	if h.kept(w, d.Deployment.Host, err) {
		h.live.ended(d, time.Now())
		w.WriteHeader(http.StatusNoContent)
	}
}

func (h *Hub) serveAct(w http.ResponseWriter, r *http.Request) {
	var a fleet.Act
	if !report(w, r, &a, func() (int, string) { return a.Schema, a.Host }) {
		return
	}
	if a.Act == "" || a.At.IsZero() || !fits(a, maxAct) {
		http.Error(w, "the report is not of an act with its name and time, in at most 16 KiB", http.StatusBadRequest)
		return
	}
	events, err := actEvent(a)
	if err = h.noteOf(r.Context(), a.Host, events, err); err == nil {
		err = h.Store.PutAct(r.Context(), a)
	}
	if h.kept(w, a.Host, err) {
		w.WriteHeader(http.StatusNoContent)
	}
}

func (h *Hub) serveDiffReport(w http.ResponseWriter, r *http.Request) {
	var d fleet.HostDiff
	if !report(w, r, &d, func() (int, string) { return d.Schema, d.Host }) {
		return
	}
	if len(d.Diff) > fleet.MaxReportedDiff {
		http.Error(w, "the diff has more than 512 KiB", http.StatusBadRequest)
		return
	}
	if now := time.Now().UTC(); d.At.After(now.Add(maxSkew)) {
		d.At = now
	}
	known, found, err := h.Store.Diff(r.Context(), d.Host)
	if err == nil && (!found || !known.At.After(d.At)) { // else it was told before, and is told again
		err = h.Store.PutDiff(r.Context(), d)
	}
	if h.kept(w, d.Host, err) {
		w.WriteHeader(http.StatusNoContent)
	}
}

// noteStatus makes an event of s if the host is in another phase than when it was last heard, was.
func (h *Hub) noteStatus(ctx context.Context, was *fleet.Status, s fleet.Status, now time.Time) error {
	events, err := phaseEvent(was, s, now)
	err = h.noteOf(ctx, s.Host, events, err)
	if errors.Is(err, errTooMany) {
		if h.told.Admit(complaintRate, "complaint "+s.Host, now) {
			h.Log.Warn("a host changes its phase too often: for now that makes no events", "host", s.Host)
		}
		return nil // what it says is kept all the same
	}
	return err
}

var complaintRate = Rate{PerSecond: 1.0 / 3600, Burst: 1}

// kept answers when a report could not be kept.
func (h *Hub) kept(w http.ResponseWriter, host string, err error) bool {
	switch {
	case errors.Is(err, errTooMany):
		tooMany(w, time.Minute, err.Error())
	case errors.Is(err, errNoEvent):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case err != nil:
		h.counts.storeFailed()
		h.unkept.note(h.Log, host, err, time.Now())
		w.Header().Set("Retry-After", "60")
		http.Error(w, "the hub cannot keep the report for now", http.StatusServiceUnavailable)
	default:
		h.unkept.over(h.Log, time.Now())
	}
	return err == nil
}

const (
	maxHistoryAsk = 100
	maxFailure    = 16 << 10 // bytes of a deployment's error
	maxDeployment = 128 << 10
	maxAct        = 16 << 10
)

// fits says whether v has at most so many bytes in JSON.
func fits(v any, most int) bool {
	doc, err := json.Marshal(v)
	return err == nil && len(doc) <= most
}

func (h *Hub) serveHost(w http.ResponseWriter, r *http.Request) {
	s, found, err := h.Host(r.Context(), r.PathValue("host"))
	h.answerFound(w, s, found, err)
}

func (h *Hub) serveHostHistory(w http.ResponseWriter, r *http.Request) {
	if n, ok := number(w, r, maxHistoryAsk); ok {
		list, err := h.Store.Deployments(r.Context(), r.PathValue("host"), n)
		h.answer(w, list, err)
	}
}

func (h *Hub) serveHostActs(w http.ResponseWriter, r *http.Request) {
	if n, ok := number(w, r, maxHistoryAsk); ok {
		list, err := h.Store.Acts(r.Context(), r.PathValue("host"), n)
		h.answer(w, list, err)
	}
}

// ServeHostLogs answers with what was said on the path's {host} in its last deployment (?deployment=N: in that of a release), or is said in the one under
// way; with ?follow=1 it goes on.
func (h *Hub) ServeHostLogs(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("follow") != "" {
		h.followLogs(w, r)
		return
	}
	release := 0
	if q := r.URL.Query().Get("deployment"); q != "" {
		var ok bool
		if release, ok = fleet.TagNumber(fleet.TagPrefix + q); !ok {
			http.Error(w, "deployment must be the number of a release", http.StatusBadRequest)
			return
		}
	}
	host := r.PathValue("host")
	log, found := "", false
	if release == 0 {
		log, found = h.live.underWay(host)
	}
	var err error
	if !found {
		log, found, err = h.Store.DeploymentLog(r.Context(), host, release)
	}
	if err != nil || !found {
		h.answerFound(w, nil, found, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, log) // the client went away
}

func (h *Hub) serveHostDiff(w http.ResponseWriter, r *http.Request) {
	d, found, err := h.Store.Diff(r.Context(), r.PathValue("host"))
	h.answerFound(w, d, found, err)
}

func (h *Hub) answerFound(w http.ResponseWriter, v any, found bool, err error) {
	if err == nil && !found {
		http.Error(w, "the hub was told nothing of that", http.StatusNotFound)
		return
	}
	h.answer(w, v, err)
}

// number is the request's n, 20 unless it is given. It is false when it answered: because n is none from 1 to most.
func number(w http.ResponseWriter, r *http.Request, most int) (int, bool) {
	s := r.URL.Query().Get("n")
	if s == "" {
		return 20, true
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		http.Error(w, "n must be a number from 1 to "+strconv.Itoa(most), http.StatusBadRequest)
		return 0, false
	}
	return n, true
}

// InUse returns the store paths of the systems that hosts said they run, ran, booted, or are about to run, or staged ahead. There are doubles.
func (h *Hub) InUse(ctx context.Context) ([]string, error) {
	all, err := h.Store.Statuses(ctx)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, s := range all {
		paths = append(paths, s.Systems.Current, s.Systems.Profile, s.Systems.Booted)
		for _, t := range []*fleet.Target{s.Active, s.Target} {
			if t != nil {
				paths = append(paths, t.OutPath)
			}
		}
		if s.Ahead != nil {
			paths = append(paths, s.Ahead.OutPath)
		}
		if s.Last != nil {
			paths = append(paths, s.Last.OutPath, s.Last.Previous)
		}
	}
	return paths, nil
}
