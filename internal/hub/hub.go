// Package hub is the fleet's meeting point: it tells agents to look again, takes
// their reports, follows the source branch with a built-in CI, and carries the binary cache on the same address.
//
// Nothing depends on it for truth: a hub that is lost costs latency and the
// display, and one gone mad cannot make a host run anything. Start at Hub.Handler and CI.Run.
package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/metrics"
)

// Store keeps what was reported and what CI did. All of it can be lost.
type Store interface {
	// PutStatus keeps s as what is known of its host, unless something newer (Status.At) is known.
	PutStatus(ctx context.Context, s fleet.Status) error
	// Statuses are the newest of every host, by name.
	Statuses(ctx context.Context) ([]fleet.Status, error)
	// Status is the newest of one host; false when it never reported.
	Status(ctx context.Context, host string) (fleet.Status, bool, error)
	// Known is what is known of a host before it says more.
	Known(ctx context.Context, host string) (Known, error)
	// PutDeployment keeps what a host tells of a deployment, as the one that it told of last. Told again, it takes the
	// place of the former. Older ones of the same host go sometime, their logs earlier.
	PutDeployment(ctx context.Context, d fleet.DeploymentReport) error
	// Deployments are those that a host told of last, at most so many, that one first.
	Deployments(ctx context.Context, host string, most int) ([]fleet.Deployment, error)
	// DeploymentLog is the log of the deployment of a release (0: of any) that a host told of last; false when there is none.
	DeploymentLog(ctx context.Context, host string, release int) (log string, found bool, err error)
	// PutAct keeps what a host tells of an act there, as the one that it told of last, like PutDeployment.
	PutAct(ctx context.Context, a fleet.Act) error
	// Acts are those that a host told of last, at most so many, that one first.
	Acts(ctx context.Context, host string, most int) ([]fleet.Act, error)
	// PutDiff keeps d as what is known of its host; Diff returns it, false when there is none.
	PutDiff(ctx context.Context, d fleet.HostDiff) error
	Diff(ctx context.Context, host string) (fleet.HostDiff, bool, error)
	// PutRun keeps r; one with ID 0 is given the next free one, which is returned. An ID that it never gave is an error.
	PutRun(ctx context.Context, r fleet.Run) (id int64, err error)
	// Runs are the newest runs, at most so many, newest first.
	Runs(ctx context.Context, most int) ([]fleet.Run, error)
	Past
}

// Known is what a Store has of a host: its status, and the deployment and the act that it told of last; nil for none.
type Known struct {
	Status     *fleet.Status
	Deployment *fleet.Deployment
	Act        *fleet.Act
}

// Past is the part of Store that keeps what happened.
type Past interface {
	// PutEvents keeps events in that order and gives each the next Seq; one whose Source and ID are known is passed over, and not among those returned.
	PutEvents(ctx context.Context, events []fleet.Event) ([]fleet.Event, error)
	// Events are those of the types asked for (none: all) with a Seq above after, oldest first; or, where after is -1, the newest, newest first. At most so many.
	Events(ctx context.Context, types []string, after int64, most int) ([]fleet.Event, error)
	// PutRelease keeps a release by its number; one that is known stays as it is.
	PutRelease(ctx context.Context, p fleet.Published) error
	// Releases are those with a number below before (0: all), newest first, at most so many.
	Releases(ctx context.Context, before, most int) ([]fleet.Published, error)
	// DeploymentsOf are the deployments of a release on all hosts, in the order in which they were told.
	DeploymentsOf(ctx context.Context, release int) ([]fleet.Deployment, error)
	// Outcomes are those of the deployments of releases first to last that ended at that time or later, on all hosts, in the order in which they ended.
	Outcomes(ctx context.Context, since time.Time, first, last int) ([]Outcome, error)
	// PutDrill keeps a report by its ID. Drills are the newest, newest first, at most so many.
	PutDrill(ctx context.Context, r fleet.DrillReport) error
	Drills(ctx context.Context, most int) ([]fleet.DrillReport, error)
	// Forget removes all that is kept of a host but events; false when nothing was.
	Forget(ctx context.Context, host string) (bool, error)
	// Prune removes what is older than k allows, some at a time; more says that there is more to remove.
	Prune(ctx context.Context, k Keep, now time.Time) (more bool, err error)
}

// Keep says how long what happened is kept. The newest releases, and what hosts have now, stay.
type Keep struct {
	Events  time.Duration // and alerts that are over
	History time.Duration // deployments, acts, releases, runs, drills
	Logs    int           // of deployments, a host
}

// Options are what a hub needs.
type Options struct {
	Store   Store
	Tokens  func() (Tokens, error) // as they are now
	Cache   http.Handler           // gets every request that is not the hub's own
	Wake    func(at time.Time)     // told when somebody says that there is something to look at; nil: agents are
	Hooks   http.Handler           // gets what a forge delivers; nil: nothing is taken
	Told    func(fleet.Status)     // what a host reported, with Seen; may be nil
	Noted   func([]fleet.Event)    // that there are new events, which the store has; may be nil
	Alerts  Alerts                 // nil: nobody knows what is wrong
	Rollout Roller                 // nil: the hub follows no repository
	Page    http.Handler           // gets what is below PagePath, and what browsers ask of /; nil: the cache does
	Silent  time.Duration          // that a host that is due may take to report before it counts as silent; 0: for ever
	LogDir  string                 // of CI runs
	// Measure adds to the page of metrics what only who wires the hub knows; may be nil.
	Measure func(*metrics.Page)
	Version string // of Garrison
	Log     *slog.Logger
}

// Hub answers requests.
type Hub struct {
	Options
	events broker
	live   live
	counts counts
	sight  sight
	askers Bound      // by token
	told   Bound      // by host
	unkept trouble    // with reports that cannot be kept
	runs   sync.Mutex // held while a run of another CI is kept
}

// New makes a hub.
func New(o Options) *Hub {
	return &Hub{Options: o, sight: sight{started: time.Now().UTC()}}
}

const (
	maxReport  = 1 << 20 // bytes
	maxRunsAsk = 100
	maxSkew    = time.Minute     // that a host's clock may be ahead of ours
	answerTime = 2 * time.Minute // for a request's body and its answer, streams excepted
)

// PagePath is the folder of the hub's web page. No cache can be named so.
const PagePath = "/-/"

// Handler serves the hub's API below /api/v1/, /healthz, the page, and the cache everywhere else.
//
//	GET  /metrics                read            Prometheus' text format
//	GET  /api/v1/openapi.yaml    (none)          what is below, in OpenAPI
//	POST /api/v1/wake            wake            something may have been pushed
//	POST /api/v1/webhook         (signed)        what a forge says, see Webhooks
//	POST /api/v1/reports         report:<host>   a fleet.Status, answered by a fleet.Received
//	POST /api/v1/deployments     report:<host>   a fleet.DeploymentReport
//	POST /api/v1/diffs           report:<host>   a fleet.HostDiff
//	POST /api/v1/acts            report:<host>   a fleet.Act
//	POST /api/v1/logs            report:<host>   a fleet.LogPart
//	POST /api/v1/runs            ci              a fleet.Run of another CI, answered by its id
//	POST /api/v1/drills          ci              a fleet.DrillReport
//	GET  /api/v1/token           any             what the token that the request comes with is for
//	GET  /api/v1/stream          any             fleet.StreamEvents as server-sent events; ?kinds=wake for agents
//	GET  /api/v1/events          read            [fleet.Event], newest first; ?n=N, ?types=T,T; ?after=SEQ: those after it, oldest first
//	GET  /api/v1/hosts           read            [fleet.Status]
//	GET  /api/v1/hosts/{host}    read            fleet.Status; below it:
//	     …/history?n=N           read            [fleet.Deployment], newest first
//	     …/acts?n=N              read            [fleet.Act], newest first
//	     …/logs?deployment=N     read            what was said in it; ?follow=1 for what is said now
//	     …/diff                  read            fleet.HostDiff
//	DELETE /api/v1/hosts/{host}  operate         forgets all that it told, but events
//	GET  /api/v1/alerts          read            [fleet.Alert] that are open; ?all=1&n=N the newest, newest first
//	GET  /api/v1/notify          read            [fleet.SenderState]
//	POST /api/v1/notify/test     operate         ?sender=NAME, as often as wanted: [fleet.SenderTest]
//	GET  /api/v1/releases        read            [fleet.ReleaseView] without progress, newest first; ?n=N, ?before=NUMBER
//	GET  /api/v1/releases/{n}    read            fleet.ReleaseView
//	GET  /api/v1/rollout         read            fleet.Rollout; it and the next where the hub follows a repository
//	POST /api/v1/rollout/orders  rollout         a fleet.RolloutCommand, answered by the fleet.Rollout after it
//	GET  /api/v1/stats?days=N    read            fleet.Stats of the last N days
//	GET  /api/v1/drills?n=N      read            [fleet.DrillReport], newest first
//	GET  /api/v1/runs?n=N        read            [fleet.Run], newest first
//	GET  /api/v1/runs/{id}/log   read            what the run's programs said; ?follow=1 until it has ended
func (h *Hub) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /api/v1/openapi.yaml", serveOpenAPI)
	mux.HandleFunc("POST /api/v1/wake", h.allow(ScopeWake, h.serveWake))
	mux.HandleFunc("GET /metrics", h.allow(ScopeRead, h.ServeMetrics))
	if h.Hooks != nil {
		mux.Handle("POST /api/v1/webhook", h.Hooks)
	}
	mux.HandleFunc("POST /api/v1/reports", h.intake(ScopeReport, h.serveReport))
	mux.HandleFunc("GET /api/v1/token", h.allow("", h.serveToken))
	mux.HandleFunc("GET /api/v1/stream", h.allow("", h.serveStream))
	mux.HandleFunc("GET /api/v1/hosts", h.allow(ScopeRead, h.serveHosts))
	mux.HandleFunc("POST /api/v1/deployments", h.intake(ScopeReport, h.serveDeployment))
	mux.HandleFunc("POST /api/v1/diffs", h.intake(ScopeReport, h.serveDiffReport))
	mux.HandleFunc("POST /api/v1/acts", h.intake(ScopeReport, h.serveAct))
	mux.HandleFunc("POST /api/v1/logs", h.intake(ScopeReport, h.servePart))
	mux.HandleFunc("GET /api/v1/hosts/{host}", h.allow(ScopeRead, h.serveHost))
	mux.HandleFunc("GET /api/v1/hosts/{host}/history", h.allow(ScopeRead, h.serveHostHistory))
	mux.HandleFunc("GET /api/v1/hosts/{host}/acts", h.allow(ScopeRead, h.serveHostActs))
	mux.HandleFunc("GET /api/v1/hosts/{host}/logs", h.allow(ScopeRead, h.ServeHostLogs))
	mux.HandleFunc("GET /api/v1/hosts/{host}/diff", h.allow(ScopeRead, h.serveHostDiff))
	mux.HandleFunc("GET /api/v1/releases", h.allow(ScopeRead, h.serveReleases))
	mux.HandleFunc("GET /api/v1/releases/{number}", h.allow(ScopeRead, h.serveRelease))
	mux.HandleFunc("GET /api/v1/stats", h.allow(ScopeRead, h.serveStats))
	mux.HandleFunc("GET /api/v1/drills", h.allow(ScopeRead, h.serveDrills))
	mux.HandleFunc("DELETE /api/v1/hosts/{host}", h.allow(ScopeOperate, h.serveForget))
	mux.HandleFunc("GET /api/v1/events", h.allow(ScopeRead, h.serveEvents))
	mux.HandleFunc("POST /api/v1/runs", h.intake(ScopeCI, h.serveRunReport))
	mux.HandleFunc("POST /api/v1/drills", h.intake(ScopeCI, h.serveDrillReport))
	mux.HandleFunc("GET /api/v1/runs", h.allow(ScopeRead, h.serveRuns))
	mux.HandleFunc("GET /api/v1/runs/{id}/log", h.allow(ScopeRead, h.ServeRunLog))
	if h.Rollout != nil {
		mux.HandleFunc("GET /api/v1/rollout", h.allow(ScopeRead, h.serveRollout))
		mux.HandleFunc("POST /api/v1/rollout/orders", h.allow(ScopeRollout, h.serveOrder))
	} else {
		mux.HandleFunc("GET /api/v1/rollout", h.allow(ScopeRead, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "this hub follows no repository", http.StatusNotFound)
		}))
	}
	if h.Alerts != nil {
		mux.HandleFunc("GET /api/v1/alerts", h.allow(ScopeRead, h.serveAlerts))
		mux.HandleFunc("GET /api/v1/notify", h.allow(ScopeRead, h.serveSenders))
		mux.HandleFunc("POST /api/v1/notify/test", h.allow(ScopeOperate, h.serveSenderTest))
	}
	mux.Handle("/", h.Cache)
	if h.Page != nil {
		mux.Handle(PagePath, h.Page)
		mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.Header.Get("Accept"), "text/html") {
				h.Page.ServeHTTP(w, r)
				return
			}
			h.Cache.ServeHTTP(w, r)
		})
	}
	return mux
}

type callerKey struct{}

// caller is whose token a request comes with.
type caller struct {
	hash   string
	scopes []string
}

// allow lets requests through whose token has the scope; "" stands for any token of ours, ScopeReport for any host's.
func (h *Hub) allow(scope string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		tokens, err := h.Tokens()
		if err != nil {
			h.Log.Error("the tokens cannot be read", "err", err)
			http.Error(w, "the hub cannot read its tokens", http.StatusServiceUnavailable)
			return
		}
		hash := HashToken(Bearer(r))
		scopes, known := tokens.ScopesOf(hash)
		has := func(s string) bool {
			return s == scope || scope == ScopeReport && strings.HasPrefix(s, ScopeReport+":")
		}
		switch {
		case !known || Bearer(r) == "":
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "this needs a token that the hub knows", http.StatusUnauthorized)
		case scope != "" && !slices.ContainsFunc(scopes, has):
			http.Error(w, "this token does not have the scope "+scope, http.StatusForbidden)
		default:
			// The connection goes on to other requests, also to the cache, which set no time for what they write.
			c := http.NewResponseController(w)
			_ = c.SetReadDeadline(time.Now().Add(answerTime))
			_ = c.SetWriteDeadline(time.Now().Add(answerTime))
			defer func() { _ = c.SetWriteDeadline(time.Time{}) }()
			next(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller{hash, scopes})))
		}
	}
}

func callerOf(r *http.Request) caller {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return c
}

func scopesOf(r *http.Request) []string { return callerOf(r).scopes }

// serveToken tells a token's scopes to who holds it.
func (h *Hub) serveToken(w http.ResponseWriter, r *http.Request) {
	h.answer(w, struct {
		Schema int      `json:"schema"`
		Scopes []string `json:"scopes"`
	}{1, scopesOf(r)}, nil)
}

func (h *Hub) serveWake(w http.ResponseWriter, r *http.Request) {
	if h.Wake != nil {
		h.Wake(time.Now())
	} else { // releases are made elsewhere, and there may be a new one
		h.WakeAgents()
	}
	w.WriteHeader(http.StatusAccepted)
}

// WakeAgents tells all agents to look at git again.
func (h *Hub) WakeAgents() { h.events.send(fleet.StreamEvent{Kind: kindWake}) }

// CloseStreams ends all streams, for a shutdown; their listeners come back.
func (h *Hub) CloseStreams() { h.events.closeAll() }

// NoteRun keeps a run of CI and shows it to whoever listens.
func (h *Hub) NoteRun(ctx context.Context, r fleet.Run) (int64, error) {
	id, err := h.Store.PutRun(ctx, r)
	if err != nil {
		return id, err
	}
	r.ID = id
	h.events.send(fleet.StreamEvent{Kind: kindRun, Run: &r})
	events, err := runEvent(r)
	return id, h.note(ctx, events, err)
}

func (h *Hub) serveHosts(w http.ResponseWriter, r *http.Request) {
	list, err := h.Hosts(r.Context())
	h.answer(w, list, err)
}

func (h *Hub) serveRuns(w http.ResponseWriter, r *http.Request) {
	n, ok := number(w, r, maxRunsAsk)
	if !ok {
		return
	}
	list, err := h.Store.Runs(r.Context(), n)
	h.answer(w, list, err)
}

// ServeRunLog answers with the log of the run whose ID is the path's {id}; with ?follow=1 it goes on as it grows.
func (h *Hub) ServeRunLog(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		http.Error(w, "a run's id is a number", http.StatusBadRequest)
		return
	}
	f, err := os.Open(LogFile(h.LogDir, id))
	if err != nil {
		http.Error(w, "there is no log of that run", http.StatusNotFound)
		return
	}
	defer f.Close()
	if r.URL.Query().Get("follow") != "" {
		h.followRun(w, r, id, f)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.Copy(w, f) // the client went away
}

func (h *Hub) answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		h.counts.storeFailed()
		h.Log.Error("the store cannot be read", "err", err)
		http.Error(w, "the hub cannot read its store", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client went away
}
