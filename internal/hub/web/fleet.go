package web

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// fleetView is the page of all hosts.
type fleetView struct {
	Newest  *fleet.Manifest // nil while none is known
	Counts  []count
	All     int
	Rows    []row
	Hidden  int // by the filter
	Query   query
	Running *fleet.Run // of CI
	Rollout *rolloutView
	of      map[fleet.Standing]int
	newest  int
}

// verdict is the answer to whether all is well.
type verdict struct {
	Class, Symbol, Text, More string
}

// count is how many hosts have a standing.
type count struct {
	Standing fleet.Standing
	N        int
	X, W     float64 // of its part of the bar, percent
	Link     string  // to these hosts alone, or back to all
	Chosen   bool
}

// row is a host in the table.
type row struct {
	fleet.Status
	Is     fleet.Standing
	Said   string // the phase in words
	Wrong  string
	SeenAt time.Time
}

// query is what of the hosts is shown, and in which order.
type query struct {
	Search, Standing, Sort string
	Down                   bool // the other way round
}

// sorts are the columns that hosts can be sorted by. Each goes by name where hosts are alike.
func sorts() map[string]func(a, b row) int {
	number := func(r *fleet.ReleaseRef) int {
		if r == nil {
			return -1
		}
		return r.Number
	}
	active := func(r row) int {
		if r.Active == nil {
			return -1
		}
		return r.Active.Release.Number
	}
	order := map[fleet.Standing]int{}
	for i, s := range fleet.Standings() {
		order[s] = i
	}
	return map[string]func(a, b row) int{
		"state":    func(a, b row) int { return cmp.Compare(order[a.Is], order[b.Is]) },
		"host":     func(a, b row) int { return strings.Compare(a.Host, b.Host) },
		"active":   func(a, b row) int { return cmp.Compare(active(a), active(b)) },
		"newest":   func(a, b row) int { return cmp.Compare(number(a.Newest), number(b.Newest)) },
		"since":    func(a, b row) int { return b.Since.Compare(a.Since) },
		"reported": func(a, b row) int { return b.SeenAt.Compare(a.SeenAt) },
	}
}

func queryOf(v url.Values) query {
	q := query{Search: brief(strings.TrimSpace(v.Get("q")), 100, ""), Sort: "state", Down: v.Get("down") != ""}
	if by := v.Get("sort"); sorts()[by] != nil {
		q.Sort = by
	}
	if s := fleet.Standing(v.Get("state")); slices.Contains(fleet.Standings(), s) {
		q.Standing = string(s)
	}
	return q
}

func (q query) link() string {
	v := url.Values{}
	for name, value := range map[string]string{"q": q.Search, "state": q.Standing} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.Sort != "state" {
		v.Set("sort", q.Sort)
	}
	if q.Down {
		v.Set("down", "1")
	}
	if len(v) == 0 {
		return "/"
	}
	return "/?" + v.Encode()
}

// By is a link to the same hosts, sorted by a column; the other way round if they are sorted by it.
func (q query) By(column string) string {
	q.Down = q.Sort == column && !q.Down
	q.Sort = column
	return q.link()
}

// Sorted is what a screen reader says of a column.
func (q query) Sorted(column string) string {
	switch {
	case q.Sort != column:
		return "none"
	case q.Down:
		return "descending"
	}
	return "ascending"
}

func (q query) shows(r row) bool {
	if q.Standing != "" && string(r.Is) != q.Standing {
		return false
	}
	if q.Search == "" {
		return true
	}
	text := strings.ToLower(r.Host + " " + string(r.Is) + " " + r.Said + " " + r.Wrong)
	for _, word := range strings.Fields(strings.ToLower(q.Search)) {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}

func rowOf(s fleet.Status, newest int, now time.Time, silent time.Duration) row {
	r := row{Status: s, Is: s.Standing(newest), Said: s.Meaning(), SeenAt: s.At}
	if s.Seen != nil {
		r.SeenAt = s.Seen.At
	}
	switch {
	case r.Is == fleet.Silent && r.SeenAt.IsZero():
		r.Said, r.Wrong = "has never reported", "its agent does not run, or does not reach this hub"
	case r.Is == fleet.Silent:
		r.Said, r.Wrong = "last said: "+s.Meaning(), "has not reported for "+span(now.Sub(r.SeenAt).Seconds())
	case r.Is == fleet.AllWell && overdue(s, now, silent):
		// Hosts are given time after the hub was away; what they said before that is not what they are.
		r.Is, r.Said = fleet.UnderWay, "has not reported since the hub is back"
	case r.Is == fleet.Gone:
		r.Said = "is in no release any more"
	case r.Is == fleet.UnderWay && s.Phase == fleet.PhaseIdle:
		r.Said = "has not seen " + fleet.TagName(newest) + " yet"
	}
	if r.Wrong == "" {
		r.Wrong = wrong(s)
	}
	return r
}

// overdue says whether a report is older than a host that is well would leave it, whatever the reason.
func overdue(s fleet.Status, now time.Time, silent time.Duration) bool {
	return s.Seen != nil && silent > 0 && now.Sub(s.Seen.At) > max(0, s.NextPoll.Sub(s.At))+silent
}

// wrong is what is wrong with a host that reports, in a line; "" for nothing.
func wrong(s fleet.Status) string {
	for _, c := range []struct {
		is   bool
		what string
		f    *fleet.Failure
	}{
		{s.Refused != nil, "refused", failureOf(s.Refused)},
		{s.Failure != nil, "", s.Failure},
		{s.Reboot != nil && s.Reboot.Failure != nil, "reboot", rebootFailure(s.Reboot)},
		{s.Remote.Failure != nil, "git", s.Remote.Failure},
		{s.Push.Failure != nil, "push", s.Push.Failure},
	} {
		if c.is && c.what != "" {
			return c.what + ": " + fleet.FirstLine(c.f.Message)
		} else if c.is {
			return fleet.FirstLine(c.f.Message)
		}
	}
	switch {
	case s.Suspended != nil:
		return "suspended until " + fleet.Moment(s.Suspended.Until)
	case s.Drift && s.Phase != fleet.PhaseOverruled:
		return "somebody switched it by hand"
	case s.Reboot != nil && s.Reboot.Needed:
		return "reboot " + s.Reboot.Meaning()
	}
	return ""
}

func failureOf(r *fleet.Refusal) *fleet.Failure {
	if r == nil {
		return nil
	}
	return &r.Failure
}

func rebootFailure(b *fleet.Reboot) *fleet.Failure {
	if b == nil {
		return nil
	}
	return b.Failure
}

// fleet is the page of all hosts; with ?rows=a,b the table has these alone, for the script.
func (s *server) fleet(r *http.Request) (page, error) {
	hosts, err := s.Hub.Hosts(r.Context())
	if err != nil {
		return page{}, err
	}
	runs, err := s.Hub.Store.Runs(r.Context(), 1)
	if err != nil {
		return page{}, err
	}
	now := time.Now()
	v := fleetView{Newest: s.Hub.Newest(), All: len(hosts), Query: queryOf(r.URL.Query())}
	newest := 0
	if v.Newest != nil {
		newest = v.Newest.Number
	}
	if len(runs) > 0 && runs[0].State == fleet.RunRunning {
		v.Running = &runs[0]
	}
	var only []string
	if rows := r.URL.Query().Get("rows"); rows != "" {
		only = strings.Split(rows, ",")
	}
	of := map[fleet.Standing]int{}
	for _, h := range hosts {
		row := rowOf(h, newest, now, s.Hub.Silent)
		of[row.Is]++
		switch {
		case !v.Query.shows(row):
			v.Hidden++
		case only == nil || slices.Contains(only, row.Host):
			v.Rows = append(v.Rows, row)
		}
	}
	by := sorts()[v.Query.Sort]
	slices.SortStableFunc(v.Rows, func(a, b row) int {
		c := by(a, b)
		if v.Query.Down {
			c = -c
		}
		return cmp.Or(c, strings.Compare(a.Host, b.Host))
	})
	v.Counts = counts(of, len(hosts), v.Query)
	v.Rollout = s.rollout(r.Context(), 0)
	p := page{Title: "Fleet", Template: "fleet.html", Nav: "fleet", Live: "host run event"}
	v.of, v.newest = of, newest
	p.Body = v
	return p, nil
}

func counts(of map[fleet.Standing]int, all int, q query) []count {
	var list []count
	x := 0.0
	for _, standing := range fleet.Standings() {
		n := of[standing]
		if n == 0 && q.Standing != string(standing) {
			continue
		}
		c := count{Standing: standing, N: n, Chosen: q.Standing == string(standing), X: x}
		if all > 0 {
			c.W = 100 * float64(n) / float64(all)
		}
		x += c.W
		to := q
		if to.Standing = string(standing); c.Chosen {
			to.Standing = ""
		}
		c.Link = to.link()
		list = append(list, c)
	}
	return list
}

// Verdict says whether all is well, in a sentence; alerts is how many are open.
func (f fleetView) Verdict(alerts int) verdict {
	of, all, newest := f.of, f.All, f.newest
	well := of[fleet.AllWell] + of[fleet.Manual] + of[fleet.Gone]
	bad := of[fleet.Failed] + of[fleet.Silent]
	v := verdict{Class: "good", Symbol: "✓", Text: "All is well."}
	switch {
	case all == 0:
		return verdict{"calm", "○", "No host has reported yet.", "Hosts appear here with their agents' first report."}
	case alerts > 0:
		v = verdict{Class: "bad", Symbol: "✕", Text: plural(alerts, "alert is", "alerts are") + " open."}
	case bad > 0:
		v = verdict{Class: "bad", Symbol: "✕", Text: plural(bad, "host needs", "hosts need") + " somebody."}
	case of[fleet.Retrying]+of[fleet.ByHand]+of[fleet.Waiting] > 0:
		v = verdict{Class: "warn", Symbol: "!", Text: "Nothing has failed, but not all is in place."}
	case well < all:
		v = verdict{Class: "busy", Symbol: "→", Text: "A change is under way."}
	}
	v.More = fmt.Sprintf("%d of %s", of[fleet.AllWell], plural(all, "host is", "hosts are")) + " converged"
	if newest > 0 {
		v.More += " on " + fleet.TagName(newest)
	}
	v.More += "."
	return v
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}
