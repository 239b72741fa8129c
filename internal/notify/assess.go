package notify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Condition is something that is wrong: an Alert that nobody has opened yet.
type Condition struct {
	Key      string // kind, and what it is about
	Kind     fleet.AlertKind
	Severity fleet.Severity
	Host     string
	Release  string // tag
	Cause    string // conditions of one kind on several hosts with the same are one to tell of; "" stands alone
	Of       string // what hosts with that Cause have in common, as the end of a line: "do not reach git.example.org"
	What     string // in a line
	Detail   string
	Commands []string
	Since    time.Time
}

// Limits say from when on something is wrong.
type Limits struct {
	Fetch       time.Duration // git was not reached by a host, or the hub
	Retrying    time.Duration // a host works at a release
	Push        time.Duration // what a host built does not get into a cache
	Credential  time.Duration // before its end
	Refused     time.Duration // a credential is refused
	Undelivered time.Duration // a sender does not take what it is sent
	// A disk is low with less free than both; with a quarter of that it is critical.
	DiskBytes int64
	DiskShare float64 // of all, 0 to 1
	// TestRuns is how long the failure of a test branch's run is told.
	TestRuns time.Duration
	// Group is from how many hosts on the same thing wrong is told once.
	Group int
	// Hub is the hub's URL for commands; "" leaves it to $GARRISON_HUB.
	Hub string
}

// Defaults are the limits where the configuration has none.
func Defaults() Limits {
	return Limits{Fetch: 15 * time.Minute, Retrying: 30 * time.Minute, Push: time.Hour, Credential: 14 * 24 * time.Hour, Refused: time.Minute, Undelivered: 10 * time.Minute,
		DiskBytes: 5 << 30, DiskShare: 0.1, TestRuns: 24 * time.Hour, Group: 4}
}

const maxDetail = 4 << 10 // bytes

// Assess says all that is wrong, sorted by Key; each Key once.
func (l Limits) Assess(f Facts) []Condition {
	all := l.fleetWide(f)
	for _, s := range f.Hosts {
		all = append(all, l.Host(s, f.Now)...)
	}
	slices.SortStableFunc(all, func(a, b Condition) int { return strings.Compare(a.Key, b.Key) })
	return slices.CompactFunc(all, func(a, b Condition) bool { return a.Key == b.Key })
}

// fleetWide is what is wrong elsewhere than on a host.
func (l Limits) fleetWide(f Facts) []Condition {
	all := l.runs(f)
	all = append(all, l.drills(f)...)
	all = append(all, l.rollout(f)...)
	all = append(all, l.follower(f)...)
	all = append(all, l.credentials("", f.Own, f.Now)...)
	all = append(all, l.disks("", f.Disks, f.Now)...)
	return append(all, l.senders(f)...)
}

// runs looks at the newest run of each branch that came to an end by itself.
func (l Limits) runs(f Facts) (all []Condition) {
	seen := map[string]bool{}
	for _, r := range f.Runs {
		branch := r.Source.Branch
		if seen[branch] || r.State == fleet.RunRunning || r.EndedAt == nil || overtaken(r) {
			continue
		}
		seen[branch] = true
		test := strings.HasSuffix(branch, "-test")
		switch {
		case r.State != fleet.RunFailed:
		case test && f.Now.Sub(*r.EndedAt) > l.TestRuns: // the branch may be gone, and no run will say so
		case !test && f.Newest != nil && f.Newest.CreatedAt.After(*r.EndedAt): // another CI made one since
		default:
			c := Condition{Kind: fleet.AlertRelease, Severity: fleet.Critical, Since: *r.EndedAt, Commands: l.commands(fleet.AlertRelease, about{run: r.ID, by: r.By})}
			if test {
				c.Severity = fleet.Warning
			}
			c.Key = key(c.Kind, branch, short(r.Source.Commit))
			c.What = fmt.Sprintf("CI made no release of %s on %s%s", short(r.Source.Commit), cmp.Or(branch, "the source branch"), at(r.Stage))
			c.Detail = detail(r.Failure)
			if r.Source.Subject != "" {
				c.Detail = bounded("“" + oneLine(r.Source.Subject, 200) + "”\n" + c.Detail)
			}
			all = append(all, c)
		}
	}
	return all
}

// overtaken says whether a run ended for what says nothing of its commit.
func overtaken(r fleet.Run) bool {
	return r.Failure != nil && slices.Contains([]fleet.Code{fleet.CodeSuperseded, fleet.CodeCanceled, fleet.CodeInterrupted, fleet.CodeRace}, r.Failure.Code)
}

// drills looks at the last drill of each place: of a host of this fleet, of a sandbox.
func (l Limits) drills(f Facts) (all []Condition) {
	seen := map[string]bool{}
	for _, d := range f.Drills {
		of := about{where: d.Where}
		k, what := key(fleet.AlertDrill, d.Where), cmp.Or(d.Where, "the fleet")
		if d.Where == "live" {
			of.host, k, what = d.Host, key(fleet.AlertDrill, d.Where, d.Host), d.Host
		}
		if seen[k] {
			continue
		}
		seen[k] = true
		if d.Passed {
			continue
		}
		c := Condition{Kind: fleet.AlertDrill, Severity: fleet.Critical, Since: d.EndedAt, Key: k, Commands: l.commands(fleet.AlertDrill, of)}
		var failed, why []string
		for _, s := range d.Scenarios {
			if s.Result == "fail" {
				failed = append(failed, s.Name)
				why = append(why, s.Name+": "+failedAt(s))
			}
		}
		c.What = fmt.Sprintf("the drill of %s failed: %s", what, cmp.Or(few(failed), "no scenario was run to its end"))
		if d.Error != "" {
			why = append(why, d.Error)
		}
		c.Detail = bounded(strings.Join(why, "\n"))
		all = append(all, c)
	}
	return all
}

// failedAt is what went wrong in a scenario: its first check that failed, and what went wrong beside its checks.
func failedAt(s fleet.DrillScenario) string {
	var all []string
	if i := slices.IndexFunc(s.Checks, func(c fleet.DrillCheck) bool { return c.Result == fleet.DrillFail }); i >= 0 {
		all = append(all, s.Checks[i].Name+": "+oneLine(s.Checks[i].Detail, 500))
	}
	if s.Detail != "" {
		all = append(all, s.Detail)
	}
	return strings.Join(all, "; ")
}

// follower looks at whether the hub sees what is published.
func (l Limits) follower(f Facts) []Condition {
	if f.Follower == nil || f.Follower.Failure == nil {
		return nil
	}
	fail, lasts := f.Follower.Failure, f.Now.Sub(f.Follower.Since)
	c := Condition{Kind: fleet.AlertFollow, Severity: fleet.Warning, Key: key(fleet.AlertFollow), Since: f.Follower.Since, What: "the hub cannot see what is published: " + string(fail.Code),
		Detail: detail(fail), Commands: l.commands(fleet.AlertFollow, about{})}
	switch {
	case refuses(fail) && lasts >= l.Refused:
		c.Kind, c.Severity, c.Key = fleet.AlertCredential, fleet.Critical, key(fleet.AlertCredential, "hub", "git")
		c.What, c.Commands = "the hub's credential for git is refused: "+string(fail.Code), l.commands(fleet.AlertCredential, about{})
	case lasts < l.Fetch:
		return nil
	}
	return []Condition{c}
}

// senders looks at what is not delivered.
func (l Limits) senders(f Facts) (all []Condition) {
	type standing struct {
		oldest, last fleet.Delivery
		pending      int
	}
	by := map[string]*standing{}
	of := func(name string) *standing {
		if by[name] == nil {
			by[name] = &standing{}
		}
		return by[name]
	}
	for _, d := range f.Done { // newest first
		if s := of(d.Sender); s.last.ID == 0 {
			s.last = d
		}
	}
	for _, d := range f.Pending {
		s := of(d.Sender)
		s.pending++
		if d.Attempts > 0 && (s.oldest.ID == 0 || d.At.Before(s.oldest.At)) {
			s.oldest = d
		}
	}
	for name, s := range by {
		c := Condition{Kind: fleet.AlertDelivery, Severity: fleet.Critical, Key: key(fleet.AlertDelivery, name), Commands: l.commands(fleet.AlertDelivery, about{sender: name})}
		switch {
		case s.oldest.ID != 0 && f.Now.Sub(s.oldest.At) >= l.Undelivered:
			c.Since, c.Detail = s.oldest.At, bounded(s.oldest.Error)
			c.What = fmt.Sprintf("the sender %s takes nothing since %s: %d messages wait", name, clock(s.oldest.At), s.pending)
		case s.last.GivenUp:
			c.Since, c.Detail = *s.last.DoneAt, bounded(s.last.Error)
			c.What = fmt.Sprintf("what was to be sent by %s was given up", name)
		default:
			continue
		}
		all = append(all, c)
	}
	return all
}

// credentials are those that end soon, of a host or ("") the hub.
func (l Limits) credentials(host string, list []fleet.Credential, now time.Time) (all []Condition) {
	for _, k := range list {
		left := k.Ends.Sub(now)
		if k.Ends.IsZero() || left > l.Credential {
			continue
		}
		c := Condition{Kind: fleet.AlertCredential, Severity: fleet.Warning, Host: host, Key: key(fleet.AlertCredential, cmp.Or(host, "hub"), k.Name),
			Since: k.Ends.Add(-l.Credential), Commands: l.commands(fleet.AlertCredential, about{host: host}), Cause: "ends " + k.Name}
		c.Of = "have a credential that ends, or has ended: " + k.Name
		c.What = fmt.Sprintf("%s: the credential for %s ends %s", cmp.Or(host, "the hub"), k.Name, day(k.Ends))
		if left <= 0 {
			c.Severity = fleet.Critical
			c.What = fmt.Sprintf("%s: the credential for %s has ended %s", cmp.Or(host, "the hub"), k.Name, day(k.Ends))
		}
		all = append(all, c)
	}
	return all
}

// disks are those with little space left, of a host or ("") the hub.
func (l Limits) disks(host string, list []fleet.Disk, now time.Time) (all []Condition) {
	for _, d := range list {
		enough := min(float64(l.DiskBytes), l.DiskShare*float64(d.TotalBytes))
		if d.TotalBytes <= 0 || float64(d.FreeBytes) >= enough {
			continue
		}
		c := Condition{Kind: fleet.AlertDisk, Severity: fleet.Warning, Host: host, Key: key(fleet.AlertDisk, cmp.Or(host, "hub"), d.Of), Since: now,
			Commands: l.commands(fleet.AlertDisk, about{host: host}), Cause: d.Of, Of: "have little space left for " + d.Of}
		c.What = fmt.Sprintf("%s: %s of %s left for %s", cmp.Or(host, "the hub"), sizeOf(d.FreeBytes), sizeOf(d.TotalBytes), d.Of)
		if float64(d.FreeBytes) < enough/4 {
			c.Severity = fleet.Critical
		}
		all = append(all, c)
	}
	return all
}

// refuses says whether a failure is that something is not let in.
func refuses(f *fleet.Failure) bool {
	return f != nil && (f.Code == fleet.CodeUnauthorized || f.Code == fleet.CodeKey)
}

func key(kind fleet.AlertKind, about ...string) string {
	return strings.Join(append([]string{string(kind)}, about...), ":")
}
