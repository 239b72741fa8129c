package drill

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// journey is one visible change's way, as CI's run and the host's deployment tell it, without holes and overlaps.
type journey struct {
	fleet.DrillChange
	last time.Time // end of the last span
}

// The stages that are none of a fleet's.
const (
	stagePush     = "git-push"
	stageCINotice = "ci-notice"
	stageCIFetch  = "ci-fetch"
	stageNotice   = "notice"
	stageBetween  = "between"
	stageCI       = "ci"
	stageHost     = "host"
)

// ofCI and ofHost are where a stage is; "" is neither.
const (
	ofCI   = "ci"
	ofHost = "host"
)

// stages are in the order of a change's way, with what is done in them, and what the time goes to in which somebody else's program is at work.
var stages = []struct {
	name, where, what string
	part              fleet.DrillPart
}{
	{stagePush, "", "the push itself, until the hub has heard of it", fleet.PartGit},
	{stageCINotice, "", "until CI has begun: woken, or by its poll", fleet.PartOwn},
	{stageCIFetch, ofCI, "CI fetches main and the last release", fleet.PartGit},
	{string(fleet.Evaluate), ofCI, "every host, once", fleet.PartNix},
	{string(fleet.Rekey), ofCI, "secrets, from the editors' keys to the hosts'", fleet.PartGit},
	{string(fleet.Build), ofCI, "the hosts' systems", fleet.PartNix},
	{string(fleet.Push), ofCI, "closures to the cache", fleet.PartTransfer},
	{string(fleet.Publish), ofCI, "release branch and signed tag, both or none", fleet.PartGit},
	{stageCI, ofCI, "until CI was seen to have released it", fleet.PartWaiting},
	{stageNotice, "", "until the host has begun to look: woken, or by its poll", fleet.PartOwn},
	{string(fleet.Fetch), ofHost, "the host looks at the release branch", fleet.PartGit},
	{string(fleet.Verify), ofHost, "signature, fast-forward, number", fleet.PartGit},
	{string(fleet.Staging), ofHost, "closure from the cache, signatures checked; or built", fleet.PartTransfer},
	{string(fleet.Gate), "", "confirmation, window, suspension", fleet.PartWaiting},
	{string(fleet.Activate), ofHost, "switch-to-configuration test", fleet.PartSwitch},
	{string(fleet.Check), ofHost, "until units have settled; did any fail, the host's checks", fleet.PartWaiting},
	{string(fleet.Commit), ofHost, "profile and boot entry", fleet.PartSwitch},
	{stageHost, ofHost, "until the host was seen to have it", fleet.PartWaiting},
	{stageBetween, "", "from one stage to the next", fleet.PartOwn},
}

// stageOf are the words on a stage: where it is, and what its tools' time goes to.
func stageOf(name string) (where string, part fleet.DrillPart) {
	for _, s := range stages {
		if s.name == name {
			return s.where, s.part
		}
	}
	return "", fleet.PartOwn
}

// journeyOf puts stages on one line. What passes between two of them is Garrison's own, and so is the time until CI, or the host, has begun, when
// it was told to look; when it was not, that is waiting for its poll.
func journeyOf(p pushed, run *fleet.Run, d *fleet.Deployment) journey {
	j := journey{DrillChange: fleet.DrillChange{Commit: p.commit, PushedAt: p.at.UTC()}, last: p.at}
	if run != nil && len(run.Stages) > 0 {
		woken := run.Source.PushedAt != nil
		if woken {
			j.add(stagePush, *run.Source.PushedAt, fleet.PartGit, math.MaxFloat64)
		}
		j.notice(stageCINotice, run.Stages[0].StartedAt, woken)
		for _, s := range run.Stages {
			name := string(s.Stage)
			if s.Stage == fleet.Fetch {
				name = stageCIFetch
			}
			if len(d.Stages) > 0 { // what CI does beside the host is not on the way
				s = cutAt(s, d.Stages[0].StartedAt)
			}
			_, part := stageOf(name)
			j.stage(name, s, part)
		}
	}
	if len(d.Stages) > 0 {
		j.notice(stageNotice, d.Stages[0].StartedAt, d.Stages[0].Woken)
	}
	for _, s := range d.Stages {
		_, part := stageOf(string(s.Stage))
		if s.Stage == fleet.Staging && !d.Built {
			part = fleet.PartNix
		}
		j.stage(string(s.Stage), s, part)
	}
	j.add(stageBetween, d.EndedAt, fleet.PartOwn, 0)
	j.Seconds = j.last.Sub(p.at).Seconds()
	return j
}

// seenJourney is that of a host without an agent of ours: what happened in between nobody says.
func seenJourney(p pushed, ci, seen time.Time) journey {
	j := journey{DrillChange: fleet.DrillChange{Commit: p.commit, PushedAt: p.at.UTC()}, last: p.at}
	j.add(stageCI, ci, fleet.PartWaiting, math.MaxFloat64)
	j.add(stageHost, seen, fleet.PartWaiting, math.MaxFloat64)
	j.Seconds = j.last.Sub(p.at).Seconds()
	return j
}

// add adds what began where the last one ended, and ended then, unless that is nothing.
func (j *journey) add(name string, ended time.Time, part fleet.DrillPart, partSeconds float64) {
	if ended.After(j.last) {
		j.put(name, ended, part, partSeconds)
	}
}

// put ends no sooner than the last one did: clocks differ, and a host may see a release before CI has heard that it is pushed.
func (j *journey) put(name string, ended time.Time, part fleet.DrillPart, partSeconds float64) {
	if ended.Before(j.last) {
		ended = j.last
	}
	s := fleet.DrillSpan{Stage: name, Began: j.last.Sub(j.PushedAt).Seconds(), Ended: ended.Sub(j.PushedAt).Seconds(), Part: part}
	s.PartSeconds = min(partSeconds, s.Ended-s.Began)
	if part == fleet.PartOwn {
		s.PartSeconds = s.Ended - s.Began
	}
	j.Spans, j.last = append(j.Spans, s), ended
}

// notice adds the time until somebody looked.
func (j *journey) notice(name string, began time.Time, woken bool) {
	part := fleet.PartWaiting
	if woken {
		part = fleet.PartOwn
	}
	j.put(name, began, part, math.MaxFloat64)
}

func (j *journey) stage(name string, s fleet.StageTime, part fleet.DrillPart) {
	j.add(stageBetween, s.StartedAt, fleet.PartOwn, 0)
	seconds := s.ToolSeconds
	if part == fleet.PartWaiting || name == string(fleet.Push) { // for a person, for units, for the cache: no program is at work
		seconds = math.MaxFloat64
	}
	j.put(name, s.EndedAt(), part, seconds)
}

// cutAt is what of a stage is on the way to a host that began its own part then.
func cutAt(s fleet.StageTime, began time.Time) fleet.StageTime {
	s.Seconds = max(0, min(s.Seconds, began.Sub(s.StartedAt).Seconds()))
	s.ToolSeconds = min(s.ToolSeconds, s.Seconds)
	return s
}

// timing are the figures of all repetitions.
func timing(all []journey, limit time.Duration) *fleet.DrillTiming {
	if len(all) == 0 {
		return nil
	}
	t := &fleet.DrillTiming{Repeat: len(all), LimitSeconds: limit.Seconds()}
	parts, byStage := map[fleet.DrillPart][]float64{}, map[string][]float64{}
	var whole, ci, notice, staging, activation []float64
	for _, j := range all {
		t.Changes = append(t.Changes, j.DrillChange)
		part, stage := map[fleet.DrillPart]float64{}, map[string]float64{}
		inCI, ciBegan := 0.0, -1.0
		for _, s := range j.Spans {
			seconds := s.Ended - s.Began
			stage[s.Stage] += seconds
			part[s.Part] += s.PartSeconds
			part[fleet.PartOwn] += seconds - s.PartSeconds
			if where, _ := stageOf(s.Stage); where == ofCI {
				if ciBegan < 0 {
					ciBegan = s.Began
				}
				inCI = s.Ended - ciBegan
			}
		}
		for _, p := range []fleet.DrillPart{fleet.PartOwn, fleet.PartGit, fleet.PartNix, fleet.PartTransfer, fleet.PartSwitch, fleet.PartWaiting} {
			parts[p] = append(parts[p], part[p])
		}
		for name, seconds := range stage {
			byStage[name] = append(byStage[name], seconds)
		}
		whole, ci, notice = append(whole, j.Seconds), append(ci, inCI), append(notice, stage[stageCINotice]+stage[stageNotice])
		staging = append(staging, stage[string(fleet.Staging)])
		activation = append(activation, stage[string(fleet.Activate)]+stage[string(fleet.Check)]+stage[string(fleet.Commit)])
	}
	t.PushToHealthy, t.Own, t.Git, t.Nix = spread(whole), spread(parts[fleet.PartOwn]), spread(parts[fleet.PartGit]), spread(parts[fleet.PartNix])
	t.Transfer, t.Switch, t.Waiting = spread(parts[fleet.PartTransfer]), spread(parts[fleet.PartSwitch]), spread(parts[fleet.PartWaiting])
	t.CI, t.Notice, t.Staging, t.Activation = spread(ci), spread(notice), spread(staging), spread(activation)
	for _, s := range stages {
		if seconds := byStage[s.name]; seconds != nil {
			t.Stages = append(t.Stages, fleet.DrillStage{Stage: s.name, What: s.what, Spread: spread(seconds)})
		}
	}
	return t
}

// spread sorts x. Of few cases the 95th percentile is the longest one.
func spread(x []float64) fleet.Spread {
	if len(x) == 0 {
		return fleet.Spread{}
	}
	x = slices.Sorted(slices.Values(x))
	at := func(q float64) float64 { return x[min(len(x)-1, int(math.Ceil(q*float64(len(x))))-1)] }
	return fleet.Spread{Count: len(x), Median: at(0.5), P95: at(0.95), Most: x[len(x)-1]}
}

// times is a number, as how often.
func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// figure is a line under the stages.
type figure struct {
	Name, What string
	fleet.Spread
}

// partsOf are what the whole of t is the sum of, in each change.
func partsOf(t *fleet.DrillTiming) []figure {
	return []figure{
		{"own", "Garrison itself", t.Own}, {"git", "fetches, pushes, signatures", t.Git}, {"nix", "evaluation and builds", t.Nix}, {"transfer", "closures, to the cache and from it", t.Transfer},
		{"switch", "switch-to-configuration, nix-env", t.Switch}, {"waiting", "on purpose: for units to settle, a window, a poll; or for who does not tell", t.Waiting},
	}
}

// sumsOf are other sums of stages.
func sumsOf(t *fleet.DrillTiming) []figure {
	return []figure{
		{"CI", "from when it began", t.CI}, {"wake, poll", "until CI, and then the host, had begun to look", t.Notice},
		{"staging", "substitution on the host, or its build", t.Staging}, {"activation", "switch, checks, commit", t.Activation},
	}
}

// timing prints the table of stages, what they add up to, and the limit beside it.
func (p *printer) timing(t *fleet.DrillTiming) {
	p.line("  %-10s %8s %8s", "", "median", "p95")
	tell := func(name string, x fleet.Spread, what string) {
		p.line("  %-10s %8.3f %8.3f  %s", name, x.Median, x.P95, p.paint(grey, what))
	}
	for _, g := range t.Stages {
		tell(g.Stage, g.Spread, g.What)
	}
	for i, list := range [][]figure{partsOf(t), sumsOf(t)} {
		p.line("%s", p.paint(grey, []string{"  of all that, what the time went to", "  and by what was done"}[i]))
		for _, f := range list {
			tell(f.Name, f.Spread, f.What)
		}
	}
	tell("whole", t.PushToHealthy, limitOf(t))
}

// plainly is a number of seconds that somebody chose.
func plainly(seconds float64) string { return strconv.FormatFloat(seconds, 'f', -1, 64) }

// limitOf is the target of the whole, and how many changes there were.
func limitOf(t *fleet.DrillTiming) string {
	text := fmt.Sprintf("push → healthy, n = %d", t.PushToHealthy.Count)
	if t.LimitSeconds > 0 {
		text += fmt.Sprintf("; longest %.3f s, limit %s s", t.PushToHealthy.Most, plainly(t.LimitSeconds))
	}
	return text
}
