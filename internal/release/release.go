// Package release is the CI side: from a commit on the source branch to a signed
// release. Run evaluates every host, re-keys the secrets, builds, pushes the
// closures to the cache, and publishes branch and tag in one atomic push.
//
// It guarantees that what fails before publishing leaves the remote as it
// was, and that what is published was built from, and evaluated on, the very
// commit that hosts will see. Start at Run.
package release

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/secret"
)

// Cache is where closures go; client.Client is one.
type Cache interface {
	// Missing are those of the hash parts of store paths that it does not have.
	Missing(ctx context.Context, hashes []string) ([]string, error)
	// Closure walks from tops through what it has, and says what is missing on the way.
	Closure(ctx context.Context, tops []string) (have []nar.PathInfo, missing []string, err error)
	// Push uploads what is missing of paths.
	Push(ctx context.Context, paths []nar.PathInfo, o client.PushOptions) (client.Stats, error)
	// Pin keeps paths that it has from being collected.
	Pin(ctx context.Context, pins ...client.Pin) error
}

// Options say what to release, from where, with which keys.
type Options struct {
	Repo   *git.Repo // objects are written here; none of its branches is moved
	Remote string    // name or URL: read from and published to
	Source string    // what to release: a commit of the source branch on Remote; "" means its tip

	// RollbackTo is the number of a release whose content to release again, in place of Source; 0 for none.
	RollbackTo int

	// Test is the host whose test branch to release, for that host alone, in place of Source; "" for none.
	Test string

	SigningKey     string // SSH private key, a file; a dry run does without
	AllowedSigners string // who may have signed the previous release; "" means only SigningKey itself
	SourceSigners  string // who may have signed the commits, a file; "" for what the last release's garrison.toml says
	Identities     func() ([]age.Identity, error)
	VerifyWith     []HostKey // what they can decrypt is tried before anything is published
	Cache          func(Config) (Cache, error)

	PushedAt *time.Time // when CI heard of Source
	Trace    string     // traceparent (W3C Trace Context) of what CI does; else the release's follows from its source
	NoFetch  bool       // Tip has just fetched
	Jobs     int        // evaluations at a time; 0 means one a core
	// EvalMemory bounds what all evaluations under way may take together, in bytes; 0 does not.
	EvalMemory int64
	// KeepGoing publishes although a host's system does not build, if garrison.toml allows it for that host (hosts.partial).
	KeepGoing bool
	DryRun    bool // stop before building, publish nothing
	// OnlyNewest gives up with CodeSuperseded when the source branch moves on.
	OnlyNewest bool
	// Mirror is how one of garrison.toml's mirrors is reached, perhaps with credentials; nil: as it stands there.
	Mirror func(url string) string
	// Published is told when a release is on Remote and mirrors have yet to get it, which may take long; may be nil.
	Published func()
	// Begun is told what is going to be released, unless it was before; may be nil.
	Begun func(fleet.Source)
	// KeepLog keeps what nix says in the repository, in a file that Outcome.Log names.
	KeepLog bool
	// Evaluated is told how many hosts have been evaluated, of how many, and Pushed how far the push is; may be nil.
	Evaluated func(done, total int)
	Pushed    func(client.Progress)

	Nix *nix.Nix
	Log *slog.Logger // nil drops it
}

func (o Options) withLog() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Outcome is what a run came to.
type Outcome struct {
	State    fleet.RunState    `json:"state"`
	Release  *fleet.ReleaseRef `json:"release,omitempty"`
	Manifest *fleet.Manifest   `json:"manifest,omitempty"`
	Trace    string            `json:"traceparent,omitempty"` // of the release; known once the source is
	Rekeyed  []string          `json:"rekeyed"`               // paths of secrets whose bytes changed
	Rotate   []string          `json:"rotate,omitempty"`      // who could read what, and may not any more
	Failed   []string          `json:"failed,omitempty"`      // hosts that keep their previous system, because theirs does not build
	Pushed   *client.Stats     `json:"pushed,omitempty"`
	Rings    *Begun            `json:"rings,omitempty"` // where garrison.toml has rings
	Mirrors  []Mirrored        `json:"mirrors,omitempty"`
	Log      string            `json:"log,omitempty"` // the file with all that nix said
}

// state is what a run knows, filled in from stage to stage.
type state struct {
	Options
	publicKey string // of SigningKey
	config    Config
	cache     Cache
	source    string
	info      git.CommitInfo
	prev      *previous
	back      *previous // what is gone back to; nil for none
	last      *previous // the host's last test release; nil for none
	branchTip string    // where the release branch is on the remote; "" when it is not there
	number    int
	blobs     map[string]string             // path → blob, in source
	rules     *secret.Rules                 // agenix's, in s.commit; nil if there are none
	secrets   fleet.Secrets                 // as in the candidate
	damaged   map[string]fleet.SecretRecord // released before, but lost or not for whom it should be
	commit    string                        // the candidate
	hosts     []nix.Host
	manual    []nix.Host
	entries   map[string]fleet.Entry
	rings     []fleet.Ring
	places    map[string]place
	built     []string // toplevels built here, to be pushed
	outcome   Outcome
}

// Refs that a run keeps in its repository.
const (
	headsRef     = "refs/garrison/heads/"
	tagsRef      = "refs/garrison/tags/"
	candidateRef = "refs/garrison/candidate"
)

// Run makes a release. Stages are recorded in the context's proc.Timeline. Errors are
// fleet.Errors: besides those of its stages CodeBusy when another run works in the same repository,
// CodeRace when somebody else published meanwhile (run it again), CodeNotDescendant when
// the source is not built on what was released last, CodeSuperseded when something newer was pushed (OnlyNewest), and CodeUnsigned, CodeUnknownKey
// or CodeSignature when commits are not signed as they must be. That a mirror does not get the release is no error: Outcome.Mirrors says so.
func Run(ctx context.Context, o Options) (Outcome, error) {
	unlock, err := lockRepo(o.Repo)
	if err != nil {
		return Outcome{}, err
	}
	defer unlock()
	s := &state{Options: o.withLog(), outcome: Outcome{State: fleet.RunUnchanged, Rekeyed: []string{}}}
	err = s.run(ctx)
	if s.source != "" {
		s.outcome.Trace = s.trace()
	}
	var known *fleet.Error
	if err != nil && ctx.Err() == nil && !errors.As(err, &known) {
		err = fleet.Errorf(fleet.Local, fleet.CodeInternal, "the release failed").WithCause(err)
	}
	if err == nil && !s.DryRun && s.RollbackTo != 0 && s.outcome.State == fleet.RunUnchanged {
		err = s.madeBefore(ctx)
	}
	if err == nil && !s.DryRun {
		s.outcome.Mirrors, err = s.mirror(ctx)
	}
	return s.outcome, err
}

// lockRepo keeps others that work with refs/garrison/ out of a repository: releases, plans, checks, looks at secrets. It
// removes what those that were killed have left.
func lockRepo(repo *git.Repo) (unlock func(), err error) {
	lock, err := durable.TryLock(filepath.Join(repo.Dir, "garrison.lock"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, fleet.Errorf(fleet.Transient, fleet.CodeBusy, "another garrison is at work in %s", repo.Dir).WithHint("wait for it to end")
	}
	if err != nil {
		return nil, stateError(repo, err)
	}
	repo.Tidy()
	return func() { _ = lock.Unlock() }, nil
}

func (s *state) run(ctx context.Context) (failure error) {
	released := false
	err := proc.Stage(ctx, fleet.Fetch, func() (err error) {
		released, err = s.prepare(ctx)
		return err
	})
	if s.Begun != nil && s.source != "" && !released {
		s.Begun(s.from())
	}
	if err != nil || released {
		return err
	}
	if s.KeepLog {
		end, err := s.openLog(time.Now())
		if err != nil {
			return err
		}
		defer func() { end(failure) }()
	}
	if err := s.newest(ctx); err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	if err := s.fillEntries(ctx); err != nil {
		return err
	}
	if !s.DryRun {
		if s.cache, err = s.Cache(s.config); err != nil { // before the long work, not after it
			return err
		}
		for _, long := range []struct {
			stage fleet.Stage
			do    func(context.Context) error
		}{{fleet.Build, s.build}, {fleet.Push, s.push}} {
			if err := s.newest(ctx); err != nil {
				return err
			}
			if err := proc.Stage(ctx, long.stage, func() error { return long.do(ctx) }); err != nil {
				return err
			}
		}
	}
	return proc.Stage(ctx, fleet.Publish, func() error { return s.publish(ctx) })
}

// prepare fetches, finds the previous release and reads the configuration. It is true when
// the source was released before.
func (s *state) prepare(ctx context.Context) (released bool, err error) {
	if s.SigningKey != "" || !s.DryRun { // before any work, not after it
		if s.publicKey, err = PublicKey(ctx, s.SigningKey); err != nil {
			return false, err
		}
	}
	if !s.NoFetch {
		if err := fetch(ctx, s.Repo, s.Remote); err != nil {
			return false, err
		}
	}
	if err := s.findSource(ctx); err != nil {
		return false, err
	}
	if s.OnlyNewest {
		source, _ := s.branches()
		tip, _, err := s.Repo.Resolve(ctx, headsRef+source+"^{commit}")
		if err == nil {
			err = s.supersededBy(tip)
		}
		if err != nil {
			return false, err
		}
	}
	if err := s.findPrevious(ctx); err != nil {
		return false, err
	}
	if s.RollbackTo != 0 {
		if err := s.goBack(ctx); err != nil {
			return false, err
		}
	}
	if s.Test != "" {
		if made, err := s.prepareTest(ctx); made || err != nil {
			return made, err
		}
	} else if s.prev != nil {
		m := s.prev.manifest
		same := s.source == m.Source.Commit || s.back == nil && s.source == m.NewestSource()
		if same && s.branchTip != "" {
			s.outcome.Release = s.prev.ref()
			s.outcome.Manifest = m
			return true, nil
		}
		if s.back == nil {
			if err := s.checkDescends(ctx); err != nil {
				return false, err
			}
		}
	}
	if err := s.vouched(ctx); err != nil {
		return false, err
	}
	s.blobs, err = s.Repo.Blobs(ctx, s.source)
	return false, err
}

func fetch(ctx context.Context, repo *git.Repo, remote string) error {
	return repo.Fetch(ctx, remote, "+refs/heads/*:"+headsRef+"*", "+refs/tags/"+fleet.TagPrefix+"*:"+tagsRef+fleet.TagPrefix+"*")
}

// findSource resolves the commit to release and reads garrison.toml in it. That file may name another
// source branch than the one it was found on; then that one's tip is taken.
func (s *state) findSource(ctx context.Context) error {
	if s.Test != "" {
		return s.testSource(ctx)
	}
	name, rev := s.Source, s.Source
	if s.Source == "" {
		first, err := s.firstBranch(ctx)
		if err != nil {
			return err
		}
		name, rev = "a branch "+first, headsRef+first
	}
	if err := s.readSource(ctx, name, rev); err != nil {
		return err
	}
	branch := s.config.Branches.Source
	if s.Source == "" {
		if rev == headsRef+branch {
			return nil
		}
		return s.readSource(ctx, "a branch "+branch, headsRef+branch)
	}
	tip, ok, err := s.Repo.Resolve(ctx, headsRef+branch+"^{commit}")
	if err == nil && ok {
		ok, err = s.Repo.IsAncestor(ctx, s.source, tip)
	}
	if err == nil && !ok {
		err = fleet.Errorf(fleet.Bad, fleet.CodeNotFound, "%.12s is not on the branch %s of %s", s.source, branch, git.Redact(s.Remote)).
			WithHint("push it there first: what is released must be what everybody sees on %s", branch)
	}
	return err
}

// firstBranch is where garrison.toml is looked for while nobody knows which branch is the source: main or, where there is none, the one branch whose own file
// says that it is the source.
func (s *state) firstBranch(ctx context.Context) (string, error) {
	heads, err := s.Repo.Refs(ctx, headsRef)
	if _, there := heads[defaultSource]; there || err != nil {
		return defaultSource, err
	}
	found := defaultSource
	for _, name := range slices.Sorted(maps.Keys(heads)) {
		c, err := s.readConfig(ctx, heads[name].Commit)
		var wrong *fleet.Error
		switch {
		case errors.As(err, &wrong) && wrong.Class == fleet.Bad: // somebody's branch with a bad file
		case err != nil:
			return "", err
		case c.Branches.Source == name:
			if found != defaultSource {
				return "", fleet.Errorf(fleet.Bad, fleet.CodeConfig, "the branches %s and %s of %s both say that they are the source", found, name, git.Redact(s.Remote)).
					WithHint("branches.source in %s must name one, on both; or name a commit with --source", ConfigPath)
			}
			found = name
		}
	}
	return found, nil
}

func (s *state) readSource(ctx context.Context, name, rev string) error {
	id, ok, err := s.Repo.Resolve(ctx, rev+"^{commit}")
	if err != nil {
		return err
	}
	if !ok {
		return fleet.Errorf(fleet.Bad, fleet.CodeNotFound, "%s does not have %s", git.Redact(s.Remote), name).
			WithHint("push it first, or name a commit with --source")
	}
	s.source = id
	if s.config, err = s.readConfig(ctx, id); err != nil {
		return err
	}
	s.info, err = s.Repo.CommitInfo(ctx, id)
	return err
}

func (s *state) readConfig(ctx context.Context, rev string) (Config, error) {
	data, _, err := s.Repo.ReadFile(ctx, rev, ConfigPath)
	if err != nil {
		return Config{}, err
	}
	return ParseConfig(ConfigPath, data)
}

// checkDescends refuses a source that is not built on the one released last: of two runs that race, the older loses.
func (s *state) checkDescends(ctx context.Context) error {
	last := s.prev.manifest.NewestSource()
	ok, err := s.Repo.IsAncestor(ctx, last, s.source)
	if err != nil {
		return err
	}
	if !ok && s.Test != "" {
		return fleet.Errorf(fleet.Bad, fleet.CodeNotDescendant, "%s (%.12s) does not descend from %.12s, which %s was made of", testSourceBranch(s.Test), s.source, last, s.prev.tag.Name).
			WithHint("rebase it on %s and push it again", s.config.Branches.Source)
	}
	if !ok {
		return fleet.Errorf(fleet.Bad, fleet.CodeNotDescendant, "%.12s does not descend from %.12s, which %s was made of", s.source, last, s.prev.tag.Name).
			WithHint("a newer commit was released already, or %s was rewritten: merge %.12s into it", s.config.Branches.Source, last)
	}
	return nil
}

// goBack takes the source of an older release in place of the branch's tip.
func (s *state) goBack(ctx context.Context) error {
	name := fleet.TagName(s.RollbackTo)
	tags, err := s.Repo.Refs(ctx, tagsRef)
	if err != nil {
		return err
	}
	ref, there := tags[name]
	if !there || s.prev == nil {
		return fleet.Errorf("", fleet.CodeNotFound, "there is no %s to go back to", name).WithHint("git ls-remote --tags shows which there are")
	}
	if s.back, err = s.readRelease(ctx, name, ref); err != nil {
		return err
	}
	return s.readSource(ctx, name+"'s source", s.back.manifest.Source.Commit)
}
