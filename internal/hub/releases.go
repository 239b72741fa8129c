package hub

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
)

// Outcome is of a Deployment what tells how far a release came.
type Outcome struct {
	Host    string
	Release int
	Result  fleet.Result
	Class   fleet.Class // of its failure; "" for none
	Code    fleet.Code
	EndedAt time.Time // to the millisecond
}

// has says whether the host has the release since.
func (o Outcome) has() bool {
	return o.Result == fleet.Committed || o.Result == fleet.RebootNeeded
}

// failed says whether the release failed on the host. What never came to be switched to is no failure of it unless it is to blame for that.
func (o Outcome) failed() bool {
	switch o.Result {
	case fleet.RolledBack, fleet.RollbackFailed:
		return true
	case fleet.NotActivated:
		return o.Class == fleet.Bad
	}
	return false
}

// OutcomeOf is d's.
func OutcomeOf(d fleet.Deployment) Outcome {
	o := Outcome{Host: d.Host, Release: d.Release.Number, Result: d.Result, EndedAt: d.EndedAt.Truncate(time.Millisecond).UTC()}
	if d.Failure != nil {
		o.Class, o.Code = d.Failure.Class, d.Failure.Code
	}
	return o
}

// released is what is known of a release, for its view.
type released struct {
	fleet.Published
	newest   bool
	next     *fleet.Published // that came after it; nil for the newest, and where it is not known
	hosts    []fleet.Status   // as they are now; used of the newest alone
	manifest *fleet.Manifest  // of the newest; nil while it is not known, and hosts are taken at their word
	outcomes []Outcome        // of its deployments, in the order in which they ended
	run      *fleet.Run
	acts     []fleet.RolloutAct // of roll-outs
}

// view says how far a release is. Of the newest that is what hosts say of themselves, as the forge is told it too (Rollout). Of an older one
// it is what became of the deployments of it, on the hosts that it changed:
//
//   - done: a deployment of it was committed there;
//   - failed: none was, and the last one that did not end for want of network, cache or space failed;
//   - superseded: neither, and now there is a newer release.
//
// An older release failed where a host failed; else it is done when all that it changed had it, else superseded.
func (r released) view() fleet.ReleaseView {
	v := fleet.ReleaseView{Published: r.Published, Run: r.run}
	if r.newest {
		r.viewNewest(&v)
	} else {
		r.viewOlder(&v)
	}
	slices.SortFunc(v.Progress, func(a, b fleet.HostProgress) int { return strings.Compare(a.Host, b.Host) })
	v.Rings, v.Stops = wayOf(r.Release.Number, r.acts)
	return v
}

func (r released) viewNewest(v *fleet.ReleaseView) {
	at, known, confirmed := stood{}, map[string]bool{}, map[string]time.Time{}
	changed, manual := setOf(r.Changed), setOf(r.Manual)
	add := func(s fleet.Status) {
		known[s.Host] = true
		system := ""
		if r.manifest != nil {
			system = r.manifest.Hosts[s.Host].OutPath
		}
		where, why := standingOf(s, r.Release.Number, r.CreatedAt, system)
		if where > done && s.Seen != nil && s.Seen.Silent != nil {
			where, why = away, ""
		}
		at.add(where, s.Host, why)
		p := fleet.HostProgress{Host: s.Host, Standing: where.String(), Why: why}
		if where == done {
			if changed[s.Host] {
				confirmed[s.Host] = s.Active.At
			} else {
				p.Standing = standingUnchanged
			}
		}
		v.Progress = append(v.Progress, p)
	}
	for _, s := range r.hosts {
		if !manual[s.Host] && (s.Seen == nil || !s.Seen.Gone) {
			add(s)
		}
	}
	for _, h := range r.Changed { // whose host nobody has heard of
		if !known[h] {
			add(fleet.Status{Host: h})
		}
	}
	state, text := at.text(max(r.Hosts, len(v.Progress)))
	v.Text = text
	switch state {
	case forge.Failure:
		v.State = fleet.ReleaseFailed
	case forge.Success:
		v.State = fleet.ReleaseDone
		v.DoneAt, v.WaitedSeconds = r.doneAt(confirmed)
	default:
		v.State = fleet.ReleaseUnderWay
	}
}

const (
	standingUnchanged  = "unchanged"
	standingSuperseded = "superseded"
)

func (r released) viewOlder(v *fleet.ReleaseView) {
	last := map[string]Outcome{} // that tells most
	for _, o := range r.outcomes {
		if before, ok := last[o.Host]; !ok || !before.has() && (o.has() || o.failed() || !before.failed()) {
			last[o.Host] = o
		}
	}
	hosts, changed := slices.Clone(r.Changed), setOf(r.Changed)
	for h := range last {
		if !changed[h] {
			hosts = append(hosts, h) // it had not the release before
		}
	}
	had, at := 0, stood{}
	for _, h := range hosts {
		o, ok := last[h]
		p := fleet.HostProgress{Host: h}
		switch {
		case ok && o.has():
			p.Standing = done.String()
			had++
		case ok && o.failed():
			p.Standing, p.Why = failed.String(), whyOf(o)
			at.add(failed, h, p.Why)
		default:
			p.Standing = standingSuperseded
			if ok {
				p.Why = whyOf(o)
			}
		}
		v.Progress = append(v.Progress, p)
	}
	parts := []string{fmt.Sprintf("%d of %d hosts had it", had, len(hosts))}
	switch {
	case len(hosts) == 0:
		parts[0] = "changed no host"
	case had == len(hosts) && had == 1:
		parts[0] = "its one host had it"
	case had == len(hosts):
		parts[0] = fmt.Sprintf("all %d hosts had it", had)
	}
	parts = append(parts, at.wanting()...)
	switch {
	case len(at[failed]) > 0:
		v.State = fleet.ReleaseFailed
	case had == len(hosts):
		v.State = fleet.ReleaseDone
		v.DoneAt, v.WaitedSeconds = r.doneAt(nil)
	default:
		v.State = fleet.ReleaseSuperseded
		if r.next != nil {
			parts = append(parts, "superseded by "+r.next.Release.Name())
		}
	}
	if r.next != nil && r.next.RollbackTo > 0 {
		parts = append(parts, "taken back by "+r.next.Release.Name())
	}
	v.Text = strings.Join(parts, "; ")
}

func setOf(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[n] = true
	}
	return set
}

func whyOf(o Outcome) string {
	if o.Code == "" {
		return string(o.Result)
	}
	return string(o.Result) + ", " + string(o.Code)
}

// doneAt is when the last of the hosts that the release changed had it, confirmed being their word for it where no deployment is known, and how many seconds of
// that it waited between rings; nil when that is not known of all.
func (r released) doneAt(confirmed map[string]time.Time) (*time.Time, float64) {
	first, arrived := map[string]time.Time{}, map[string]time.Time{}
	for _, o := range r.outcomes {
		if _, ok := first[o.Host]; !ok && o.has() {
			first[o.Host] = o.EndedAt
		}
	}
	var last time.Time
	for _, h := range r.Changed {
		at, ok := first[h]
		if !ok {
			at, ok = confirmed[h]
		}
		if !ok || at.IsZero() {
			return nil, 0
		}
		arrived[h], last = at, later(last, at)
	}
	if last.IsZero() {
		return nil, 0
	}
	return &last, waited(r.CreatedAt, last, givenAt(r.Release.Number, r.acts), arrived).Seconds()
}

// Releases are those with a number below before (0: the newest), newest first, at most so many, without their Progress. One that the hub has not seen is missing.
func (h *Hub) Releases(ctx context.Context, before, most int) ([]fleet.ReleaseView, error) {
	list, err := h.released(ctx, before, most)
	if err != nil || len(list) == 0 {
		return []fleet.ReleaseView{}, err
	}
	outcomes, err := h.Store.Outcomes(ctx, time.Time{}, list[len(list)-1].Release.Number, list[0].Release.Number)
	if err != nil {
		return nil, err
	}
	of := map[int][]Outcome{}
	for _, o := range outcomes {
		of[o.Release] = append(of[o.Release], o)
	}
	views := make([]fleet.ReleaseView, len(list))
	for i, r := range list {
		r.outcomes = of[r.Release.Number]
		views[i] = r.view()
		views[i].Progress = nil
	}
	return views, nil
}

// Release is one release with the progress of every host that it concerns; false when the hub has not seen it.
func (h *Hub) Release(ctx context.Context, number int) (fleet.ReleaseView, bool, error) {
	list, err := h.released(ctx, number+1, 1)
	if err != nil || len(list) == 0 || list[0].Release.Number != number {
		return fleet.ReleaseView{}, false, err
	}
	deployments, err := h.Store.DeploymentsOf(ctx, number)
	if err != nil {
		return fleet.ReleaseView{}, false, err
	}
	slices.SortStableFunc(deployments, func(a, b fleet.Deployment) int { return a.EndedAt.Compare(b.EndedAt) })
	last := map[string]*fleet.Deployment{}
	r := list[0]
	for i, d := range deployments {
		r.outcomes = append(r.outcomes, OutcomeOf(d))
		last[d.Host] = &deployments[i]
	}
	v := r.view()
	for i, p := range v.Progress {
		v.Progress[i].Deployment = last[p.Host]
	}
	return v, true, nil
}

// released are releases with what is known of them but their outcomes.
func (h *Hub) released(ctx context.Context, before, most int) ([]released, error) {
	all, err := h.Store.Releases(ctx, 0, 1)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	newest := all[0].Release.Number
	if before > 0 { // and, if it is known, the one after them
		all, err = h.Store.Releases(ctx, before+1, most+1)
	} else {
		all, err = h.Store.Releases(ctx, 0, most)
	}
	if err != nil {
		return nil, err
	}
	runs, err := h.runsOf(ctx, all)
	if err != nil {
		return nil, err
	}
	acts, err := h.acts(ctx)
	if err != nil {
		return nil, err
	}
	var list []released
	for i, p := range all {
		r := released{Published: p, newest: p.Release.Number == newest, run: runs[p.Release.Number], acts: acts}
		if i > 0 {
			r.next = &all[i-1]
		}
		if before > 0 && p.Release.Number >= before || len(list) == most {
			continue
		}
		if r.newest {
			if r.hosts, err = h.Hosts(ctx); err != nil {
				return nil, err
			}
			if m := h.Newest(); m != nil && m.Number == newest {
				r.manifest = m
			}
		}
		list = append(list, r)
	}
	return list, nil
}

// runsLooked is how many of the newest runs are searched for those that made releases.
const runsLooked = 1000

// runsOf are the runs that made releases, by their number.
func (h *Hub) runsOf(ctx context.Context, all []fleet.Published) (map[int]*fleet.Run, error) {
	of := map[int]*fleet.Run{}
	if len(all) == 0 {
		return of, nil
	}
	runs, err := h.Store.Runs(ctx, runsLooked)
	for i, r := range runs {
		if r.Release != nil && r.Release.Test == "" && r.State == fleet.RunReleased {
			of[r.Release.Number] = &runs[i]
		}
	}
	return of, err
}
