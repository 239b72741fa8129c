package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path"
	"strings"
	"time"
	"unicode"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/proc"
)

// remote is one of the agent's remotes. Each is watched by a goroutine of its own, that looks at it when it is woken or its
// time has come: one that does not answer delays no other, and is never asked twice at once.
type remote struct {
	git.Remote
	name string
	at   int // in the status
	wake chan struct{}

	// of its looks, one at a time
	stayed stayed
	ledger string // the tip of the roll-out's branch that permit was read from
	permit string

	// of the loop
	untested  bool   // it has no test branch
	offers    int    // the number of the release that it showed last
	permitted string // the boot that it lets this host end
}

const remotesRef = "refs/garrison/remotes/"

// prefix is where our repository keeps what this remote shows: of another address it knows nothing.
func (m *remote) prefix() string {
	sum := sha256.Sum256([]byte(git.Redact(m.URL)))
	return remotesRef + hex.EncodeToString(sum[:8]) + "/"
}

// spec is a refspec of all heads or tags whose names begin so: one that is not there is no error.
func (m *remote) spec(kind, begin string) string {
	return fmt.Sprintf("+refs/%s/%s*:%s%s/%s*", kind, begin, m.prefix(), kind, begin)
}

// exact is the refspec of one tag.
func (m *remote) exact(tag string) string {
	return fmt.Sprintf("+refs/tags/%s:%s%s%s", tag, m.prefix(), tagsRef, tag)
}

// Named is a remote as the configuration has it.
type Named struct {
	Name string
	git.Remote
}

// GitRemotes are the remotes, with their names.
func (c Config) GitRemotes() (list []Named) {
	for _, r := range c.remotes() {
		list = append(list, Named{r.name, r.Remote})
	}
	return list
}

// remotes are those of the configuration.
func (c Config) remotes() []*remote {
	all := c.Remotes
	if c.Remote != "" {
		all = append([]RemoteConfig{{URL: c.Remote}}, all...)
	}
	taken := map[string]bool{}
	for _, r := range all {
		taken[r.Name] = true
	}
	var remotes []*remote
	for _, r := range all {
		m := &remote{Remote: git.Remote{URL: r.URL, CredentialsFile: r.CredentialsFile, SSHKeyFile: r.SSHKeyFile, KnownHostsFile: r.KnownHostsFile},
			name: r.Name, at: len(remotes), wake: make(chan struct{}, 1)}
		for n := 1; m.name == ""; n++ {
			name := hostOf(r.URL)
			if n > 1 {
				name = fmt.Sprintf("%s-%d", name, n)
			}
			if !taken[name] {
				m.name, taken[name] = name, true
			}
		}
		remotes = append(remotes, m)
	}
	return remotes
}

// checkRemotes says what is wrong with the configured ones.
func checkRemotes(remotes []*remote) error {
	names, urls := map[string]bool{}, map[string]bool{}
	for _, m := range remotes {
		u, _ := url.Parse(m.URL)
		http := u != nil && (u.Scheme == "http" || u.Scheme == "https")
		switch {
		case m.URL == "" || strings.HasPrefix(m.URL, "-"):
			return fmt.Errorf("the remote %s has no url", m.name)
		case names[m.name] || strings.ContainsFunc(m.name, func(r rune) bool { return !unicode.IsPrint(r) }):
			return fmt.Errorf("the name %q of a remote cannot be used, or is used twice", m.name)
		case urls[m.prefix()]:
			return fmt.Errorf("the remote %s is named twice", git.Redact(m.URL))
		case m.CredentialsFile != "" && !http:
			return fmt.Errorf("credentialsFile is for remotes by http, which %s is not", git.Redact(m.URL))
		case http && (m.SSHKeyFile != "" || m.KnownHostsFile != ""):
			return fmt.Errorf("sshKeyFile and knownHostsFile are for remotes by ssh, which %s is not", git.Redact(m.URL))
		}
		for _, f := range m.Files() {
			if !path.IsAbs(f) {
				return fmt.Errorf("the files of the remote %s must be absolute paths", m.name)
			}
		}
		names[m.name], urls[m.prefix()] = true, true
	}
	return nil
}

// hostOf is what a remote is called unless it is given a name: after where it is.
func hostOf(address string) string {
	if u, err := url.Parse(address); err == nil && u.Hostname() != "" {
		return u.Hostname()
	}
	if host, _, ok := strings.Cut(address, ":"); ok && !strings.Contains(host, "/") && !strings.HasPrefix(address, "file:") { // user@host:path
		return host[strings.LastIndex(host, "@")+1:]
	}
	return path.Base(address)
}

// watch looks at one remote until ctx ends.
func (a *Agent) watch(ctx context.Context, m *remote) {
	failures, woken := 0, false
	for ctx.Err() == nil {
		k, let := *a.known.Load(), m.stamp()
		t := &proc.Timeline{}
		s := a.looker.look(proc.WithTimeline(ctx, t), m, k)
		if failures++; s.err == nil {
			failures = 0
		}
		wait := jittered(lookAfter(time.Duration(a.Config.Poll), failures))
		stages := t.Stages()
		if len(stages) > 0 {
			stages[0].Woken = woken
		}
		a.send(ctx, looked{seen: s, remote: m, known: k, stages: stages, next: time.Now().Add(wait).UTC()})
		if ctx.Err() == nil {
			a.looker.settle(ctx, m, s)
		}
		woken = m.wait(ctx, wait, s.err, let)
		if failures > 0 && len(a.remotes) > 1 {
			pause(ctx, afterOthers)
		}
	}
}

// afterOthers is how much later than the others a remote is asked that did not answer: those that do shall have the machine.
const afterOthers = time.Second

// lookAfter is the pause before the next look: longer from failure to failure, up to 10 minutes.
func lookAfter(poll time.Duration, failures int) time.Duration {
	wait, most := poll, max(poll, 10*time.Minute)
	for ; failures > 1 && wait < most; failures-- {
		wait *= 2
	}
	return min(wait, most)
}

// credentialsEvery is how often files that did not let us in are looked at: for a change, not for what is in them.
const credentialsEvery = 2 * time.Second

// wait ends when it is time for the next look, somebody asks for one (woken), or the files that did not let us in are not what
// they were before that.
func (m *remote) wait(ctx context.Context, d time.Duration, err error, before string) (woken bool) {
	due := time.NewTimer(d)
	defer due.Stop()
	var look <-chan time.Time
	code := fleet.CodeOf(err)
	if code == fleet.CodeKey || code == fleet.CodeUnauthorized {
		ticker := time.NewTicker(credentialsEvery)
		defer ticker.Stop()
		look = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-m.wake:
			return true
		case <-due.C:
			return false
		case <-look:
			if m.stamp() != before {
				return false
			}
		}
	}
}

// stamp changes when one of the files that let us in does.
func (m *remote) stamp() string {
	stamp := ""
	for _, f := range m.Files() {
		if info, err := os.Stat(f); err == nil {
			stamp += fmt.Sprint(info.ModTime().UnixNano(), info.Size(), info.Mode())
		}
		stamp += "\n"
	}
	return stamp
}

// look has all remotes looked at, now, or once more by those who are at it.
func (a *Agent) look() {
	for _, m := range a.remotes {
		m.look()
	}
}

func (m *remote) look() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// looked is what the loop gets to hear of a remote.
type looked struct {
	seen
	remote *remote
	known  known
	stages []fleet.StageTime
	next   time.Time
}

func (l looked) take(ctx context.Context, a *Agent) {
	is := a.tellRemote(l)
	a.watcher.aim()
	if a.rebootFailure != nil {
		a.afterReboot(ctx)
	}
	if _, found := l.event.(deploy.Found); !found { // what the host runs is looked at as often, whatever becomes of git
		a.apply(ctx, deploy.Observed{Systems: a.systems()})
	}
	l.remote.permitted = l.permit
	a.permitted(ctx)
	if l.err != nil {
		return
	}
	if l.known != *a.known.Load() {
		l.remote.look() // another remote was first: what this one has is held against that
		return
	}
	switch e := l.event.(type) {
	case nil: // behind
		return
	case deploy.Nothing:
		if a.vouchedBy(l.remote) != nil {
			return
		}
	case deploy.Refused:
		if a.vouchedBy(l.remote) != nil {
			return // the good one is followed; this one is seen in the status
		}
		if a.refusedBy != l.remote && a.refusedBy != nil && a.record.Refused != nil && a.status.Remotes[a.refusedBy.at].Refused != nil {
			return // one reason at a time
		}
		a.refusedBy = l.remote
		if len(a.remotes) > 1 {
			e.Failure.Message = "remote " + is.Name + ": " + e.Failure.Message
		}
		l.event = e
	case deploy.Found:
		l.remote.offers = e.Release.Number
		if a.hearsOthers(l.remote, e) {
			time.AfterFunc(othersEvery, l.remote.look)
			a.publish()
			return
		}
		e.Systems = a.systems()
		l.event = e
		if newest := a.record.Newest; newest == nil || e.Release.Tag != newest.Tag {
			a.lookStages = l.stages
			a.stagesEnded(e.Release.Number, l.stages)
			if !a.rememberNewest(ctx, e.Release) {
				return
			}
		}
	}
	a.apply(ctx, l.event)
	if _, found := l.event.(deploy.Found); found {
		a.takeTest(ctx, l)
	}
}

// An agent that remembers no release asks all remotes before it turns a host that runs something to another system: one of them may
// lag, and what it has be older than what runs. It does not wait long for those that do not answer.
const (
	othersMost  = 10 * time.Second
	othersEvery = 500 * time.Millisecond
)

func (a *Agent) hearsOthers(m *remote, e deploy.Found) bool {
	runs := a.looker.runs()
	if a.known.Load().given.number > 0 || runs == "" || e.Entry == nil || e.Entry.OutPath == runs {
		return false
	}
	for _, other := range a.remotes {
		s := a.status.Remotes[other.at] // written by the loop alone
		silent := s.LastOK.IsZero() && time.Since(a.began) < othersMost
		if other != m && (silent || other.offers > m.offers && s.Failure == nil) {
			return true
		}
	}
	return false
}

// vouchedBy is another remote that answers, and whose release branch is in order.
func (a *Agent) vouchedBy(but *remote) *remote {
	for _, m := range a.remotes {
		s := a.status.Remotes[m.at] // written by the loop alone
		if m != but && s.Failure == nil && s.Refused == nil && !s.Behind && s.Tip != "" && s.Tip == a.known.Load().commit {
			return m
		}
	}
	return nil
}

// tellRemote brings what the status says of a remote up to date, and logs what changed.
func (a *Agent) tellRemote(l looked) fleet.Remote {
	a.contacted(&a.status.Remotes[l.remote.at].Contact, l.err, l.stage, "git remote "+l.remote.name)
	a.mu.Lock()
	was := a.status.Remotes[l.remote.at]
	is := was
	is.NextLook = l.next
	if l.err == nil {
		is.Tip, is.Behind, is.Refused = l.tip, l.behind, nil
		if e, ok := l.event.(deploy.Refused); ok {
			is.Refused = was.Refused
			if r := was.Refused; r == nil || r.Tip != e.Tip || r.Failure.Code != e.Failure.Code {
				is.Refused = &fleet.Refusal{Tip: e.Tip, Since: time.Now().UTC(), Failure: e.Failure}
			}
		}
	}
	a.status.Remotes[l.remote.at] = is
	a.status.Remote = together(a.status.Remotes)
	a.status.NextPoll = l.next
	for _, r := range a.status.Remotes {
		if !r.NextLook.IsZero() && r.NextLook.Before(a.status.NextPoll) {
			a.status.NextPoll = r.NextLook
		}
	}
	a.mu.Unlock()
	log := a.Log.With("stage", fleet.Verify, "remote", is.Name)
	switch {
	case len(a.remotes) == 1:
	case is.Refused != nil && is.Refused != was.Refused:
		f := is.Refused.Failure
		log.Error("what this remote has is refused", "tip", is.Tip, "code", f.Code, "err", firstLine(f.Message), "hint", f.Hint)
	case is.Refused == nil && was.Refused != nil:
		log.Info("this remote is in order again")
	case is.Behind && !was.Behind:
		log.Info("this remote is behind", "tip", is.Tip)
	}
	return is
}

// together is what there is to say of all remotes: as long as one answers, git does.
func together(remotes []fleet.Remote) fleet.Contact {
	var all fleet.Contact
	for _, r := range remotes {
		if r.LastOK.After(all.LastOK) {
			all.LastOK = r.LastOK
		}
	}
	for _, r := range remotes {
		switch {
		case r.Failure == nil && !r.LastOK.IsZero():
			return fleet.Contact{LastOK: all.LastOK}
		case r.Failure != nil && all.Failure == nil:
			all.Failure, all.Since = r.Failure, r.Since
		case r.Failure != nil && r.Since.After(all.Since):
			all.Since = r.Since // since then none answers
		}
	}
	return all
}
