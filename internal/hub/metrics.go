package hub

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/metrics"
	"github.com/garrison-nix/garrison/internal/otlp"
)

const (
	mostNamedHosts = 100 // that the page names: those that are not well, worst first
	runsMeasured   = 50  // of the newest, of which the last that ended counts
)

// MeasureTime is what a page may take: Prometheus waits for 10 s, unless it is told otherwise.
const MeasureTime = 9 * time.Second

// ServeMetrics serves the page to whom it may concern.
func (h *Hub) ServeMetrics(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), MeasureTime)
	defer cancel()
	w.Header().Set("Content-Type", metrics.ContentType)
	_, _ = io.WriteString(w, h.Metrics(ctx)) // the client went away
}

// Metrics is a page of them as they are now. What the store does not tell is missing, and garrison_hub_store_ok is 0.
func (h *Hub) Metrics(ctx context.Context) string {
	var p metrics.Page
	p.Begin("garrison_hub_info", "gauge", "The hub.")
	p.Sample("garrison_hub_info", 1, "version", h.Version)
	p.One("garrison_hub_start_time_seconds", "gauge", "When the hub began to listen.", metrics.UnixSeconds(h.Started()))
	var failed error
	for _, part := range []func(context.Context, *metrics.Page) error{h.measureHosts, h.measureRings, h.measureReleases, h.measureRuns, h.measureAlerts} {
		failed = cmp.Or(failed, part(ctx, &p))
	}
	if failed != nil && ctx.Err() == nil {
		h.Log.Error("what metrics tell cannot be read", "err", failed)
		h.counts.storeFailed()
	}
	p.Flag("garrison_hub_store_ok", "1 when the store tells what is known.", failed == nil)
	h.measureCounts(&p)
	h.measureListeners(&p)
	if h.Measure != nil {
		h.Measure(&p)
	}
	return p.String()
}

func (h *Hub) measureHosts(ctx context.Context, p *metrics.Page) error {
	hosts, err := h.Hosts(ctx)
	if err != nil {
		return err
	}
	m := h.Newest()
	newest := 0
	if m != nil {
		newest = m.Number
	}
	phases, standings := map[fleet.Phase]int{}, map[fleet.Standing][]string{}
	silent, drift := 0, 0
	for _, s := range hosts {
		phases[s.Phase]++
		stands := s.Standing(newest)
		standings[stands] = append(standings[stands], s.Host)
		if s.Seen != nil && s.Seen.Silent != nil {
			silent++
		}
		if s.Drift {
			drift++
		}
	}
	p.Begin("garrison_hub_hosts", "gauge", "Hosts by how they stand.")
	for _, s := range fleet.Standings() {
		p.Sample("garrison_hub_hosts", float64(len(standings[s])), "standing", string(s))
	}
	p.Begin("garrison_hub_hosts_phase", "gauge", "Hosts by the phase that they said last.")
	for _, phase := range append(slices.DeleteFunc(fleet.Phases(), func(x fleet.Phase) bool { return x == fleet.PhaseUnheard }), fleet.PhaseUnheard) {
		p.Sample("garrison_hub_hosts_phase", float64(phases[phase]), "phase", string(phase))
	}
	p.One("garrison_hub_hosts_silent", "gauge", "Hosts that should have reported, and did not.", float64(silent))
	p.One("garrison_hub_hosts_drift", "gauge", "Hosts that run what somebody switched them to by hand.", float64(drift))
	p.Begin("garrison_hub_host_trouble", "gauge", "1 for each host that is failed, silent or retrying, 100 of them at most.")
	named := 0
	for _, s := range []fleet.Standing{fleet.Failed, fleet.Silent, fleet.Retrying} {
		for _, host := range standings[s][:min(len(standings[s]), mostNamedHosts-named)] {
			p.Sample("garrison_hub_host_trouble", 1, "host", host, "standing", string(s))
			named++
		}
	}
	h.measureRollout(p, m, hosts)
	return nil
}

// measureRollout tells how far the newest release is, as the forge is told it.
func (h *Hub) measureRollout(p *metrics.Page, m *fleet.Manifest, hosts []fleet.Status) {
	at := map[standing]int{}
	if m != nil {
		known := make(map[string]fleet.Status, len(hosts))
		for _, s := range hosts {
			known[s.Host] = s
		}
		for host, e := range m.Hosts {
			s := known[host]
			where, _ := standingOf(s, m.Number, m.CreatedAt, e.OutPath)
			if where > done && s.Seen != nil && s.Seen.Silent != nil {
				where = away
			}
			if where == itsTurn {
				where = needsSomebody // both wait, and have the one word for it
			}
			at[where]++
		}
	}
	p.Begin("garrison_hub_rollout_hosts", "gauge", "Hosts of the newest release by how far it is there.")
	for s := failed; s <= away; s++ {
		p.Sample("garrison_hub_rollout_hosts", float64(at[s]), "standing", s.String())
	}
}

// measureRings tells how the rings stand; nothing, where there are none.
func (h *Hub) measureRings(ctx context.Context, p *metrics.Page) error {
	var v fleet.Rollout
	known := false
	if h.Rollout != nil {
		var err error
		if v, err = h.Rollout.View(ctx); err == nil {
			known = len(v.Rings) > 0
		}
	}
	if !known {
		return nil
	}
	p.Begin("garrison_hub_rollout_state", "gauge", "1 for the state that the roll-out is in.")
	for _, s := range rolloutStates {
		p.Sample("garrison_hub_rollout_state", metrics.OneIf(v.State == s), "state", string(s))
	}
	p.Begin("garrison_hub_ring_state", "gauge", "1 for the state that a ring is in.")
	for _, r := range v.Rings {
		for _, s := range rolloutStates {
			p.Sample("garrison_hub_ring_state", metrics.OneIf(r.State == s), "ring", r.Name, "state", string(s))
		}
	}
	p.Begin("garrison_hub_ring_release", "gauge", "Number of the release that all batches of a ring were given; 0 for none.")
	for _, r := range v.Rings {
		p.Sample("garrison_hub_ring_release", float64(r.Release), "ring", r.Name)
	}
	p.Begin("garrison_hub_ring_soak_end_timestamp_seconds", "gauge", "When the soak time of a ring ends if all stays well; 0 while none runs.")
	for _, r := range v.Rings {
		end := 0.0
		if r.State == fleet.RolloutSoaking && r.SoakUntil != nil {
			end = metrics.UnixSeconds(*r.SoakUntil)
		}
		p.Sample("garrison_hub_ring_soak_end_timestamp_seconds", end, "ring", r.Name)
	}
	p.Begin("garrison_hub_ring_hosts", "gauge", "Hosts of a ring by how they do with the release that it was given.")
	for _, r := range v.Rings {
		for _, of := range []struct {
			how string
			n   fleet.Named
		}{{"done", r.Done}, {"failed", r.Failed}, {"silent", r.Silent}, {"away", r.Away}, {"pending", r.Pending}} {
			p.Sample("garrison_hub_ring_hosts", float64(of.n.Count), "ring", r.Name, "how", of.how)
		}
	}
	p.Flag("garrison_hub_rollout_late", "1 when the roll-out takes longer than its soak times and windows explain.", v.LateSince != nil)
	p.Flag("garrison_hub_rollout_able", "0 when the hub can give no ring a release.", v.Trouble == nil)
	return nil
}

var rolloutStates = []fleet.RolloutState{fleet.RolloutDone, fleet.RolloutRolling, fleet.RolloutSoaking, fleet.RolloutWaiting, fleet.RolloutStopped}

func (h *Hub) measureReleases(ctx context.Context, p *metrics.Page) error {
	list, err := h.Store.Releases(ctx, 0, 1)
	if err != nil {
		return err
	}
	var newest fleet.Published
	if len(list) > 0 {
		newest = list[0]
	}
	p.One("garrison_hub_newest_release", "gauge", "Number of the newest release; 0 for none.", float64(newest.Release.Number))
	p.One("garrison_hub_newest_release_timestamp_seconds", "gauge", "When it was made; 0 for none.", metrics.UnixSeconds(newest.CreatedAt))
	return nil
}

// measureRuns tells of the source branch's runs; what becomes of tests is their author's to look at.
func (h *Hub) measureRuns(ctx context.Context, p *metrics.Page) error {
	runs, err := h.Store.Runs(ctx, runsMeasured)
	if err != nil {
		return err
	}
	running, ok, ended, known := 0, true, time.Time{}, false
	for _, r := range runs {
		_, test := testedBy(r.Source.Branch)
		switch {
		case r.State == fleet.RunRunning:
			running++
		case test || known || r.Failure != nil && (r.Failure.Code == fleet.CodeSuperseded || r.Failure.Code == fleet.CodeInterrupted):
		case r.EndedAt != nil:
			known, ok, ended = true, r.State != fleet.RunFailed, *r.EndedAt
		}
	}
	p.One("garrison_hub_runs_running", "gauge", "Runs of CI that are under way.", float64(running))
	p.Flag("garrison_hub_last_run_ok", "0 when the last run of CI on the source branch failed.", ok)
	p.One("garrison_hub_last_run_timestamp_seconds", "gauge", "When that ended; 0 for none.", metrics.UnixSeconds(ended))
	return nil
}

func (h *Hub) measureAlerts(ctx context.Context, p *metrics.Page) error {
	if h.Alerts == nil {
		return nil
	}
	open, err := h.Alerts.Open(ctx)
	if err != nil {
		return err
	}
	senders, err := h.Alerts.Senders(ctx)
	if err != nil {
		return err
	}
	type kind struct {
		kind     fleet.AlertKind
		severity fleet.Severity
	}
	n := map[kind]int{}
	for _, a := range open {
		n[kind{a.Kind, a.Severity}]++
	}
	p.Begin("garrison_hub_alerts", "gauge", "Alerts that are open.")
	for _, k := range fleet.AlertKinds() {
		for _, s := range []fleet.Severity{fleet.Warning, fleet.Critical} {
			p.Sample("garrison_hub_alerts", float64(n[kind{k, s}]), "kind", string(k), "severity", string(s))
		}
	}
	for _, of := range []struct {
		name, help string
		value      func(fleet.SenderState) float64
	}{
		{"garrison_hub_sender_pending", "Messages that a sender has not delivered yet.", func(s fleet.SenderState) float64 { return float64(s.Pending) }},
		{"garrison_hub_sender_ok", "0 when a sender's last attempt failed.", func(s fleet.SenderState) float64 { return metrics.OneIf(s.Error == "") }},
		{"garrison_hub_sender_given_up", "Of a sender's last messages those that it gave up.", func(s fleet.SenderState) float64 { return float64(s.GivenUp) }},
		{"garrison_hub_sender_oldest_timestamp_seconds", "When the first of the messages that a sender has not delivered was queued; 0 for none.", func(s fleet.SenderState) float64 { return unix(s.Oldest) }},
		{"garrison_hub_sender_last_success_timestamp_seconds", "When a sender last delivered something; 0 for never.", func(s fleet.SenderState) float64 { return unix(s.Delivered) }},
	} {
		p.Begin(of.name, "gauge", of.help)
		for _, s := range senders {
			p.Sample(of.name, of.value(s), "sender", s.Name)
		}
	}
	return nil
}

func unix(t *time.Time) float64 {
	if t == nil {
		return 0
	}
	return metrics.UnixSeconds(*t)
}

func (h *Hub) measureCounts(p *metrics.Page) {
	c := &h.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	const stages = "garrison_hub_stage_duration_seconds"
	p.Begin(stages, "histogram", "How long stages took, of CI and of hosts' deployments, as they were told since the hub started.")
	for _, side := range []string{"ci", "host"} {
		for _, stage := range append(slices.Clone(stagesKnown), "other") {
			if hist := c.stages[sideStage{side, string(stage)}]; hist != nil {
				p.Histogram(stages, stageBuckets, hist, "side", side, "stage", string(stage))
			}
		}
	}
	p.Begin("garrison_hub_lead_time_seconds", "histogram", "From a push to a host that is healthy with it, with what it waited between rings.")
	p.Histogram("garrison_hub_lead_time_seconds", leadBuckets, &c.lead)
	p.Begin("garrison_hub_runs_total", "counter", "Runs of CI that ended.")
	for _, s := range []fleet.RunState{fleet.RunReleased, fleet.RunUnchanged, fleet.RunFailed} {
		p.Sample("garrison_hub_runs_total", float64(c.runs[s]), "state", string(s))
	}
	p.Begin("garrison_hub_deployments_total", "counter", "Deployments that hosts told of.")
	for _, r := range append(slices.Clone(fleet.Results), "other") {
		p.Sample("garrison_hub_deployments_total", float64(c.deployments[r]), "result", string(r))
	}
	p.Begin("garrison_hub_reports_total", "counter", "What was told, by how it was answered.")
	for _, kind := range []string{"reports", "deployments", "diffs", "acts", "logs", "runs", "drills"} {
		for _, result := range []string{"taken", "refused", "failed"} {
			p.Sample("garrison_hub_reports_total", float64(c.told[toldResult{kind, result}]), "kind", kind, "result", result)
		}
	}
	p.Begin("garrison_hub_rollout_acts_total", "counter", "What happened in roll-outs.")
	for _, act := range []string{fleet.RolloutPromoted, fleet.RolloutPaused, fleet.RolloutResumed, fleet.RolloutFrozen, fleet.RolloutAborted, fleet.RolloutRebooting, fleet.RolloutComplete} {
		p.Sample("garrison_hub_rollout_acts_total", float64(c.acts[act]), "act", act)
	}
	p.One("garrison_hub_store_errors_total", "counter", "Requests and pages for which the store failed.", float64(c.storeErrors))
}

func (h *Hub) measureListeners(p *metrics.Page) {
	agents, others := h.events.count()
	p.Begin("garrison_hub_stream_listeners", "gauge", "Who listens to the hub's stream: agents for their wakes, others for everything.")
	p.Sample("garrison_hub_stream_listeners", float64(agents), "of", "agents")
	p.Sample("garrison_hub_stream_listeners", float64(others), "of", "others")
}

// MeasureContact adds how the hub's look at git does.
func MeasureContact(p *metrics.Page, c fleet.Contact) {
	p.Flag("garrison_hub_follow_ok", "1 when the hub's last look at the releases succeeded.", c.Failure == nil && !c.LastOK.IsZero())
	p.One("garrison_hub_follow_last_success_timestamp_seconds", "gauge", "When one last did; 0 for never.", metrics.UnixSeconds(c.LastOK))
}

// MeasureDisks adds the space that the hub has.
func MeasureDisks(p *metrics.Page, disks []fleet.Disk) {
	p.Begin("garrison_hub_free_bytes", "gauge", "Free space where the hub's data are.")
	for _, d := range disks {
		p.Sample("garrison_hub_free_bytes", float64(d.FreeBytes), "of", d.Of)
	}
	p.Begin("garrison_hub_size_bytes", "gauge", "Space there in all.")
	for _, d := range disks {
		p.Sample("garrison_hub_size_bytes", float64(d.TotalBytes), "of", d.Of)
	}
}

// MeasureStore adds the size of the store's file.
func MeasureStore(p *metrics.Page, bytes int64) {
	p.One("garrison_hub_store_bytes", "gauge", "Size of the file with what the hub was told.", float64(bytes))
}

// MeasureTrace adds how the export of traces does.
func MeasureTrace(p *metrics.Page, s otlp.Standing) {
	p.Begin("garrison_hub_trace_spans_total", "counter", "Spans by what became of them: sent, or not taken by the collector and dropped.")
	p.Sample("garrison_hub_trace_spans_total", float64(s.Sent), "result", "sent")
	p.Sample("garrison_hub_trace_spans_total", float64(s.Refused), "result", "refused")
	p.Flag("garrison_hub_trace_ok", "0 while the collector takes nothing, and traces wait.", s.Failing.IsZero())
	p.One("garrison_hub_trace_waiting_timestamp_seconds", "gauge", "When the first of what waits happened; 0 for none.", metrics.UnixSeconds(s.Waiting))
}
