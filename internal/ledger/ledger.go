// Package ledger reads and moves the refs of a roll-out: the rings' branches, and
// the branch with the ledger, on which each commit is one act.
//
// It guarantees that an act is whole: the ledger's commit and the moves of the
// rings' branches arrive in one atomic push, each with a lease on what was read,
// or none does. A ring's branch is only ever moved forward, and only to a commit
// of the release branch. That a release's tag is signed by one of ours, the caller
// makes sure of (Manifest, or its own look at the tag). Start at Book.Change.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// Book is the roll-out of a fleet's repository, as a local repository sees and moves it.
type Book struct {
	Repo    *git.Repo
	Remote  git.Remote // its URL may be the name that Repo has for it
	Release string     // name of the branch with all releases
}

// Page is the roll-out at one time.
type Page struct {
	Ledger fleet.Ledger
	Tip    string             // of the roll-out's branch; "" when it is not there
	Rings  map[string]string  // commits that rings' branches point at, by branch
	Newest string             // commit that the release branch points at; "" when it is not there
	Tags   map[string]git.Ref // all release tags, by name; nobody has verified them yet
}

// Advance is a ring's branch that is to be moved.
type Advance struct {
	Branch   string
	From, To string // commits; From "": there was none
}

// Entry is one act: what is written to the ledger, and moved with it.
type Entry struct {
	By       string // name <mail>, of the commit
	Summary  string // its first line
	Reason   string
	Ledger   fleet.Ledger
	Advances []Advance
	// With are further refs that move in the same push: what publishing moves.
	With []git.Move
}

// Refs that a book keeps in its repository. Nobody else moves them.
const (
	headsRef = "refs/garrison/rollout/heads/"
	tagsRef  = "refs/garrison/rollout/tags/"
	heads    = "refs/heads/"
)

// Read asks the remote what the roll-out is now, in one talk. Errors: those of git.Repo.Fetch; CodeInvalid when the ledger there cannot be read.
func (b Book) Read(ctx context.Context) (Page, error) {
	unlock, err := b.lock(ctx)
	if err != nil {
		return Page{}, err
	}
	defer unlock()
	// Patterns all of them: a ref that is asked for by its name must be there.
	err = b.Repo.FetchFrom(ctx, b.Remote, "+"+heads+b.Release+"*:"+headsRef+b.Release+"*", "+refs/tags/"+fleet.TagPrefix+"*:"+tagsRef+fleet.TagPrefix+"*")
	if err != nil {
		return Page{}, err
	}
	return b.page(ctx)
}

// page is what was fetched last.
func (b Book) page(ctx context.Context) (Page, error) {
	branches, err := b.Repo.Refs(ctx, headsRef)
	if err != nil {
		return Page{}, err
	}
	p := Page{Ledger: fleet.Ledger{Schema: fleet.LedgerSchema}, Rings: map[string]string{}, Newest: branches[b.Release].Commit, Tip: branches[fleet.RolloutBranch(b.Release)].Commit}
	if p.Tags, err = b.Repo.Refs(ctx, tagsRef); err != nil {
		return Page{}, err
	}
	for name, ref := range branches {
		if fleet.IsRingBranch(b.Release, name) {
			p.Rings[name] = ref.Commit
		}
	}
	if p.Tip == "" {
		return p, nil
	}
	text, there, err := b.Repo.ReadFile(ctx, p.Tip, fleet.LedgerPath)
	if err == nil && !there {
		err = errors.New("the branch has no such file")
	}
	if err == nil {
		p.Ledger, err = fleet.ParseLedger(text)
	}
	if err != nil && ctx.Err() == nil {
		err = fleet.Errorf(fleet.Local, fleet.CodeInvalid, "%s on the branch %s (%.12s) cannot be used", fleet.LedgerPath, fleet.RolloutBranch(b.Release), p.Tip).
			WithHint("git log -p %s shows who wrote it; put the branch back to the commit before, or use the Garrison that wrote it", fleet.RolloutBranch(b.Release)).WithCause(err)
	}
	return p, err
}

// Write makes an act of what was decided on a page, and returns the page after it. Nothing happens when it would change nothing. Errors: CodeRace when
// the page is not what is there any more (read it again and decide again), CodeForcePushed when a ring would go back or leave the releases, those of git.Repo.Push.
func (b Book) Write(ctx context.Context, p Page, e Entry) (Page, error) {
	text, err := e.Ledger.Bytes()
	if err != nil {
		return p, err
	}
	if len(text) > fleet.MaxLedgerBytes {
		return p, fleet.Errorf(fleet.Local, fleet.CodeInvalid, "the ledger would have %d bytes, at most %d are read", len(text), fleet.MaxLedgerBytes)
	}
	before, err := p.Ledger.Bytes()
	if err != nil {
		return p, err
	}
	moves := slices.Clone(e.With)
	if string(before) != string(text) || p.Tip == "" {
		tip, err := b.commit(ctx, p.Tip, text, e)
		if err != nil {
			return p, err
		}
		moves = append(moves, git.Move{Ref: heads + fleet.RolloutBranch(b.Release), From: p.Tip, To: tip})
	} else if len(e.Advances) == 0 && len(e.With) == 0 {
		return p, nil
	}
	for _, a := range e.Advances {
		if err := b.forward(ctx, p, e, a); err != nil {
			return p, err
		}
		moves = append(moves, git.Move{Ref: heads + a.Branch, From: a.From, To: a.To})
	}
	if err := b.Repo.PushTo(ctx, b.Remote, moves...); err != nil {
		return p, err
	}
	return b.noted(ctx, moves)
}

// commit writes the ledger's next commit. Nothing leads to it until it is pushed.
func (b Book) commit(ctx context.Context, parent string, text []byte, e Entry) (string, error) {
	tree, err := b.Repo.TreeOf(ctx, fleet.LedgerPath, text)
	if err != nil {
		return "", err
	}
	c := git.Commit{Tree: tree, Message: oneLine(e.Summary) + "\n", When: time.Now(), Author: e.By}
	if reason := strings.TrimSpace(e.Reason); reason != "" {
		c.Message += "\n" + reason + "\n"
	}
	if parent != "" {
		c.Parents = []string{parent}
	}
	return b.Repo.WriteCommit(ctx, c)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// forward makes sure that a ring's branch stays on the releases and does not go back.
func (b Book) forward(ctx context.Context, p Page, e Entry, a Advance) error {
	if !fleet.IsRingBranch(b.Release, a.Branch) {
		return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "%q is no branch of a ring", a.Branch)
	}
	if at := p.Rings[a.Branch]; at != a.From {
		return fleet.Errorf(fleet.Transient, fleet.CodeRace, "%s points at %.12s, not at %.12s", a.Branch, at, a.From)
	}
	newest := p.Newest
	for _, m := range e.With {
		if m.Ref == heads+b.Release {
			newest = m.To
		}
	}
	for _, step := range [][2]string{{a.From, a.To}, {a.To, newest}} {
		if step[0] == "" || step[0] == step[1] {
			continue
		}
		ok, err := step[1] != "", error(nil)
		if ok {
			ok, err = b.Repo.IsAncestor(ctx, step[0], step[1])
		}
		if err != nil {
			return err
		}
		if !ok {
			return fleet.Errorf(fleet.Local, fleet.CodeForcePushed, "%s cannot go from %.12s to %.12s: a ring goes forward only, and only to releases that are on %s", a.Branch, a.From, a.To, b.Release).
				WithHint("somebody else wrote to one of the two branches: find out who, and put it back to a release")
		}
	}
	return nil
}

// noted has the local refs say what was pushed, as a fetch would.
func (b Book) noted(ctx context.Context, moves []git.Move) (Page, error) {
	unlock, err := b.lock(ctx)
	if err != nil {
		return Page{}, err
	}
	defer unlock()
	refs := map[string]string{}
	for _, m := range moves {
		if branch, ok := strings.CutPrefix(m.Ref, heads); ok && strings.HasPrefix(branch, b.Release) {
			refs[headsRef+branch] = m.To
		}
		if tag, ok := strings.CutPrefix(m.Ref, "refs/tags/"); ok {
			refs[tagsRef+tag] = m.To
		}
	}
	if err := b.Repo.UpdateRefs(ctx, refs); err != nil {
		return Page{}, err
	}
	return b.page(ctx)
}

// Tries is how often Change decides before it gives up.
const Tries = 5

// Change reads, has decide say what is to be done, and writes that; after a lost race once more, up to Tries times. An entry that is nil changes nothing.
// The page is that after the act; with an error, the last that was read. Errors: those of Read, Write and decide.
func (b Book) Change(ctx context.Context, decide func(Page) (*Entry, error)) (Page, error) {
	for try := 1; ; try++ {
		p, err := b.Read(ctx)
		if err != nil {
			return p, err
		}
		e, err := decide(p)
		if err != nil || e == nil {
			return p, err
		}
		after, err := b.Write(ctx, p, *e)
		if err == nil {
			return after, nil
		}
		if fleet.CodeOf(err) != fleet.CodeRace || try == Tries {
			return p, err
		}
		if err := sleep(ctx, time.Duration(try)*200*time.Millisecond); err != nil {
			return p, err
		}
	}
}

// sleep waits for about as long as d.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// lock keeps two that work in the same repository apart while refs are fetched: git would refuse the later one.
func (b Book) lock(ctx context.Context) (unlock func(), err error) {
	for {
		l, err := durable.TryLock(filepath.Join(b.Repo.Dir, "garrison-rollout.lock"))
		switch {
		case err == nil:
			return func() { _ = l.Unlock() }, nil
		case !errors.Is(err, durable.ErrLocked):
			return nil, fleet.Errorf(fleet.Local, fleet.CodeState, "cannot write to %s", b.Repo.Dir).WithHint("check its owner, and the free space").WithCause(err)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// Manifest reads what a release tag of a page says. It is verified against a file of allowed signers (ssh-keygen(1)) if one is named. Errors of class Bad say
// that it is not to be trusted or used.
func (b Book) Manifest(ctx context.Context, p Page, name, allowedSigners string) (*fleet.Manifest, git.Tag, error) {
	ref, there := p.Tags[name]
	if !there {
		return nil, git.Tag{}, fleet.Errorf(fleet.Bad, fleet.CodeNotFound, "there is no %s at %s", name, git.Redact(b.Remote.URL)).WithHint("git ls-remote --tags shows which there are")
	}
	return ReadRelease(ctx, b.Repo, name, ref, allowedSigners)
}

// Numbers are those of the release tags that lead to a commit, the newest first. What is no tag object cannot be signed, and is left out; nobody has verified the others.
func Numbers(tags map[string]git.Ref, commit string) (list []int) {
	for name, ref := range tags {
		if n, ok := fleet.TagNumber(name); ok && commit != "" && ref.Commit == commit && ref.ID != commit {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b int) int { return b - a })
	return list
}

// ReadRelease is the manifest in a release tag that is in a repository, and the tag, if one of the keys in the file allowedSigners signed it ("": whoever
// did) under that name, for the commit that ref says. Errors of class Bad say that it may not be believed.
func ReadRelease(ctx context.Context, repo *git.Repo, name string, ref git.Ref, allowedSigners string) (*fleet.Manifest, git.Tag, error) {
	if allowedSigners != "" {
		if err := repo.VerifyTag(ctx, ref.ID, allowedSigners); err != nil {
			return nil, git.Tag{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	tag, err := repo.ReadTag(ctx, ref.ID)
	if err != nil {
		return nil, tag, fleet.Errorf(fleet.Bad, fleet.CodeManifest, "the tag %s cannot be read", name).WithCause(err)
	}
	m, err := fleet.ParseTagMessage(tag.Message)
	switch {
	case err != nil:
		return nil, tag, fleet.Errorf(fleet.Bad, fleet.CodeManifest, "the tag %s says nothing that can be used", name).WithCause(err)
	case tag.Name != name || m.Name() != name || tag.Commit != ref.Commit:
		return nil, tag, fleet.Errorf(fleet.Bad, fleet.CodeReplayed, "the tag %s was signed as %s with the manifest of %s: somebody renamed it", name, tag.Name, m.Name())
	}
	return m, tag, nil
}
