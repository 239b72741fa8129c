package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// timeline shows the newest n releases that a hub saw.
func (a *app) timeline(ctx context.Context, f *from, n int, asJSON bool) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	releases := []fleet.ReleaseView{}
	for len(releases) < n {
		path := fmt.Sprintf("/api/v1/releases?n=%d", min(100, n-len(releases)))
		if len(releases) > 0 {
			path += fmt.Sprintf("&before=%d", releases[len(releases)-1].Release.Number)
		}
		var page []fleet.ReleaseView
		if _, err := f.get(ctx, path, &page); err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		releases = append(releases, page...)
	}
	if asJSON {
		return a.json(releases)
	}
	a.tellTimeline(releases)
	return nil
}

func (a *app) tellTimeline(releases []fleet.ReleaseView) {
	s := a.console()
	if len(releases) == 0 {
		s.line(plain, "the hub has not seen a release yet")
		return
	}
	rows := [][]cell{header("RELEASE", "WHEN", "STATE", "LEAD", "CHANGED", "WHO", "CHANGE")}
	for _, r := range releases {
		colour := map[fleet.ReleaseState]ink{fleet.ReleaseDone: green, fleet.ReleaseFailed: red, fleet.ReleaseUnderWay: blue}[r.State]
		lead := "–"
		if d, ok := r.LeadTime(); ok {
			lead = spell(d)
		}
		source := r.Release.Source
		rows = append(rows, []cell{{strconv.Itoa(r.Release.Number), strong}, {r.CreatedAt.Local().Format(time.DateTime), plain}, {string(r.State), colour}, {lead, plain},
			{fmt.Sprintf("%d of %d", len(r.Changed), r.Hosts), plain}, {orElse(source.Author, "–"), plain}, {short(source.Commit) + " " + source.Subject, plain}})
		if r.State != fleet.ReleaseDone {
			rows = append(rows, []cell{{}, {}, {}, {}, {}, {}, {"  " + r.Text, colour}})
		}
		if way := wayInWords(r); way != "" {
			rows = append(rows, []cell{{}, {}, {}, {}, {}, {}, {"  " + way, plain}})
		}
	}
	s.table(rows)
}

// wayInWords says in a line when which ring was given a release, and what stopped it; "" where nothing is known of that.
func wayInWords(r fleet.ReleaseView) string {
	day := r.CreatedAt.Local().Format(time.DateOnly)
	when := func(t time.Time) string {
		if t = t.Local(); t.Format(time.DateOnly) != day {
			return t.Format("2006-01-02 15:04")
		}
		return t.Format("15:04")
	}
	var parts []string
	for _, g := range r.Rings {
		part := g.Ring + " " + when(g.At)
		if g.Batches > 1 {
			part += fmt.Sprintf(" to %s (%d batches)", when(g.Whole), g.Batches)
		}
		parts = append(parts, part)
	}
	for _, a := range r.Stops {
		part := a.Act + " " + when(a.At)
		if a.Ring != "" {
			part += " at " + a.Ring
		}
		parts = append(parts, part)
	}
	if wait := time.Duration(r.WaitedSeconds * float64(time.Second)); wait >= time.Second {
		parts = append(parts, "waited "+spell(wait)+" of it between rings")
	}
	return strings.Join(parts, ", ")
}

// stats shows a fleet's figures over the last days.
func (a *app) stats(ctx context.Context, f *from, days int, asJSON bool) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var st fleet.Stats
	found, err := f.get(ctx, fmt.Sprintf("/api/v1/stats?days=%d", days), &st)
	if err == nil && !found {
		err = fleet.Errorf(fleet.Local, fleet.CodeNotFound, "the hub %s knows no figures", f.hub).WithHint("is it older than this garrison?")
	}
	if err != nil {
		return err
	}
	if asJSON {
		return a.json(st)
	}
	s := a.console()
	rate := "–"
	if st.ChangeFailureRate != nil {
		rate = fmt.Sprintf("%.1f %%: %s failed on a host or was taken back", *st.ChangeFailureRate*100, count(st.ChangeFailures, "release"))
	}
	s.line(strong, "The last %s: %s, %s", count(days, "day"), count(st.Releases, "release"), count(st.Deployments, "deployment"))
	rows := [][]cell{cells("lead time", spreadInWords(st.LeadTime)+", from push to the last host")}
	if st.WorkTime != nil {
		rows = append(rows, cells("of it at work", spreadInWords(st.WorkTime)+", without the waiting between rings"))
	}
	s.table(append(rows,
		cells("change failure rate", rate),
		cells("time to restore", spreadInWords(st.TimeToRestore)+", of a host whose deployment failed"),
		cells("runs of CI", fmt.Sprintf("%d, of which %d failed", st.Runs, st.RunsFailed)),
	))
	return nil
}

func spreadInWords(s *fleet.Spread) string {
	if s == nil {
		return "–"
	}
	seconds := func(n float64) string { return spell(time.Duration(n * float64(time.Second))) }
	return fmt.Sprintf("median %s, p95 %s, at most %s (%s)", seconds(s.Median), seconds(s.P95), seconds(s.Most), count(s.Count, "case"))
}

// spell says how long d is, in the two units that matter.
func spell(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days %d h", int(d.Hours())/24, int(d.Hours())%24)
}
