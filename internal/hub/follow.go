package hub

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/ledger"
)

// FollowOptions say what is followed, and who is told.
type FollowOptions struct {
	Remote  git.Remote
	Repo    *git.Repo // objects are fetched to it, and refs below refs/garrison/published/
	Branch  string    // of releases
	Signers string    // file with the keys that may sign releases; "": the hub believes the remote, as no agent does
	Poll    time.Duration
	Wake    func()                       // the agents
	Newest  func(*fleet.Manifest)        // is told of the newest release, and of each newer one
	Seen    func(tips map[string]string) // is told after each look where the branches are; may be nil
	Hub     *Hub                         // keeps which releases there were; may be nil
	Log     *slog.Logger
}

// Follower sees what is published on the fleet's remote, by whomever: it wakes the agents when a branch that they follow has moved, and
// knows the newest release. It looks when somebody says that there is something, and at its time, for what nobody said.
type Follower struct {
	FollowOptions
	hints   chan struct{}
	mu      sync.Mutex
	tips    map[string]string // of the branches, as agents have been woken for; nil before the first look
	read    string            // the release branch's tip that was read, or cannot be
	known   int               // number of the newest release
	past    past              // what is to be kept of releases
	contact fleet.Contact     // how the last look ended
	tag     string            // object name of the newest release's
}

// NewFollower makes a Follower; its Hint and Moved may be called before Run.
func NewFollower(o FollowOptions) *Follower {
	return &Follower{FollowOptions: o, hints: make(chan struct{}, 1)}
}

const newestRef = "refs/garrison/published/newest"

// Concerns says whether the ref is one that agents follow.
func (f *Follower) Concerns(ref string) bool {
	branch, ok := strings.CutPrefix(ref, "refs/heads/")
	return ok && (branch == f.Branch || ofRollout(f.Branch, branch) || isTestRelease(branch))
}

func isTestRelease(branch string) bool {
	host, ok := strings.CutSuffix(strings.TrimPrefix(branch, fleet.TagPrefix), "-test")
	return ok && fleet.TestBranch(host) == branch
}

// Hint has it look at the remote.
func (f *Follower) Hint(time.Time) {
	select {
	case f.hints <- struct{}{}:
	default: // it is going to look anyway
	}
}

// Moved is told of what was published from here: agents are woken at once, and for nothing that they were woken for before.
func (f *Follower) Moved(r fleet.ReleaseRef) {
	branch := f.Branch
	if r.Test != "" {
		branch = r.Test[:strings.LastIndexByte(r.Test, '-')]
	}
	f.mu.Lock()
	moved := f.tips == nil || f.tips[branch] != r.Commit
	if f.tips != nil {
		f.tips[branch] = r.Commit
	}
	f.mu.Unlock()
	if moved {
		f.Wake()
	}
	f.Hint(time.Now())
}

// RingsMoved is told of branches of rings, and the ledger's, that were moved from here; agents are woken for what concerns them.
func (f *Follower) RingsMoved(tips map[string]string) {
	f.mu.Lock()
	for branch, tip := range tips {
		if f.tips != nil && ofRollout(f.Branch, branch) {
			f.tips[branch] = tip
		}
	}
	f.mu.Unlock()
	f.Wake()
}

// Run follows until ctx ends. Until it has seen what is published now, the newest release is what it was when the hub last looked.
func (f *Follower) Run(ctx context.Context) {
	if err := f.remember(ctx); err != nil && ctx.Err() == nil {
		f.Log.Warn("which release was the newest is not known before the remote answers", "err", err)
	}
	for failures := 0; ctx.Err() == nil; {
		err := f.look(ctx)
		f.looked(ctx, err)
		pause := jittered(f.Poll)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			failures = 0
		default:
			failures++
			pause = jittered(min(f.Poll, leastPause<<min(failures-1, 12)))
			f.Log.Warn("the hub cannot see what is published", "attempt", failures, "retryIn", pause.Round(time.Millisecond), "err", err)
		}
		select {
		case <-ctx.Done():
		case <-f.hints:
		case <-time.After(pause):
		}
	}
}

// looked notes how a look ended.
func (f *Follower) looked(ctx context.Context, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now().UTC()
	switch {
	case ctx.Err() != nil:
	case err == nil:
		f.contact = fleet.Contact{LastOK: now}
	default:
		if f.contact.Failure == nil {
			f.contact.Since = now
		}
		f.contact.Failure = fleet.FailureOf(fleet.Fetch, err)
	}
}

// Contact says when the remote was last seen, and why not since.
func (f *Follower) Contact() fleet.Contact {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.contact
}

// Signer is until when the key that signed the newest release may sign, where the file of signers sets an end.
func (f *Follower) Signer(ctx context.Context) (c fleet.Credential, ok bool) {
	f.mu.Lock()
	tag := f.tag
	f.mu.Unlock()
	if tag == "" || f.Signers == "" {
		return c, false
	}
	key, err := f.Repo.TagSigner(ctx, tag)
	text, ferr := os.ReadFile(f.Signers)
	if err != nil || ferr != nil {
		return c, false // which a look says
	}
	ends, ok := git.SignerEnds(string(text), key)
	return fleet.Credential{Name: "the key that signed the newest release, in " + f.Signers, Ends: ends}, ok
}

// newest tells which release is the newest.
func (f *Follower) newest(m *fleet.Manifest, tag string) {
	f.mu.Lock()
	f.tag = tag
	f.mu.Unlock()
	f.Newest(m)
}

// look asks the remote where the branches are.
func (f *Follower) look(ctx context.Context) error {
	ledger := fleet.RolloutBranch(f.Branch)
	tips, err := git.ListBranches(ctx, f.Remote, f.Branch, fleet.TestBranch("*"), f.Branch+"-ring-*", ledger)
	if err != nil {
		return err
	}
	f.mu.Lock()
	tip, moved := tips[f.Branch], f.tips == nil
	for _, list := range []map[string]string{tips, f.tips} {
		for branch := range list { // what agents wait for in the ledger comes from this hub
			moved = moved || branch != ledger && tips[branch] != f.tips[branch]
		}
	}
	f.tips = maps.Clone(tips)
	f.mu.Unlock()
	if moved {
		f.Wake()
	}
	if tip != "" && tip != f.read {
		if err := f.readTip(ctx, tip); err != nil {
			return err
		}
		f.read = tip
	}
	if f.Seen != nil {
		f.Seen(tips)
	}
	return f.keepPast(ctx)
}

// readTip reads the release that the branch points at.
func (f *Follower) readTip(ctx context.Context, tip string) error {
	tags, err := git.ListTags(ctx, f.Remote, fleet.TagPrefix)
	if err != nil {
		return err
	}
	m, err := f.manifest(ctx, tip, tags)
	switch {
	case err == nil && m.Number < f.known:
		f.Log.Warn("the release branch went back: what hosts report is still held against the newer release", "branch", f.Branch, "release", m.Number, "newest", f.known)
	case err == nil:
		f.Log.Info("released", "release", m.Number, "commit", m.Source.Commit)
		f.past = past{newest: m, tags: tags, after: f.known}
		f.known = m.Number
		f.newest(m, tags[m.Name()].ID)
	case fleet.ClassOf(err) != fleet.Bad:
		return err
	default: // agents refuse it, and say so
		f.Log.Warn("the release branch points at what is no release", "branch", f.Branch, "commit", tip, "err", err)
	}
	return nil
}

// manifest is that of the newest release tag of tip that may be believed.
func (f *Follower) manifest(ctx context.Context, tip string, tags map[string]git.Ref) (*fleet.Manifest, error) {
	newest := error(fleet.Errorf(fleet.Bad, fleet.CodeUnsigned, "no release tag points at it"))
	for i, n := range ledger.Numbers(tags, tip) {
		m, err := f.fetchTag(ctx, fleet.TagName(n), tags[fleet.TagName(n)])
		if err == nil || fleet.ClassOf(err) != fleet.Bad {
			return m, err
		}
		if i == 0 {
			newest = err
		}
	}
	return nil, newest
}

// fetchTag is the manifest of a tag at the remote, if it may be believed.
func (f *Follower) fetchTag(ctx context.Context, name string, ref git.Ref) (*fleet.Manifest, error) {
	// The one ref takes the place of the last: what it refers to is kept for the next fetch, and no more.
	if err := f.Repo.FetchFrom(ctx, f.Remote, "+refs/tags/"+name+":"+newestRef); err != nil {
		return nil, err
	}
	return f.readTag(ctx, name, ref)
}

// remember tells of the release that was the newest when the hub last looked, if there is one.
func (f *Follower) remember(ctx context.Context) error {
	id, found, err := f.Repo.Resolve(ctx, newestRef)
	if err != nil || !found {
		return err
	}
	tag, err := f.Repo.ReadTag(ctx, id)
	if err != nil {
		return err
	}
	m, err := f.readTag(ctx, tag.Name, git.Ref{ID: id, Commit: tag.Commit})
	if err == nil {
		f.newest(m, id)
	}
	return err
}

// readTag is the manifest of a tag that is here, if it may be believed.
func (f *Follower) readTag(ctx context.Context, name string, ref git.Ref) (*fleet.Manifest, error) {
	m, _, err := ledger.ReadRelease(ctx, f.Repo, name, ref, f.Signers)
	return m, err
}
