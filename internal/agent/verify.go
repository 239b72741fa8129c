package agent

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// errBehind is no failure: a mirror lags.
var errBehind = errors.New("an older release")

// manyTags bounds how many release tags beside those of the tip are looked at.
const manyTags = 50

// tagNumber is the number in the name of a release tag's ref, below a remote's prefix.
func tagNumber(ref string) (int, bool) {
	name, ok := strings.CutPrefix(ref, tagsRef)
	if !ok {
		return 0, false
	}
	return fleet.TagNumber(name)
}

// wantedTags are the tags to fetch, of all that the remote has, so that tip can be verified: its own, and with more, when nothing is known
// of what was accepted before, the newest of those with a higher number: see forgotten.
func wantedTags(tags map[string]git.Ref, tip string, more bool) []string {
	var own, newer []int
	for name, ref := range tags {
		if n, ok := fleet.TagNumber(name); ok && ref.Commit == tip {
			own = append(own, n)
		}
	}
	slices.Sort(own)
	own = own[max(0, len(own)-manyTags):]
	if more {
		for name := range tags {
			if n, ok := fleet.TagNumber(name); ok && (len(own) == 0 || n > own[len(own)-1]) {
				newer = append(newer, n)
			}
		}
		slices.Sort(newer)
		newer = newer[max(0, len(newer)-manyTags):]
	}
	var names []string
	for _, n := range slices.Concat(own, newer) {
		names = append(names, fleet.TagName(n))
	}
	return names
}

// verify accepts tip as the newest release, and says which part of the roll-out it puts this host in; or why not (class Bad), or that the
// remote is behind. Nothing of what was fetched is used before its signature was checked.
func (l *looker) verify(ctx context.Context, m *remote, tip string, k known, refs map[string]git.Ref) (found deploy.Found, step fleet.Step, err error) {
	history := k.number > 0 && tip != k.accept
	if history {
		if moved := refs[tagsRef+fleet.TagName(k.number)].ID; moved != "" && moved != k.tag {
			return found, step, fleet.Errorf(fleet.Bad, fleet.CodeTagMoved, "the tag %s was moved: it is %.12s now and was %.12s", fleet.TagName(k.number), moved, k.tag).
				WithHint("find out who moved it, and put it back")
		}
		if tip == k.commit && k.whole {
			return k.newest(), k.step, nil // verified before, and deploy knows what it says
		}
		if tip != k.commit {
			if err := l.descends(ctx, m, tip, k, refs); err != nil {
				return found, step, err
			}
		}
	}
	tag, manifest, err := l.verifiedTag(ctx, tip, l.branch, refs)
	if err != nil {
		return found, step, err
	}
	if history && manifest.Number <= k.number && tag.ID != k.tag {
		return found, step, fleet.Errorf(fleet.Bad, fleet.CodeReplayed, "%s comes after %s: the number must go up", tag.Name, fleet.TagName(k.number)).
			WithHint("publish a new release")
	}
	if found, err = l.read(tag, manifest, tip); err != nil {
		return found, step, err
	}
	if found.Entry != nil {
		step = fleet.Step{Ring: found.Entry.Ring, Batch: found.Entry.Batch}
	}
	if k.number == 0 && tip != k.accept {
		return found, step, l.forgotten(ctx, found, refs)
	}
	return found, step, nil
}

// read is what a verified release says of this host.
func (l *looker) read(tag git.Tag, m *fleet.Manifest, tip string) (deploy.Found, error) {
	found := deploy.Found{Release: m.Ref(tip, tag.ID), Manual: slices.Contains(m.Manual, l.host)}
	if e, ok := m.Hosts[l.host]; ok {
		found.Entry = &e
		if other := otherHost(l.host, e.OutPath, m, l.runs()); other != "" {
			return found, fleet.Errorf(fleet.Bad, fleet.CodeWrongHost, "%s gives this host, %s, the system of %s: %s", tag.Name, l.host, other, e.OutPath).
				WithHint("find out what mixed them up, and publish a new release; if it is meant, switch to it by hand once")
		}
	}
	return found, nil
}

// descends says whether tip follows what was accepted last: nil, errBehind, or why not.
func (l *looker) descends(ctx context.Context, m *remote, tip string, k known, refs map[string]git.Ref) error {
	ok, err := l.repo.IsAncestor(ctx, k.commit, tip)
	if ok {
		return nil
	}
	there := err == nil
	if err != nil {
		// One that is not even there (the repository was made anew) was not fetched with the tip's ancestors.
		var resolveErr error
		if _, there, resolveErr = l.repo.Resolve(ctx, k.commit+"^{commit}"); there || resolveErr != nil {
			return err
		}
	}
	if l.several {
		if lags, err := l.lags(ctx, tip, k, there, refs); err != nil {
			return err
		} else if lags {
			return errBehind
		}
	}
	return fleet.Errorf(fleet.Bad, fleet.CodeForcePushed, "the branch %s was force-pushed: %.12s does not descend from %s (%.12s)", l.branch, tip, fleet.TagName(k.number), k.commit).
		WithHint("find out who did it, then put the branch back: git push --force-with-lease origin %s:refs/heads/%s", k.commit, l.branch)
}

// lags says whether a remote that does not have what is known is a mirror that has not heard of it yet: it points at an older
// release, and never showed more. A remote that goes back is none.
func (l *looker) lags(ctx context.Context, tip string, k known, there bool, refs map[string]git.Ref) (bool, error) {
	if good := refs[goodRef].Commit; good != "" && good != tip {
		if ahead, err := l.repo.IsAncestor(ctx, tip, good); ahead || err != nil {
			return false, err
		}
	}
	if there {
		return l.repo.IsAncestor(ctx, tip, k.commit)
	}
	_, manifest, err := l.verifiedTag(ctx, tip, l.branch, refs)
	return err == nil && manifest.Number < k.number, nil
}

// forgotten refuses what is older than what runs here, where nothing is remembered of releases but the host had one: a newer
// release that one of ours signed gives this host the very system that runs.
func (l *looker) forgotten(ctx context.Context, found deploy.Found, refs map[string]git.Ref) error {
	newer, err := l.newer(ctx, found, refs)
	if err != nil || newer == nil {
		return err
	}
	return fleet.Errorf(fleet.Bad, fleet.CodeReplayed, "this host runs %s, which is newer than the branch %s (%s)", newer.Release.Name(), l.branch, found.Release.Name()).
		WithHint("find out who moved the branch, then put it back: git push --force-with-lease origin %s:refs/heads/%s", newer.Release.Commit, l.branch)
}

// newer is a newer release than found that one of ours signed and that gives this host the very system that runs; nil when there is none.
func (l *looker) newer(ctx context.Context, found deploy.Found, refs map[string]git.Ref) (*deploy.Found, error) {
	runs := l.runs()
	if runs == "" || found.Entry != nil && found.Entry.OutPath == runs {
		return nil, nil
	}
	for name, ref := range refs {
		n, ok := tagNumber(name)
		if !ok || n <= found.Release.Number {
			continue
		}
		tag, manifest, err := l.readTag(ctx, fleet.TagName(n), ref.Commit, ref)
		if err != nil && fleet.ClassOf(err) != fleet.Bad {
			return nil, err
		}
		if err == nil && manifest.Hosts[l.host].OutPath == runs {
			newer, err := l.read(tag, manifest, ref.Commit)
			return &newer, err
		}
	}
	return nil, nil
}

// verifiedTag finds the newest release tag of tip that one of ours signed. Others are passed over: whoever may push can make
// them, and they must not stop a host. If all are such, the error is that of the newest.
func (l *looker) verifiedTag(ctx context.Context, tip, branch string, refs map[string]git.Ref) (git.Tag, *fleet.Manifest, error) {
	var numbers []int
	for name, ref := range refs {
		if n, ok := tagNumber(name); ok && ref.Commit == tip {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	newest := error(fleet.Errorf(fleet.Bad, fleet.CodeUnsigned, "no release tag points at the tip %.12s of the branch %s", tip, branch).
		WithHint("only Garrison may move the branch %s; find out who pushed to it, and put it back", branch))
	for i, n := range slices.Backward(numbers) {
		tag, m, err := l.readTag(ctx, fleet.TagName(n), tip, refs[tagsRef+fleet.TagName(n)])
		if err == nil || fleet.ClassOf(err) != fleet.Bad {
			return tag, m, err
		}
		if i == len(numbers)-1 {
			newest = err
		}
	}
	return git.Tag{}, nil, newest
}

// readTag checks the signature of a release's or a test's tag and only then reads it.
func (l *looker) readTag(ctx context.Context, name, tip string, ref git.Ref) (git.Tag, *fleet.Manifest, error) {
	if ref.ID == tip {
		return git.Tag{}, nil, fleet.Errorf(fleet.Bad, fleet.CodeUnsigned, "the tag %s is not a signed one", name).
			WithHint("find out who made it, and delete it")
	}
	if err := l.repo.VerifyTag(ctx, ref.ID, l.signers); err != nil {
		return git.Tag{}, nil, err
	}
	tag, err := l.repo.ReadTag(ctx, ref.ID)
	if err != nil {
		return tag, nil, fleet.Errorf(fleet.Bad, fleet.CodeManifest, "the tag %s cannot be read", name).WithCause(err)
	}
	m, err := fleet.ParseTagMessage(tag.Message)
	if err != nil {
		return tag, nil, fleet.Errorf(fleet.Bad, fleet.CodeManifest, "the tag %s says nothing that can be used", name).WithCause(err)
	}
	if tag.Name != name || m.Name() != name || tag.Commit != tip {
		return tag, nil, fleet.Errorf(fleet.Bad, fleet.CodeReplayed, "the tag %s was signed as %s with the manifest of %s: somebody renamed it", name, tag.Name, m.Name()).
			WithHint("find out who did it, and delete the false tag")
	}
	return tag, m, nil
}

// otherHost is the host of the release that a system for this host is named after, where that looks like a mix-up; "" when all is well.
// NixOS names a system after its networking.hostName, which a fleet may well give to several hosts. So it is one when what runs here is
// named after this host, or else, where nothing is known of that, when the release has the very same system for the other host.
func otherHost(host, outPath string, m *fleet.Manifest, runs string) string {
	other := namedHost(outPath, m)
	if other == "" || other == host {
		return ""
	}
	switch namedHost(runs, m) {
	case host:
		return other
	case other:
		return ""
	}
	if m.Hosts[other].OutPath == outPath {
		return other
	}
	return ""
}

// namedHost is the host of m, the one with the longest name, that a system's store path is named after; "" when there is none.
func namedHost(outPath string, m *fleet.Manifest) string {
	_, name, _ := strings.Cut(outPath, "-nixos-system-")
	best := ""
	for host := range m.Hosts {
		if strings.HasPrefix(name, host+"-") && len(host) > len(best) {
			best = host
		}
	}
	return best
}
