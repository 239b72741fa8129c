package drill

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// LiveOptions are of a drill of somebody's fleet.
type LiveOptions struct {
	DrillOptions
	Host string // that is drilled
	// Repo is a clone of the fleet's repository, which is read alone; Remote of it is pushed to.
	Repo, Remote    string
	Source, Release string // branches
	Hub             string // URL; "": none, the forge says what CI does, and commands on the host what becomes of it
	HubToken        func() (string, error)
	Cache, CacheKey string // its URL, with its name, and public key; "": none, not known
	// Probes are of hosts that are looked at by commands. Host has one.
	Probes map[string]Probe
}

// live is somebody's fleet.
type live struct {
	LiveOptions
	*repo
	hub    *hubView
	agent  bool          // Garrison's runs on the drilled host
	others []string      // hosts that follow releases too, as the hub says
	before *string       // what main has every host say at /etc/gitops-test; nil: its drill.json is not there
	texts  []string      // that were pushed
	bad    bool          // the marker that was put last breaks something
	alerts []fleet.Alert // that the drill brought about
	// alertsUntil is the hub's newest alert before the last push.
	alertsUntil int64
	stopped     func() bool
	moved       bool // somebody else pushed
	again       time.Duration
	wait        time.Duration
}

// liveAgain is short for a person, and seldom enough for a forge.
const liveAgain = time.Second

// quietLooks are those at which a host of which no agent tells runs the same, until its switch is taken to have ended.
const quietLooks = 3

// Live drills a fleet that people depend on. Whatever happens, the marker's file in its repository is at the end what it was.
// Its error has CodeDrillFailed when something failed.
func Live(ctx context.Context, o LiveOptions) (report fleet.DrillReport, err error) {
	if err := errors.Join(checkNames(o.Only), checkNames(o.Allow)); err != nil {
		return fleet.DrillReport{}, err
	}
	s := newSession(o.DrillOptions)
	s.again, s.patience = liveAgain, max(patience, o.Limit)
	s.out.title("The fleet: is all well with it?")
	l := &live{LiveOptions: o, stopped: func() bool { return ctx.Err() != nil }, again: s.again, wait: s.patience}
	if o.Hub != "" {
		l.hub = &hubView{url: o.Hub, token: o.HubToken, http: &http.Client{}}
	}
	s.place = l
	if l.repo, err = openRepo(ctx, o.Repo, o.Remote, o.Source, s.report.ID); err != nil {
		return s.report, fleet.Errorf("", fleet.CodeDrillFailed, "nothing was drilled").WithCause(err)
	}
	err = s.drill(ctx)
	left := errors.Join(l.leave(context.WithoutCancel(ctx), s.out), l.close())
	if report, err = s.ended(ctx, errors.Join(err, left)); left != nil && ctx.Err() != nil {
		err = left // that the drill was interrupted is known; not, that something of it stays
	}
	return report, err
}

// Revert puts the marker's file in a fleet's repository back as it was, after a drill that was killed before it could. It waits for nobody.
func Revert(ctx context.Context, o LiveOptions) error {
	r, err := openRepo(ctx, o.Repo, o.Remote, o.Source, "")
	if err != nil {
		return err
	}
	commit, n, err := r.revert(ctx)
	if err = errors.Join(err, r.close()); err != nil {
		return err
	}
	out := &printer{w: o.Out}
	if n == 0 {
		out.line("%s on %s has nothing of a drill in it: there is nothing to put back", markerFile, o.Source)
		return nil
	}
	out.line("%s on %s is what it was before the last drill, which had changed it %s: %.12s. CI and hosts take it from there.", markerFile, o.Source, times(n), commit)
	return nil
}

func (l *live) where() string { return "live" }

func (l *live) hosts() []string { return append([]string{l.Host}, l.others...) }

func (l *live) host(name string) observed {
	h := inFleet{live: l, name: name}
	if p, ok := l.Probes[name]; ok {
		h.probe = &p
	}
	return h
}

func (l *live) refs(ctx context.Context) (string, error) { return l.releaseRefs(ctx, l.Release) }

// ready says why the fleet is not to be drilled now.
func (l *live) ready(ctx context.Context) error {
	if err := l.untouched(ctx); err != nil {
		return err
	}
	status, err := l.host(l.Host).status(ctx)
	if err != nil {
		return err
	}
	l.agent = status != nil
	if l.hub != nil {
		now, err := l.hub.now(ctx)
		if err != nil {
			return err
		}
		if err := now.wrong(l.probed); err != nil {
			return err
		}
		for _, s := range now.hosts {
			at := s.Standing(now.newest)
			if s.Host != l.Host && (at == fleet.AllWell || at == fleet.Waiting) {
				l.others = append(l.others, s.Host)
			}
			if s.Host == l.Host && l.agent && at != fleet.AllWell {
				return fmt.Errorf("%s is %s: a drill is of a host that follows releases, and has the newest", s.Host, at)
			}
		}
		slices.Sort(l.others)
	}
	if !l.agent && !l.probed(l.Host) {
		return fmt.Errorf("nobody tells of %s", l.Host)
	}
	if err := l.has(ctx, l.base); err != nil {
		return fmt.Errorf("%s is at %.12s, which the fleet does not run: %w", l.Source, l.base, err)
	}
	h := l.host(l.Host)
	if _, err := h.system(ctx); err != nil {
		return fmt.Errorf("%s cannot be looked at; [drill.hosts.%s] in garrison.toml says how: %w", l.Host, l.Host, err)
	}
	return l.undone(ctx)
}

// untouched says whether the marker's file is nobody's drill's, and reads it.
func (l *live) untouched(ctx context.Context) error {
	commits, _, err := l.leftBehind(ctx)
	if err != nil {
		return err
	}
	if len(commits) > 0 {
		by, err := l.git(ctx, nil, "log", "-1", "--format=%h, by %an, %ar", commits[0])
		if err != nil {
			return err
		}
		return fmt.Errorf("%s on %s is a drill's (%s): one that runs now, or one that was killed before it could undo that. If none runs: garrison drill --live %s --revert",
			markerFile, l.Source, by, l.Host)
	}
	if l.file == "" {
		return nil
	}
	text, err := l.git(ctx, nil, "cat-file", "blob", l.base+":"+markerFile)
	if err != nil {
		return err
	}
	var m marker
	if err := unmarshal([]byte(text), &m); err != nil {
		return fmt.Errorf("%s on %s: %w", markerFile, l.Source, err)
	}
	if len(m.Break) > 0 {
		return fmt.Errorf("%s on %s breaks something, and no drill did that. Take the contents of \"break\" out, and push", markerFile, l.Source)
	}
	l.before = &m.Text
	return nil
}

// undone says whether the drilled host says what main had it say before the drill; where that is not known, that it says nothing of the drill's.
func (l *live) undone(ctx context.Context) error {
	text, err := l.host(l.Host).marker(ctx)
	switch {
	case l.before != nil && err != nil:
		return err
	case l.before != nil && text != *l.before, err == nil && slices.Contains(l.texts, text):
		return fmt.Errorf("%s says %q at /etc/gitops-test, which is not what %s says", l.Host, text, l.Source)
	}
	return nil
}

func (l *live) probed(host string) bool { _, ok := l.Probes[host]; return ok }

func (l *live) put(ctx context.Context, m marker, subject string) (pushed, error) {
	if l.hub != nil {
		var err error
		if l.alertsUntil, err = l.hub.lastAlert(ctx); err != nil {
			return pushed{}, fmt.Errorf("the hub %s: %w", l.hub.url, err)
		}
	}
	p, err := l.repo.put(ctx, m, subject)
	if errors.As(err, &errMoved{}) { // nothing was pushed
		l.moved = true
		return p, err
	}
	l.texts = append(l.texts, m.Text)
	l.bad = l.bad || len(m.Break) > 0 // also when it is not known whether the push arrived
	return p, err
}

func (l *live) ci(ctx context.Context, commit string) (verdict, error) {
	if l.hub != nil {
		return hubVerdict(ctx, l.hub, commit)
	}
	return l.forgeVerdict(ctx, commit)
}

// forgeVerdict is what CI told the forge of a commit, as garrison ci status reads it.
func (l *live) forgeVerdict(ctx context.Context, commit string) (v verdict, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := output(exec.CommandContext(ctx, l.Self, "ci", "status", commit, "--repo", l.Repo, "--remote", l.Remote, "-o", "json"))
	if err != nil {
		return v, err
	}
	var said struct {
		State    string
		Statuses []struct{ Context, State, Text string }
	}
	if err := unmarshal([]byte(out), &said); err != nil {
		return v, err
	}
	for _, s := range said.Statuses {
		if s.State == "failure" || s.State == "error" {
			v.why += s.Context + ": " + s.Text + "\n"
		}
	}
	v.state = map[string]ciState{"pending": ciRunning, "success": ciReleased, "failure": ciFailed}[said.State]
	if v.state != ciReleased {
		return v, nil
	}
	// A CI that tells of one thing after the other has told of nothing but successes in between.
	there, err := l.released(ctx, l.Release, commit)
	if !there {
		v.state = ciRunning
	}
	return v, err
}

// has says why the fleet does not run a commit; nil when it does.
func (l *live) has(ctx context.Context, commit string) error {
	if l.hub == nil {
		return l.says(l.ci(ctx, commit))
	}
	now, err := l.hub.now(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range now.hosts {
		concerned := s.Host == l.Host && l.agent || slices.Contains(l.others, s.Host)
		at := s.Standing(now.newest)
		switch {
		case !concerned, at == fleet.Waiting && s.Host != l.Host:
		case at != fleet.AllWell || s.Newest == nil || s.Newest.Source.Commit != commit:
			errs = append(errs, fmt.Errorf("%s: %s", s.Host, s.Summary()))
		}
	}
	return errors.Join(errs...)
}

// says is an error unless CI has released.
func (l *live) says(v verdict, err error) error {
	switch {
	case err != nil:
		return err
	case v.state == ciFailed:
		return final{fmt.Errorf("CI failed%s", suffix(v.why))}
	case v.state != ciReleased:
		return errors.New("CI has not ended")
	}
	return nil
}

// converged waits until CI has released a commit and all hosts run it; restored says that nothing of the drill's is in it, so
// that no alert of its is left.
func (l *live) converged(ctx context.Context, commit string, restored bool) error {
	quiet := 0 // looks in a row at which an untold host ran the same
	last := ""
	return until(ctx, l.wait, l.again, func() error {
		if l.stopped() { // nobody waits any more
			return final{context.Canceled}
		}
		err := l.says(l.ci(ctx, commit))
		if err == nil {
			err = l.has(ctx, commit)
		}
		if err == nil && restored {
			err = errors.Join(l.undone(ctx), l.alertsOver(ctx))
		}
		if err == nil && !l.agent { // nobody tells when its switch has ended, and it says the text before that
			var system string
			if system, err = l.host(l.Host).system(ctx); err == nil && system == last {
				quiet++
			} else {
				last, quiet = system, 0
			}
			if err == nil && quiet < quietLooks {
				err = fmt.Errorf("%s may still be at its switch to %s", l.Host, system)
			}
		}
		return err
	})
}

// mend undoes a marker that breaks something, and waits until the fleet has got over it. Where somebody else pushed, the drill ends.
func (l *live) mend(ctx context.Context) error {
	switch {
	case l.stopped(): // leave follows at once
		return nil
	case len(l.mine) == 0: // nothing was pushed
		return nil
	}
	tip, err := l.fetch(ctx)
	switch {
	case err != nil:
		return err
	case tip != l.tip:
		l.moved = true
		return errMoved{l.Source, tip}
	case !l.bad:
		return l.converged(ctx, l.tip, false)
	}
	commit, err := l.restore(ctx)
	if err != nil {
		return err
	}
	l.bad = false
	return l.converged(ctx, commit, true)
}

// leave puts the marker's file back, and waits for the fleet unless nobody is there any more who would.
func (l *live) leave(ctx context.Context, out *printer) error {
	ctx, cancel := context.WithTimeout(ctx, l.wait+time.Minute)
	defer cancel()
	if len(l.mine) == 0 {
		return nil // nothing was pushed
	}
	out.title("Undoing what was changed")
	commit, err := l.restore(ctx)
	if err != nil {
		return fleet.Errorf("", fleet.CodeRemote, "%s on %s could not be put back", markerFile, l.Source).WithCause(err).
			WithHint("garrison drill --live %s --revert does that", l.Host)
	}
	out.line("  nothing of the drill is in %s on %s any more: %.12s", markerFile, l.Source, commit)
	if l.stopped() || l.moved {
		out.line("  CI and hosts take it from there: not waited for")
		return nil
	}
	if err := l.converged(ctx, commit, true); err != nil {
		return err
	}
	if len(l.alerts) > 0 {
		out.line("  the fleet is as it was; alerts that came of the drill, and are over: %d", len(l.alerts))
	}
	return nil
}

// seeCache follows a system's closure through the cache.
func (l *live) seeCache(ctx context.Context, system string) (string, error) {
	client := &hubView{url: strings.TrimSuffix(l.Cache, "/"), http: &http.Client{}}
	if l.Hub != "" && strings.HasPrefix(l.Cache, strings.TrimSuffix(l.Hub, "/")+"/") {
		client.token = l.HubToken
	}
	return closureIn(ctx, client, system, l.CacheKey)
}
