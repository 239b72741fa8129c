package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// wanted is the release that a person names: by number, as the newest one, or by the commit that it is made of.
type wanted struct {
	number int    // 0: by one of the others
	commit string // or its beginning; "" for the newest
}

// shortestCommit is how much of a commit's name must be given at least.
const shortestCommit = 7

// parseWanted reads RELEASE.
func parseWanted(text string) (wanted, error) {
	if n, ok := fleet.TagNumber(fleet.TagPrefix + strings.TrimPrefix(text, fleet.TagPrefix)); ok {
		return wanted{number: n}, nil
	}
	switch {
	case text == "" || text == "newest":
		return wanted{}, nil
	case len(text) >= shortestCommit && strings.Trim(text, "0123456789abcdef") == "":
		return wanted{commit: text}, nil
	}
	return wanted{}, fmt.Errorf("%q is no release: give a number, newest, or at least %d digits of a source commit", text, shortestCommit)
}

func (w wanted) String() string {
	switch {
	case w.number > 0:
		return fleet.TagName(w.number)
	case w.commit != "":
		return "a release of " + short(w.commit)
	}
	return "the newest release"
}

// fleetWatcher follows a release over all its hosts.
type fleetWatcher struct {
	*app
	from   *from
	until  string // "", "converged", "healthy", "ring:NAME"
	json   bool
	wanted wanted

	number int               // of the release, once it is known
	run    int64             // that is followed
	lines  map[string]string // told last, of each host; "run" and "release" of themselves
	known  bool              // lines are those of all hosts
	state  string            // how far it is, told last
	shown  console           // where lines go
	rings  *fleet.Rollout    // as it was seen last; nil where there are no rings
}

// untilRing is what --until begins with when it is about a ring.
const untilRing = "ring:"

// patience is how often the release is looked at while hosts tell nothing, and how long it is not while they tell much.
const (
	lookAgain = 5 * time.Second
	lookRest  = 500 * time.Millisecond
)

// watch follows until it is enough. Its error says what went wrong, and where.
func (w *fleetWatcher) watch(ctx context.Context) error {
	w.lines, w.shown = map[string]string{}, w.console()
	count := func() {} // says how long a ring is to wait yet
	if !w.json && terminal(w.Err) != nil && terminal(w.Out) != nil {
		a := *w.app
		progress, end := a.showProgress()
		defer end()
		w.app, w.shown.to = &a, a.Out
		count = func() { progress.set(w.countdown(time.Now())) }
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	var looked time.Time
	look := func() (bool, error) {
		looked = time.Now()
		return w.look(ctx)
	}
	changes := make(chan fleet.StreamEvent, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	listened := make(chan error, 1)
	go func() {
		listened <- w.from.listen(ctx, func() (bool, error) { return w.send(ctx, changes, fleet.StreamEvent{}) },
			func(e fleet.StreamEvent) (bool, error) { return w.send(ctx, changes, e) })
	}()
	timer := time.NewTimer(0) // for the next look; each event asks for one
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-listened:
			return err
		case e := <-changes:
			if err := w.tell(e); err != nil {
				return err
			}
			timer.Reset(max(0, lookRest-time.Since(looked)))
		case <-second.C:
			count()
		case <-timer.C:
			if done, err := look(); done || err != nil && fleet.ClassOf(err) != fleet.Transient {
				return err
			}
			timer.Reset(lookAgain)
		}
	}
}

func (w *fleetWatcher) send(ctx context.Context, to chan<- fleet.StreamEvent, e fleet.StreamEvent) (bool, error) {
	select {
	case to <- e:
		return false, nil
	case <-ctx.Done():
		return true, ctx.Err()
	}
}

// say prints a line about something, unless it was said last. v is what scripts get.
func (w *fleetWatcher) say(about string, at time.Time, line string, colour ink, v any) error {
	if w.lines[about] == line {
		return nil
	}
	w.lines[about] = line
	if w.json {
		return json.NewEncoder(w.Out).Encode(v)
	}
	w.shown.line(colour, "%s  %s: %s", at.Local().Format(time.TimeOnly), about, line)
	return nil
}

// tell prints what a host or CI says.
func (w *fleetWatcher) tell(e fleet.StreamEvent) error {
	switch {
	case e.Status != nil && w.number > 0:
		s := *e.Status
		return w.say(s.Host, s.At, s.Summary(), inkOf(s.Standing(w.number)), e)
	case e.Run != nil && e.Run.ID == w.run:
		return w.tellRun(*e.Run)
	}
	return nil
}

func (w *fleetWatcher) tellRun(r fleet.Run) error {
	return w.say(fmt.Sprintf("run %d", r.ID), time.Now(), resultOf(r)+" ("+short(r.Source.Commit)+" "+r.Source.Subject+")", plain, fleet.StreamEvent{Kind: "run", Run: &r})
}

// look finds out how far the release is, and whether that is enough.
func (w *fleetWatcher) look(ctx context.Context) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if w.number == 0 {
		if done, err := w.find(ctx); done || err != nil || w.number == 0 {
			return done, err
		}
	}
	var v fleet.ReleaseView
	found, err := w.from.get(ctx, fmt.Sprintf("/api/v1/releases/%d", w.number), &v)
	if err != nil {
		return false, err
	}
	if !found {
		return false, w.say(fleet.TagName(w.number), time.Now(), "the hub has not seen it yet", plain, fleet.StreamEvent{Kind: "wait"})
	}
	if !w.known {
		if err := w.learn(ctx); err != nil {
			return false, err
		}
	}
	w.state = v.Release.Name() + ": " + v.Text
	slim := v
	slim.Progress = nil
	if err := w.say(v.Release.Name(), time.Now(), v.Text+" ("+short(v.Release.Source.Commit)+" "+v.Release.Source.Subject+")", strong, releaseLine{"release", slim}); err != nil {
		return false, err
	}
	if w.rings, err = w.from.rollout(ctx); err != nil {
		return false, err
	}
	if done, err := w.tellRings(v); done || err != nil {
		return done, err
	}
	return w.enough(v)
}

// learn notes what hosts say when the watch begins: what changes after that is told.
func (w *fleetWatcher) learn(ctx context.Context) error {
	var hosts []fleet.Status
	if _, err := w.from.get(ctx, "/api/v1/hosts", &hosts); err != nil {
		return err
	}
	for _, s := range hosts {
		if _, told := w.lines[s.Host]; !told {
			w.lines[s.Host] = s.Summary()
		}
	}
	w.known = true
	return nil
}

// releaseLine is a line of watch -o json about the release itself.
type releaseLine struct {
	Kind    string            `json:"kind"`
	Release fleet.ReleaseView `json:"release"`
}

// find looks for the release that is wanted, and for the run that makes it.
func (w *fleetWatcher) find(ctx context.Context) (done bool, err error) {
	if w.wanted.number > 0 {
		w.number = w.wanted.number
		return false, nil
	}
	var releases []fleet.ReleaseView
	if _, err := w.from.get(ctx, "/api/v1/releases?n=100", &releases); err != nil {
		return false, err
	}
	for _, r := range releases {
		if w.wanted.commit == "" || strings.HasPrefix(r.Release.Source.Commit, w.wanted.commit) || strings.HasPrefix(r.Release.Commit, w.wanted.commit) {
			w.number = r.Release.Number
			return false, nil
		}
	}
	if w.wanted.commit == "" {
		w.state = "the hub has seen no release yet"
		return false, w.say("newest", time.Now(), w.state, plain, fleet.StreamEvent{Kind: "wait"})
	}
	return w.findRun(ctx)
}

// findRun looks for the run of the commit: what it comes to, or why it made no release.
func (w *fleetWatcher) findRun(ctx context.Context) (done bool, err error) {
	var runs []fleet.Run
	if _, err := w.from.get(ctx, "/api/v1/runs?n=100", &runs); err != nil {
		return false, err
	}
	i := slices.IndexFunc(runs, func(r fleet.Run) bool { return strings.HasPrefix(r.Source.Commit, w.wanted.commit) })
	if i < 0 {
		w.state = "CI has not begun with " + short(w.wanted.commit) + " yet"
		return false, w.say(short(w.wanted.commit), time.Now(), w.state, plain, fleet.StreamEvent{Kind: "wait"})
	}
	r := runs[i]
	// What is newer than a push that gave way is made of that, too.
	for r.Failure != nil && r.Failure.Code == fleet.CodeSuperseded {
		next := -1
		for k := range runs[:i] {
			if runs[k].Source.Branch == r.Source.Branch {
				next = k // the oldest of those after it
			}
		}
		if next < 0 {
			break
		}
		if err := w.tellRun(r); err != nil {
			return false, err
		}
		i, r = next, runs[next]
	}
	w.run, w.state = r.ID, fmt.Sprintf("run %d: %s", r.ID, resultOf(r))
	if err := w.tellRun(r); err != nil {
		return false, err
	}
	interrupted := r.Failure != nil && (r.Failure.Code == fleet.CodeSuperseded || r.Failure.Code == fleet.CodeInterrupted) // another comes
	switch {
	case r.Release != nil && r.Release.Number > 0:
		w.number = r.Release.Number
	case r.Release != nil:
		return true, fleet.Errorf(fleet.Bad, fleet.CodeUsage, "%s is tried by %s, which is no release", short(r.Source.Commit), r.Release.Name()).WithHint("garrison watch --host HOST shows its host")
	case r.State == fleet.RunFailed && !interrupted:
		return true, fleet.Errorf(fleet.Bad, fleet.CodeNotConverged, "CI made no release of %s: %s", short(r.Source.Commit), resultOf(r)).WithHint("garrison hub log %d", r.ID)
	}
	return false, nil
}

// enough says whether the release has come to where it is watched until, or never will.
func (w *fleetWatcher) enough(v fleet.ReleaseView) (bool, error) {
	if w.until == "" {
		return false, nil
	}
	failed := func(format string, args ...any) (bool, error) {
		if err := w.end(v, red, failures(v)...); err != nil {
			return true, err
		}
		return true, fleet.Errorf(fleet.Bad, fleet.CodeNotConverged, "%s %s", v.Release.Name(), fmt.Sprintf(format, args...)).
			WithHint("%s", strings.Join(whereToLook(v), "; "))
	}
	moving, waits, silent := 0, 0, 0
	for _, p := range v.Progress {
		switch p.Standing {
		case "under way", "retrying":
			moving++
		case "silent":
			silent++
		case "waits":
			waits++
			switch {
			case p.Why == fleet.WaitsForRing:
				moving, waits = moving+1, waits-1 // unless the roll-out is stopped, which was looked at
			case slices.Contains([]string{string(fleet.ForWindow), string(fleet.ForResume), string(fleet.ForGrace)}, p.Why) && w.until == "converged":
				moving++ // its time comes
			}
		}
	}
	switch {
	case v.State == fleet.ReleaseDone:
		took := ""
		if d, ok := v.LeadTime(); ok {
			took = ", " + spell(d) + " after the push"
		}
		return true, w.end(v, green, fmt.Sprintf("%s: %s on all its hosts%s", v.Release.Name(), w.until, took))
	case v.State == fleet.ReleaseSuperseded:
		return failed("did not come to all its hosts: %s", v.Text)
	case moving > 0:
		return false, nil
	case v.State == fleet.ReleaseFailed:
		return failed("failed: %s", v.Text)
	case silent > 0: // they may come back
		return false, nil
	case waits > 0 && w.until == "healthy":
		return true, w.end(v, green, v.Release.Name()+": healthy, though hosts wait: "+v.Text)
	case waits > 0:
		return failed("waits for somebody: %s", v.Text)
	}
	return false, nil
}

// end says how it ended, in the last lines.
func (w *fleetWatcher) end(v fleet.ReleaseView, colour ink, lines ...string) error {
	if w.json {
		return json.NewEncoder(w.Out).Encode(releaseLine{"ended", v})
	}
	for _, l := range lines {
		w.shown.line(colour, "%s  %s", time.Now().Format(time.TimeOnly), l)
	}
	return nil
}

// failures are the errors of hosts where a release failed.
func failures(v fleet.ReleaseView) (lines []string) {
	for _, p := range v.Progress {
		if p.Standing != "failed" {
			continue
		}
		line := p.Host + ": FAILED (" + p.Why + ")"
		if d := p.Deployment; d != nil && d.Failure != nil {
			line += ": " + firstLine(d.Failure.Message)
		}
		lines = append(lines, line)
	}
	return lines
}

// whereToLook is what to type about the hosts that have not the release.
func whereToLook(v fleet.ReleaseView) []string {
	if v.State == fleet.ReleaseSuperseded {
		return []string{"garrison watch newest"}
	}
	for _, p := range v.Progress {
		if p.Standing == "failed" || p.Standing == "waits" {
			return []string{"garrison explain " + p.Host, "garrison logs --host " + p.Host}
		}
	}
	return []string{"garrison status"}
}
