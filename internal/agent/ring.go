package agent

import (
	"context"
	"fmt"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// A host in a ring is given the release that its ring's branch points at. Which ring that is stands in the newest release, which was verified
// before; the release that is given is verified like that one: whoever may move the branch can offer a signed release early, and no more.

// newest is the newest release that is known, as a look that finds it again tells of it.
func (k known) newest() deploy.Found {
	if k.head == nil {
		return deploy.Found{Release: fleet.ReleaseRef{Number: k.number, Commit: k.commit, Tag: k.tag}}
	}
	entry := k.head.Entry
	return deploy.Found{Release: k.head.Release, Entry: &entry}
}

// stayed is a look at a ring's branch that did not give the host another release; the same is not verified again.
type stayed struct{ tip, given, newest string }

func (l *looker) ring(s fleet.Step) string { return fleet.RingBranch(l.branch, s.Ring, s.Batch) }

// follow is what the ring's branch means for this host, beside the newest release.
func (l *looker) follow(ctx context.Context, m *remote, newest deploy.Found, step fleet.Step, k known, refs map[string]git.Ref) (deploy.Event, error) {
	tip := refs[headsRef+l.ring(step)].ID
	is := stayed{tip, k.given.tag, newest.Release.Tag}
	switch {
	case tip == "", tip == k.given.commit && k.given.whole, is == m.stayed:
		return l.stay(ctx, newest, k, refs), nil
	case tip == newest.Release.Commit:
		newest.Anew = k.given.number >= newest.Release.Number
		return newest, nil
	}
	found, err := l.promoted(ctx, m, tip, newest, step, k, refs)
	if err != nil {
		return nil, err
	}
	if found == nil {
		m.stayed = is
		return l.stay(ctx, newest, k, refs), nil
	}
	found.Head = headOf(newest, k)
	return *found, nil
}

// headOf is a release that the host is not given, as the record has it.
func headOf(newest deploy.Found, k known) *deploy.Head {
	if k.head != nil && k.head.Release.Tag == newest.Release.Tag {
		return k.head
	}
	if newest.Entry == nil {
		return nil // the one that it was given before
	}
	return &deploy.Head{Release: newest.Release, Entry: *newest.Entry}
}

// stay leaves the host with what it was given, or with nothing.
func (l *looker) stay(ctx context.Context, newest deploy.Found, k known, refs map[string]git.Ref) deploy.Event {
	head := headOf(newest, k)
	if k.given.whole {
		return deploy.Found{Release: fleet.ReleaseRef{Number: k.given.number, Commit: k.given.commit, Tag: k.given.tag}, Head: head}
	}
	if k.given.number > 0 { // the record was lost, but for that
		if tag, manifest, err := l.verifiedTag(ctx, k.given.commit, l.branch, refs); err == nil && tag.ID == k.given.tag {
			if found, err := l.read(tag, manifest, k.given.commit); err == nil {
				found.Head = head
				return found
			}
		}
	}
	return deploy.Nothing{Head: head}
}

// promoted accepts the tip of the ring's branch, which is neither what the host was given nor the newest release; or says why not (class
// Bad). It is nil when the host stays with what it has: the tip is older, as after the host came to a later ring, or does not know the host yet.
func (l *looker) promoted(ctx context.Context, m *remote, tip string, newest deploy.Found, step fleet.Step, k known, refs map[string]git.Ref) (*deploy.Found, error) {
	branch, given := l.ring(step), k.given
	if err := l.tagsOf(ctx, m, tip, given.number == 0, refs); err != nil {
		return nil, err
	}
	order := newer
	if given.number > 0 && tip != k.accept {
		var err error
		if order, err = l.order(ctx, tip, newest.Release.Commit, given); err != nil || order == older {
			return nil, err
		}
	}
	tag, manifest, err := l.verifiedTag(ctx, tip, branch, refs)
	switch {
	case err != nil:
		return nil, err
	case order == apart:
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeForcePushed, "the branch %s was force-pushed: %.12s does not descend from %s (%.12s)", branch, tip, fleet.TagName(given.number), given.commit).
			WithHint("find out who did it, then put the branch back: git push --force-with-lease origin %s:refs/heads/%s", given.commit, branch)
	case order == newer && given.number > 0 && tip != k.accept && manifest.Number <= given.number && tag.ID != given.tag:
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeReplayed, "%s, which the branch %s points at, comes after %s: the number must go up", tag.Name, branch, fleet.TagName(given.number)).
			WithHint("publish a new release")
	case tip != k.accept && manifest.Number > newest.Release.Number:
		return nil, nil // the release branch of this remote is behind, and will have it soon
	}
	found, err := l.read(tag, manifest, tip)
	if err != nil || found.Entry == nil {
		return nil, err
	}
	found.Anew = order == anew
	if given.number > 0 || tip == k.accept {
		return &found, nil
	}
	if runs, err := l.newer(ctx, found, refs); err != nil || runs != nil {
		return runs, err // the host had that one already
	}
	return &found, nil
}

// relation is where a commit stands beside what a host was given.
type relation int

const (
	older relation = iota // it is among the ancestors of that, or is not to be followed for another reason
	newer                 // it descends from it
	anew                  // neither, but the newest release does not descend from it either, and an operator accepted that
	apart
)

func (l *looker) order(ctx context.Context, tip, newest string, given anchor) (relation, error) {
	_, there, err := l.repo.Resolve(ctx, given.commit+"^{commit}")
	if err != nil {
		return apart, err
	}
	after := func(a, b string) (bool, error) { // whether b is a or descends from it; what is not even there is of another history
		if !there && (a == given.commit || b == given.commit) {
			return false, nil
		}
		return l.repo.IsAncestor(ctx, a, b)
	}
	for _, r := range []struct {
		older, newer string
		relation     relation
	}{{given.commit, tip, newer}, {tip, given.commit, older}, {given.commit, newest, apart}, {tip, newest, anew}} {
		if is, err := after(r.older, r.newer); is || err != nil {
			return r.relation, err
		}
	}
	return apart, nil
}

// tagsOf adds the tags of a tip to refs, and fetches what is missing of them; with newer, those of newer releases, too.
func (l *looker) tagsOf(ctx context.Context, m *remote, tip string, newer bool, refs map[string]git.Ref) error {
	had, err := l.repo.Refs(ctx, m.prefix()+tagsRef)
	if err != nil {
		return err
	}
	there := map[string]git.Ref{}
	known := false
	for name, ref := range had {
		there[tagsRef+name] = ref
		if _, ok := fleet.TagNumber(name); ok && ref.Commit == tip { // shown by an earlier look, when it was the newest, say
			refs[tagsRef+name], known = ref, true
		}
	}
	if known && !newer {
		return nil
	}
	return l.fetchTags(ctx, m, tip, newer, refs, there)
}

// permit is the boot that the ledger lets this host end, "" for none: where the agent reboots by its ring's word alone. A ledger that cannot be read
// permits nothing.
func (l *looker) permit(ctx context.Context, m *remote, refs map[string]git.Ref) string {
	tip := refs[headsRef+fleet.RolloutBranch(l.branch)].ID
	if !l.permits || tip == "" || tip == m.ledger {
		if tip == "" {
			m.ledger, m.permit = "", ""
		}
		return m.permit
	}
	boot, err := l.readPermit(ctx, tip)
	switch {
	case ctx.Err() != nil:
		return m.permit
	case err != nil:
		l.log.Warn("the roll-out's ledger cannot be read: it permits no reboot", "branch", fleet.RolloutBranch(l.branch), "tip", tip, "err", err)
	}
	m.ledger, m.permit = tip, boot
	return boot
}

func (l *looker) readPermit(ctx context.Context, tip string) (string, error) {
	text, there, err := l.repo.ReadFile(ctx, tip, fleet.LedgerPath)
	if err != nil {
		return "", err
	}
	if !there {
		return "", fmt.Errorf("there is no %s", fleet.LedgerPath)
	}
	ledger, err := fleet.ParseLedger(text)
	if err != nil {
		return "", err
	}
	return ledger.Reboots[l.host].Boot, nil
}
