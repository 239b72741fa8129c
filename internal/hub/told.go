package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// intakeRate is how often a token may tell something, for each host that it speaks for.
var intakeRate = Rate{PerSecond: 2, Burst: 300}

// intake is allow for what tells the hub something: within a rate, so that no token can keep the hub from listening to others.
func (h *Hub) intake(scope string, next http.HandlerFunc) http.HandlerFunc {
	return h.counts.counted(h.allow(scope, func(w http.ResponseWriter, r *http.Request) {
		c, hosts := callerOf(r), 0.0
		for _, s := range c.scopes {
			if strings.HasPrefix(s, ScopeReport+":") {
				hosts++
			}
		}
		rate := Rate{PerSecond: intakeRate.PerSecond * max(1, hosts), Burst: intakeRate.Burst * max(1, hosts)}
		if !h.askers.Admit(rate, c.hash, time.Now()) {
			tooMany(w, time.Second, "this token tells too much at a time")
			return
		}
		next(w, r)
	}))
}

// tooMany answers that something is to be told again after a while.
func tooMany(w http.ResponseWriter, after time.Duration, why string) {
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
	http.Error(w, why, http.StatusTooManyRequests)
}

// document reads a document into v, and answers when that cannot be done.
func document(w http.ResponseWriter, r *http.Request, v any) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReport))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		http.Error(w, "the report has more than 1 MiB", http.StatusRequestEntityTooLarge)
		return false
	case err != nil:
		return false // the client went away
	}
	if err := json.Unmarshal(body, v); err != nil {
		http.Error(w, "the report is not what it should be, in JSON: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// serveRunReport takes how far a run of a CI outside of the hub is. The first time it has no ID and is given one; told again, it is known by who told it,
// its commit, and when it began. Nobody but who told it first changes it, and nothing follows from it: a run is shown, and what is wrong with it told to people.
func (h *Hub) serveRunReport(w http.ResponseWriter, r *http.Request) {
	var run fleet.Run
	if !document(w, r, &run) {
		return
	}
	tokens, err := h.Tokens()
	if err != nil {
		h.answer(w, nil, err)
		return
	}
	now := time.Now().UTC()
	run.By = tokens.NameOf(callerOf(r).hash)
	if wrong := checkRun(&run, now); wrong != "" {
		http.Error(w, "the report is not of a run: "+wrong, http.StatusBadRequest)
		return
	}
	h.runs.Lock() // of two that begin at the same moment, each is given an ID of its own
	defer h.runs.Unlock()
	known, err := h.Store.Runs(r.Context(), maxRunsAsk)
	if err != nil {
		h.answer(w, nil, err)
		return
	}
	same := func(k fleet.Run) bool {
		return k.By == run.By && k.Source.Commit == run.Source.Commit && k.StartedAt.Equal(run.StartedAt)
	}
	i := slices.IndexFunc(known, same)
	switch {
	case run.ID != 0 && (i < 0 || known[i].ID != run.ID):
		http.Error(w, "this token told of no such run lately", http.StatusNotFound)
		return
	case i >= 0:
		run.ID = known[i].ID
	}
	if i < 0 || known[i].EndedAt == nil { // else that it was under way arrives late
		run.ID, err = h.NoteRun(r.Context(), run)
	}
	h.endLost(r.Context(), slices.DeleteFunc(known, func(k fleet.Run) bool { return k.ID == run.ID }), now)
	if h.kept(w, "", err) {
		h.answer(w, struct {
			Schema int   `json:"schema"`
			ID     int64 `json:"id"`
		}{fleet.StatusSchema, run.ID}, nil)
	}
}

// endLost ends the runs of other CIs that nothing was heard of for longer than any run takes.
func (h *Hub) endLost(ctx context.Context, runs []fleet.Run, now time.Time) {
	for _, r := range runs {
		if r.By == "" || r.State != fleet.RunRunning || now.Sub(r.StartedAt) < maxRunTime {
			continue
		}
		lost := fleet.Errorf(fleet.Transient, fleet.CodeInterrupted, "nothing was heard of this run for %s", maxRunTime).WithHint("look at it where it ran")
		r.State, r.EndedAt, r.Failure = fleet.RunFailed, &now, fleet.FailureOf(r.Stage, lost)
		if _, err := h.NoteRun(ctx, r); err != nil && ctx.Err() == nil {
			h.Log.Error("a run that was lost cannot be marked", "run", r.ID, "err", err)
		}
	}
}

// checkRun says what is wrong with a run that is told, and cuts what is longer than anybody reads.
func checkRun(r *fleet.Run, now time.Time) (wrong string) {
	ended := r.State == fleet.RunReleased || r.State == fleet.RunUnchanged || r.State == fleet.RunFailed
	switch {
	case r.Schema != fleet.StatusSchema:
		return fmt.Sprintf("it has schema %d, this hub knows %d", r.Schema, fleet.StatusSchema)
	case r.ID < 0:
		return "its id is below 0"
	case !fleet.ValidCommit(r.Source.Commit):
		return "its source has no commit"
	case len(r.Source.Branch) > 255 || len(r.Stage) > 50 || len(r.Stages) > mostStages:
		return "it has a branch, a stage or stages of a length that none has"
	case r.State != fleet.RunRunning && !ended:
		return fmt.Sprintf("its state is %q", r.State)
	case ended != (r.EndedAt != nil):
		return "it has ended exactly if it has a time when"
	case r.StartedAt.IsZero() || r.StartedAt.After(now.Add(maxSkew)) || r.EndedAt != nil && (r.EndedAt.Before(r.StartedAt) || r.EndedAt.After(now.Add(maxSkew))):
		return "its times are not in order, or not past"
	case slices.ContainsFunc(r.Stages, func(s fleet.StageTime) bool { return len(s.Stage) > 50 }):
		return "it has a stage with a name of a length that none has"
	case r.Release != nil && len(r.Release.Test) > 300:
		return "its release has a name of a length that none has"
	}
	if u, err := url.Parse(r.URL); r.URL != "" && (err != nil || len(r.URL) > 2048 || u.Scheme != "http" && u.Scheme != "https") {
		return "its url is none of http or https"
	}
	if r.Stages == nil {
		r.Stages = []fleet.StageTime{}
	}
	r.Source.Subject, r.Failure = cut(r.Source.Subject), short(r.Failure)
	if r.Release != nil {
		r.Release.Source.Subject = cut(r.Release.Source.Subject)
	}
	return ""
}

// serveDrillReport takes how a drill ended: people are told, and a ring may wait for one that passed.
func (h *Hub) serveDrillReport(w http.ResponseWriter, r *http.Request) {
	var d fleet.DrillReport
	if !document(w, r, &d) {
		return
	}
	now := time.Now().UTC()
	switch {
	case d.Schema != fleet.DrillSchema:
		http.Error(w, fmt.Sprintf("the report has schema %d, this hub knows %d", d.Schema, fleet.DrillSchema), http.StatusBadRequest)
		return
	case d.ID == "" || len(d.ID) > 100 || len(d.Host) > 253 || len(d.Where) > 253 || d.EndedAt.IsZero() || d.EndedAt.After(now.Add(maxSkew)):
		http.Error(w, "the report is not of a drill with an id, a host, and a time when it ended", http.StatusBadRequest)
		return
	}
	if d.Passed && !d.MayHavePassed() {
		http.Error(w, "the report says that the drill passed, and its scenarios do not", http.StatusBadRequest)
		return
	}
	events, err := drillEvent(d)
	err = h.noteWith(r.Context(), events, err, func() error { return h.Store.PutDrill(r.Context(), d) })
	if h.kept(w, "", err) {
		w.WriteHeader(http.StatusNoContent)
	}
}

// serveForget forgets a host. Should it report again, it is a new one.
func (h *Hub) serveForget(w http.ResponseWriter, r *http.Request) {
	host := r.PathValue("host")
	tokens, err := h.Tokens()
	if err != nil {
		h.answer(w, nil, err)
		return
	}
	found, err := h.Store.Forget(r.Context(), host)
	if err != nil || !found {
		h.answerFound(w, nil, found, err)
		return
	}
	h.live.forget(host)
	by := tokens.NameOf(callerOf(r).hash)
	h.Log.Warn("a host was forgotten", "host", host, "by", by)
	act := fleet.Act{Schema: fleet.StatusSchema, Host: host, At: time.Now().UTC(), Act: fleet.ActForgotten, By: &fleet.Actor{UID: -1, User: "token " + by}}
	events, err := actEvent(act)
	if h.kept(w, host, h.note(r.Context(), events, err)) {
		w.WriteHeader(http.StatusNoContent)
	}
}
