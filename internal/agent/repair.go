package agent

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// openRepo opens the agent's repository, or makes it. All of it can be fetched again, so one that cannot even be opened goes.
func openRepo(ctx context.Context, dir string) (*git.Repo, error) {
	if err := errors.Join(git.Restore(dir), os.RemoveAll(dir+".new")); err != nil {
		return nil, stateError(err)
	}
	repo, err := git.Init(ctx, dir)
	if err != nil && ctx.Err() == nil {
		if err := os.RemoveAll(dir); err != nil {
			return nil, stateError(err)
		}
		repo, err = git.Init(ctx, dir)
	}
	if err != nil {
		return nil, err
	}
	repo.Sweep()
	return repo, nil
}

// heals keeps remotes from mending the repository side by side, or again and again.
type heals struct {
	mu    sync.Mutex // held while one mends
	note  sync.Mutex
	times int
	done  bool // and since then nothing succeeded
}

func (h *heals) over() {
	h.note.Lock()
	defer h.note.Unlock()
	h.done = false
}

func (h *heals) count() (times int, done bool) {
	h.note.Lock()
	defer h.note.Unlock()
	return h.times, h.done
}

func (h *heals) ended() {
	h.note.Lock()
	defer h.note.Unlock()
	h.times, h.done = h.times+1, true
}

// heal finds out whether it was for the repository's sake that a look failed, and mends it. When it did not, err says why
// the look failed, better than what git said did.
func (l *looker) heal(ctx context.Context, m *remote, failed error) (healed bool, err error) {
	switch fleet.CodeOf(failed) {
	case fleet.CodeKey, fleet.CodeUnauthorized, fleet.CodeTimeout, fleet.CodeMissingTool:
		return false, failed
	}
	before, _ := l.heals.count()
	if _, err := git.ListTags(ctx, m.Remote, fleet.TagPrefix); err != nil || ctx.Err() != nil {
		return false, failed // nothing can be had from there anyway
	}
	l.heals.mu.Lock()
	defer l.heals.mu.Unlock()
	times, done := l.heals.count()
	if times != before {
		return true, nil // somebody else did
	}
	swept, locked := l.repo.Sweep()
	if swept > 0 {
		l.log.Warn("what a git that was cut off left is removed", "files", swept)
		return true, nil
	}
	if locked != "" {
		return false, fleet.Errorf(fleet.Local, fleet.CodeBusy, "git works in %s, or was cut off a moment ago: there is %s", l.repo.Dir, locked).
			WithHint("nothing is to be done; the lock is removed when it is a minute old")
	}
	damage, err := l.repo.Damage(ctx)
	switch {
	case err != nil:
		return false, failed
	case damage == "" && fleet.CodeOf(failed) == fleet.CodeRemote:
		return false, fleet.Errorf(fleet.Transient, fleet.CodeDamaged, "%s answers, but its releases cannot be fetched whole", git.Redact(m.URL)).
			WithHint("is that repository damaged? git fsck says so there").WithCause(failed)
	case damage == "" || done:
		return false, failed
	}
	l.log.Error("the repository is damaged and is made anew", "dir", l.repo.Dir, "err", firstLine(damage))
	if err := l.renew(ctx, m); err != nil {
		return false, err
	}
	l.heals.ended()
	return true, nil
}

// renew fetches the releases into a repository aside, and puts that in the place of the damaged one.
func (l *looker) renew(ctx context.Context, m *remote) error {
	dir := l.repo.Dir + ".new"
	if err := os.RemoveAll(dir); err != nil {
		return stateError(err)
	}
	defer os.RemoveAll(dir)
	aside, err := git.Init(ctx, dir)
	if err != nil {
		return err
	}
	if err := aside.FetchFrom(ctx, m.Remote, m.spec("heads", l.branch)); err != nil {
		return err
	}
	return stateError(l.repo.Replace(aside))
}

// rest is the time in which nobody verifies: that of maintenance, which gives way at once.
type rest struct {
	mu        sync.Mutex
	verifying int
	stop      context.CancelFunc
	next      time.Time
}

// Between maintenance of the repository, and before the first of an agent.
const (
	maintainEvery = 6 * time.Hour
	maintainFirst = 10 * time.Minute
)

func (r *rest) disturb() (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.verifying++
	if r.stop != nil {
		r.stop()
		r.next = time.Now().Add(maintainFirst)
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.verifying--
	}
}

// begin says whether it is time for maintenance, which then ends with the context.
func (r *rest) begin(ctx context.Context) (context.Context, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.next.IsZero() {
		r.next = now.Add(jittered(maintainFirst))
	}
	if r.verifying > 0 || r.stop != nil || now.Before(r.next) {
		return nil, false
	}
	r.next = now.Add(jittered(maintainEvery))
	ctx, r.stop = context.WithCancel(ctx)
	return ctx, true
}

func (r *rest) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop()
	r.stop = nil
}

// settle does, after a look, what need not be done before somebody hears of it.
func (l *looker) settle(ctx context.Context, m *remote, s seen) {
	if found, ok := s.event.(deploy.Found); ok && !s.behind {
		if err := l.tidy(ctx, m, s.tip, found.Release.Number); err != nil && ctx.Err() == nil {
			l.log.Warn("the repository cannot be tidied", "err", err)
		}
	}
	calm, now := l.rest.begin(ctx)
	if !now {
		return
	}
	defer l.rest.end()
	l.repo.Sweep()
	if err := l.repo.Maintain(calm); err != nil && calm.Err() == nil {
		l.log.Warn("the repository cannot be maintained", "err", err)
	}
}

// tidy notes which tip of a remote's release branch was accepted, and lets go of the tags of releases older than the one that the host was given.
func (l *looker) tidy(ctx context.Context, m *remote, tip string, given int) error {
	refs, err := l.repo.Refs(ctx, m.prefix())
	if err != nil {
		return err
	}
	moves := map[string]string{}
	if refs[goodRef].ID != tip {
		moves[m.prefix()+goodRef] = tip
	}
	for name := range refs {
		if n, ok := tagNumber(name); ok && n < given {
			moves[m.prefix()+name] = ""
		}
	}
	if len(moves) == 0 {
		return nil
	}
	return l.repo.UpdateRefs(ctx, moves)
}
