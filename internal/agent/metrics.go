package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/metrics"
)

// Prometheus' text format, version 0.0.4, by hand: see docs/decisions/0007-metrics-by-hand.md.

// buckets of garrison_stage_duration_seconds, in seconds.
var buckets = [...]float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600}

// counts are what happened since the agent started. The zero value is ready.
type counts struct {
	mu          sync.Mutex
	deployments map[fleet.Result]int
	failures    map[fleet.Code]int
	stages      map[fleet.Stage]*metrics.Histogram
	staged      time.Time // when a closure was last brought into the store
	unwritable  bool      // the record could not be written the last time
}

func (c *counts) change(f func(*counts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
}

func (c *counts) stage(stages []fleet.StageTime) {
	c.change(func(c *counts) {
		for _, s := range stages {
			h := c.stages[s.Stage]
			if h == nil {
				h = &metrics.Histogram{}
				if c.stages == nil {
					c.stages = map[fleet.Stage]*metrics.Histogram{}
				}
				c.stages[s.Stage] = h
			}
			h.Observe(buckets[:], s.Seconds)
		}
	})
}

func (c *counts) failed(code fleet.Code) {
	c.change(func(c *counts) { add(&c.failures, code) })
}

func (c *counts) deployed(r fleet.Result) {
	c.change(func(c *counts) { add(&c.deployments, r) })
}

func add[K comparable](m *map[K]int, k K) {
	if *m == nil {
		*m = map[K]int{}
	}
	(*m)[k]++
}

// exposition is a page of metrics.
type exposition struct{ metrics.Page }

// metrics is the page as it is now.
func (a *Agent) metrics() string {
	s := a.Status()
	a.mu.Lock()
	reboot := a.reboot
	a.mu.Unlock()
	return expose(s, reboot, a.nix.Version, a.Config.StateDir, &a.counts)
}

func expose(s fleet.Status, reboot bool, nixVersion, stateDir string, c *counts) string {
	var e exposition
	e.Begin("garrison_agent_info", "gauge", "The agent.")
	e.Sample("garrison_agent_info", 1, "host", s.Host, "version", s.Version, "nix", nixVersion)
	e.releases(s)
	e.state(s, reboot)
	e.contacts(s, c)
	e.credentials(s.Credentials)
	e.counted(c)
	e.disks(stateDir, c)
	return e.String()
}

func (e *exposition) credentials(list []fleet.Credential) {
	const name = "garrison_credential_end_timestamp_seconds"
	e.Begin(name, "gauge", "Until when the agent's tokens and the release key are valid, of those that say so.")
	told := map[string]bool{}
	for _, c := range list {
		if told[c.Name] {
			continue // there is one series for each name
		}
		told[c.Name] = true
		e.Sample(name, metrics.UnixSeconds(c.Ends), "name", c.Name)
	}
}

func (e *exposition) releases(s fleet.Status) {
	e.Begin("garrison_release_info", "gauge", "The newest verified release, the active (confirmed) one, and the one that is worked on or waited for.")
	numbers := map[string]int{}
	for _, r := range []struct {
		role string
		ref  *fleet.ReleaseRef
	}{{"newest", s.Newest}, {"active", refOf(s.Active)}, {"target", refOf(s.Target)}} {
		if r.ref != nil {
			e.Sample("garrison_release_info", 1, "role", r.role, "number", strconv.Itoa(r.ref.Number), "commit", r.ref.Commit, "source", r.ref.Source.Commit)
			numbers[r.role] = r.ref.Number
		}
	}
	e.One("garrison_newest_release", "gauge", "Number of the newest verified release; 0 for none.", float64(numbers["newest"]))
	e.One("garrison_active_release", "gauge", "Number of the release that is active; 0 for none.", float64(numbers["active"]))
}

func refOf(t *fleet.Target) *fleet.ReleaseRef {
	if t == nil {
		return nil
	}
	return &t.Release
}

func (e *exposition) state(s fleet.Status, reboot bool) {
	e.Begin("garrison_phase", "gauge", "1 for the phase that the host is in.")
	for _, p := range fleet.Phases() {
		e.Sample("garrison_phase", metrics.OneIf(p == s.Phase), "phase", string(p))
	}
	e.One("garrison_phase_since_timestamp_seconds", "gauge", "When the phase began.", metrics.UnixSeconds(s.Since))
	e.Flag("garrison_converged", "1 when the host is what the newest release says.", s.Converged() && !s.Drift)
	e.Flag("garrison_held", "1 while a release is held back that is bad for this host.", s.Phase == fleet.PhaseHeld)
	e.Flag("garrison_drift", "1 while the host runs what somebody switched it to by hand.", s.Drift)
	e.Flag("garrison_reboot_failed", "1 while the agent could not reboot the host, or it is not well since.", s.Reboot != nil && s.Reboot.Failure != nil)
	e.Flag("garrison_reboot_needed", "1 while the active release waits for a reboot.", reboot)
	e.Flag("garrison_suspended", "1 while an operator keeps activations from starting.", s.Suspended != nil)
	e.One("garrison_push_queue", "gauge", "Systems built on this host that wait to be pushed to a cache.", float64(s.Pushing))
	e.One("garrison_retry_attempt", "gauge", "Failures in a row of the release that is worked on.", float64(s.Attempt))
	since, refused := time.Time{}, fleet.Code("")
	if s.Refused != nil {
		since, refused = s.Refused.Since, s.Refused.Failure.Code
	}
	codes := []fleet.Code{fleet.CodeSignature, fleet.CodeUnsigned, fleet.CodeUnknownKey, fleet.CodeKeyExpired, fleet.CodeForcePushed, fleet.CodeReplayed,
		fleet.CodeTagMoved, fleet.CodeBranchGone, fleet.CodeManifest, fleet.CodeWrongHost}
	if refused != "" && !slices.Contains(codes, refused) {
		codes = append(codes, refused)
	}
	e.Begin("garrison_refused", "gauge", "1 for the reason why the release branch is refused.")
	for _, c := range codes {
		e.Sample("garrison_refused", metrics.OneIf(c == refused), "code", string(c))
	}
	e.One("garrison_refused_since_timestamp_seconds", "gauge", "Since when it is refused; 0 when it is not.", metrics.UnixSeconds(since))
}

func (e *exposition) contacts(s fleet.Status, c *counts) {
	e.Begin("garrison_contact_ok", "gauge", "1 when the last contact succeeded.")
	e.Sample("garrison_contact_ok", metrics.OneIf(s.Remote.Failure == nil && !s.Remote.LastOK.IsZero()), "peer", "remote")
	e.Sample("garrison_contact_ok", metrics.OneIf(s.Hub.Failure == nil && !s.Hub.LastOK.IsZero()), "peer", "hub")
	e.Begin("garrison_contact_last_success_timestamp_seconds", "gauge", "The last success: a look at the git remote, an answer of the hub, a closure from the caches. 0 for never.")
	for _, p := range []struct {
		peer string
		at   time.Time
	}{{"remote", s.Remote.LastOK}, {"hub", s.Hub.LastOK}, {"cache", c.lastStaged()}} {
		e.Sample("garrison_contact_last_success_timestamp_seconds", metrics.UnixSeconds(p.at), "peer", p.peer)
	}
}

func (c *counts) lastStaged() (at time.Time) {
	c.change(func(c *counts) { at = c.staged })
	return at
}

func (e *exposition) counted(c *counts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.Begin("garrison_deployments_total", "counter", "Deployments that ended, since the agent started.")
	for _, r := range fleet.Results {
		e.Sample("garrison_deployments_total", float64(c.deployments[r]), "result", string(r))
	}
	e.Begin("garrison_failures_total", "counter", "Failures of looks, stages and deployments, since the agent started.")
	for _, code := range slices.Sorted(maps.Keys(c.failures)) {
		e.Sample("garrison_failures_total", float64(c.failures[code]), "code", string(code))
	}
	const name = "garrison_stage_duration_seconds"
	e.Begin(name, "histogram", "How long the stages of deployments took.")
	for _, stage := range slices.Sorted(maps.Keys(c.stages)) {
		e.Histogram(name, buckets[:], c.stages[stage], "stage", string(stage))
	}
}

// disks leaves out what cannot be found out.
func (e *exposition) disks(stateDir string, c *counts) {
	e.Begin("garrison_free_bytes", "gauge", "Free space where the store, the agent's state and the boot loader are.")
	all := disks(stateDir)
	for _, d := range all {
		e.Sample("garrison_free_bytes", float64(d.FreeBytes), "of", d.Of)
	}
	e.Begin("garrison_size_bytes", "gauge", "Space there in all.")
	for _, d := range all {
		e.Sample("garrison_size_bytes", float64(d.TotalBytes), "of", d.Of)
	}
	var unwritable bool
	c.change(func(c *counts) { unwritable = c.unwritable })
	e.Flag("garrison_state_writable", "1 when the agent can write its state.", !unwritable && unix.Access(stateDir, unix.W_OK) == nil)
}

func (a *Agent) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", metrics.ContentType)
	_, _ = fmt.Fprint(w, a.metrics()) // the client went away
}

// exposeMetrics serves the metrics, and nothing else, on the configured address. One that cannot be had is waited for:
// it is no reason not to deploy.
func (a *Agent) exposeMetrics(ctx context.Context) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", a.serveMetrics)
	srv := &http.Server{Handler: limited(4, mux), ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(a.Log.Handler(), slog.LevelDebug)}
	var l net.Listener
	told := false
	persistUntil(ctx, func() (err error) {
		if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", a.Config.Metrics.Listen); err != nil && !told {
			told = true
			a.Log.Error("metrics cannot be served; trying on", "err", err, "hint", "change metrics.listen in the agent's configuration")
		}
		return err
	})
	if l == nil {
		return
	}
	a.Log.Info("serving metrics", "address", l.Addr())
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	_ = srv.Serve(l)
}

// limited answers at most n requests at a time.
func limited(n int, next http.Handler) http.Handler {
	slots := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests at a time", http.StatusServiceUnavailable)
		}
	})
}
