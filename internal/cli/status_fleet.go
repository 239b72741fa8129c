package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// overview is a fleet in one look.
type overview struct {
	Schema  int                    `json:"schema"`
	Verdict verdict                `json:"verdict"`
	Said    string                 `json:"said"` // in a line
	Counts  map[fleet.Standing]int `json:"counts"`
	Newest  *fleet.ReleaseView     `json:"newest,omitempty"` // without progress
	// Alerts are the open ones; missing where the hub knows of none.
	Alerts []fleet.Alert `json:"alerts,omitempty"`
	// Rollout is the newest release's way through the rings; missing where the fleet has none.
	Rollout *fleet.Rollout `json:"rollout,omitempty"`
	Hosts   []fleet.Status `json:"hosts"` // problems first; of one standing ring by ring
}

// verdict says whether all is well.
type verdict string

const (
	isWell   verdict = "well"
	warnings verdict = "warnings"  // of the hosts all is well, but there are alerts
	underWay verdict = "under-way" // to the newest release, or waiting for its time or a person
	notWell  verdict = "not-well"
)

// fleetStatus shows all hosts that a hub knows.
func (a *app) fleetStatus(ctx context.Context, f *from, asJSON bool) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	o, err := f.overview(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		err = a.json(o)
	} else {
		a.tellOverview(o)
	}
	for _, s := range o.Hosts { // not converged is worse than switched by hand
		switch o.standing(s) {
		case fleet.AllWell, fleet.Manual, fleet.Gone:
		case fleet.ByHand:
			if err == nil {
				err = exitCode(ExitCode(&fleet.Error{Code: fleet.CodeDiffers}))
			}
		default:
			return exitCode(ExitCode(&fleet.Error{Code: fleet.CodeNotConverged}))
		}
	}
	return err
}

// get asks the hub for something in JSON; false where it does not have that.
func (f *from) get(ctx context.Context, path string, into any) (bool, error) {
	resp, err := openHub(ctx, f.hub, f.tokenFile, http.MethodGet, path)
	if fleet.CodeOf(err) == fleet.CodeNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	return true, readAnswer(resp.Body, into)
}

func (f *from) overview(ctx context.Context) (overview, error) {
	o := overview{Schema: fleet.StatusSchema, Hosts: []fleet.Status{}, Counts: map[fleet.Standing]int{}}
	if _, err := f.get(ctx, "/api/v1/hosts", &o.Hosts); err != nil {
		return o, err
	}
	var releases []fleet.ReleaseView
	if _, err := f.get(ctx, "/api/v1/releases?n=1", &releases); err != nil {
		return o, err
	}
	if len(releases) > 0 {
		o.Newest = &releases[0]
	}
	if _, err := f.get(ctx, "/api/v1/alerts", &o.Alerts); err != nil {
		return o, err
	}
	var err error
	if o.Rollout, err = f.rollout(ctx); err != nil {
		return o, err
	}
	o.sum()
	return o, nil
}

// rollout asks the hub for the roll-out; nil where it knows of none, or the fleet has no rings. That it does not know yet is no reason not to show all else.
func (f *from) rollout(ctx context.Context) (*fleet.Rollout, error) {
	var v fleet.Rollout
	found, err := f.get(ctx, "/api/v1/rollout", &v)
	if fleet.ClassOf(err) == fleet.Transient && ctx.Err() == nil {
		return nil, nil
	}
	if err != nil || !found || len(v.Rings) == 0 {
		return nil, err
	}
	return &v, nil
}

// ringOf is the place of a host's ring and batch among all.
func (o *overview) ringOf(s fleet.Status) (place int) {
	if o.Rollout == nil || s.Ring == "" {
		return 0
	}
	at := slices.IndexFunc(o.Rollout.Rings, func(r fleet.RolloutRing) bool { return r.Name == s.Ring })
	return (at+1)*fleet.MaxBatches + s.Batch
}

// ringText is a host's ring in a cell of a table.
func ringText(s fleet.Status) string {
	switch {
	case s.Ring == "":
		return "–"
	case s.Batch > 1:
		return fmt.Sprintf("%s.%d", s.Ring, s.Batch)
	}
	return s.Ring
}

func (o *overview) standing(s fleet.Status) fleet.Standing {
	if o.Newest == nil {
		return s.Standing(0)
	}
	return s.Standing(o.Newest.Release.Number)
}

// sum sorts the hosts, counts them, and says whether all is well.
func (o *overview) sum() {
	order := fleet.Standings()
	slices.SortStableFunc(o.Hosts, func(a, b fleet.Status) int {
		return cmp.Or(cmp.Compare(slices.Index(order, o.standing(a)), slices.Index(order, o.standing(b))), cmp.Compare(o.ringOf(a), o.ringOf(b)), strings.Compare(a.Host, b.Host))
	})
	for _, s := range o.Hosts {
		o.Counts[o.standing(s)]++
	}
	critical := 0
	for _, al := range o.Alerts {
		if al.Severity == fleet.Critical {
			critical++
		}
	}
	some := func(list ...fleet.Standing) bool {
		return slices.ContainsFunc(list, func(s fleet.Standing) bool { return o.Counts[s] > 0 })
	}
	o.Verdict = isWell
	switch {
	case critical > 0 || some(fleet.Failed, fleet.Silent, fleet.Retrying, fleet.ByHand):
		o.Verdict = notWell
	case some(fleet.Waiting, fleet.UnderWay), len(o.Hosts) == 0:
		o.Verdict = underWay
	case len(o.Alerts) > 0:
		o.Verdict = warnings
	}
	parts := []string{o.hostsInWords()}
	switch {
	case len(o.Alerts) == 0:
		parts = append(parts, "no open alerts")
	case critical > 0:
		parts = append(parts, fmt.Sprintf("%s, %d critical", count(len(o.Alerts), "open alert"), critical))
	default:
		parts = append(parts, count(len(o.Alerts), "open alert"))
	}
	if o.Newest == nil {
		parts = append(parts, "no release was seen yet")
	} else {
		parts = append(parts, o.Newest.Release.Name()+" ("+string(o.Newest.State)+"): "+o.Newest.Text)
	}
	o.Said = strings.Join(parts, "; ")
}

func (o *overview) hostsInWords() string {
	var kinds []string
	for _, s := range fleet.Standings() {
		if n := o.Counts[s]; n > 0 {
			kinds = append(kinds, fmt.Sprintf("%d %s", n, s))
		}
	}
	switch {
	case len(o.Hosts) == 0:
		return "no host has reported yet"
	case len(kinds) == 1 && o.Counts[fleet.AllWell] > 0:
		return count(len(o.Hosts), "host") + " converged"
	}
	return count(len(o.Hosts), "host") + ": " + strings.Join(kinds, ", ")
}

// count says a number of things.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func (a *app) tellOverview(o overview) {
	s := a.console()
	colour := map[verdict]ink{isWell: green, warnings: yellow, underWay: blue, notWell: red}[o.Verdict]
	words := map[verdict]string{isWell: "All is well", warnings: "Well, but for alerts", underWay: "Under way", notWell: "NOT WELL"}[o.Verdict]
	fmt.Fprintln(s.to, s.paint(strong+colour, words)+": "+visible(o.Said))
	for _, al := range o.Alerts {
		s.line(inkOfSeverity(al.Severity), "  %s since %s: %s", al.Severity, ago(al.Since), al.What)
		for _, c := range al.Commands {
			s.line(plain, "    → %s", c)
		}
	}
	if o.Rollout != nil {
		s.rollout(*o.Rollout, time.Now(), true)
	}
	if len(o.Hosts) == 0 {
		return
	}
	fmt.Fprintln(s.to)
	rows := [][]cell{header("HOST", "STATE", "ACTIVE", "NEWEST", "SINCE", "REPORTED", "WHAT")}
	if o.Rollout != nil {
		rows[0] = slices.Insert(rows[0], 1, header("RING")...)
	}
	for _, h := range o.Hosts {
		where := o.standing(h)
		active := (*fleet.ReleaseRef)(nil)
		if h.Active != nil {
			active = &h.Active.Release
		}
		since, reported := h.Since, h.At
		if h.Seen != nil {
			reported = h.Seen.At
			if h.Seen.Silent != nil {
				since = *h.Seen.Silent
			}
		}
		sinceText := "–"
		if !since.IsZero() {
			sinceText = ago(since)
		}
		row := []cell{{h.Host, plain}, {string(where), inkOf(where)}, {numberOf(active), plain}, {numberOf(h.Newest), plain}, {sinceText, plain}, {ago(reported), plain}, {whatOf(h), plain}}
		if o.Rollout != nil {
			row = slices.Insert(row, 1, cell{ringText(h), plain})
		}
		rows = append(rows, row)
	}
	s.table(rows)
}

func inkOfSeverity(s fleet.Severity) ink {
	if s == fleet.Critical {
		return red
	}
	return yellow
}

func numberOf(r *fleet.ReleaseRef) string {
	switch {
	case r == nil:
		return "–"
	case r.Number == 0:
		return r.Name()
	}
	return strconv.Itoa(r.Number)
}

// whatOf says in a line what a host is about.
func whatOf(h fleet.Status) string {
	what := h.Summary()
	if h.Failure != nil {
		what = firstLine(h.Failure.Message)
	}
	switch {
	case h.Phase == fleet.PhaseUnheard && h.Seen != nil && h.Seen.Silent != nil:
		return "named by releases since " + fleet.Moment(*h.Seen.Silent) + ", and never reported"
	case h.Phase == fleet.PhaseUnheard:
		return "has not reported yet"
	case h.Seen != nil && h.Seen.Gone:
		return "the newest release does not name it; said last: " + what
	case h.Seen != nil && h.Seen.Silent != nil:
		return "silent since " + fleet.Moment(*h.Seen.Silent) + "; said last: " + what
	}
	return what
}
