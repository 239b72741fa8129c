package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// trial is what a look found on the host's test branch.
type trial struct {
	event   deploy.Event   // TestFound, also of what is known, or TestGone; nil when nothing was looked at, or it is ignored
	ignored *fleet.Refusal // why it is
}

// testSpecs are the refspecs of the host's test branch and its tags, as far as those of the release branch do not bring them.
func (l *looker) testSpecs(m *remote) []string {
	branch := fleet.TestBranch(l.host)
	specs := []string{m.spec("tags", branch+"-")}
	if !strings.HasPrefix(branch, l.branch) {
		specs = append(specs, m.spec("heads", branch))
	}
	return specs
}

// lookAtTest says what the test branch means beside the releases with the numbers given and newest, which were just found to be that for this
// host; it may be built on either, or one between. Whatever is wrong with it stands in no release's way.
func (l *looker) lookAtTest(ctx context.Context, given, newest int, k known, refs map[string]git.Ref) trial {
	tip, there := refs[headsRef+fleet.TestBranch(l.host)]
	switch {
	case k.number == 0:
		return trial{} // its tags were not fetched
	case !there:
		return trial{event: deploy.TestGone{}}
	case tip.ID == k.test.Commit && given == k.given.number && newest == k.number:
		return trial{event: deploy.TestFound{Release: fleet.ReleaseRef{Test: k.test.Test, Commit: k.test.Commit, Tag: k.test.Tag}, Base: newest}}
	}
	found, err := l.verifyTest(ctx, tip.ID, given, newest, k, refs)
	if err != nil {
		f := fleet.FailureOf(fleet.Verify, err)
		return trial{ignored: &fleet.Refusal{Tip: tip.ID, Since: time.Now().UTC(), Failure: *f}}
	}
	return trial{event: found}
}

// verifyTest accepts the test branch's tip as a test release for this host that is built on the newest release, or on one that its ring did not
// give it before; or says why not.
func (l *looker) verifyTest(ctx context.Context, tip string, given, newest int, k known, refs map[string]git.Ref) (deploy.TestFound, error) {
	var numbers []int
	for ref, to := range refs {
		if n, ok := fleet.TestTagNumber(l.host, strings.TrimPrefix(ref, tagsRef)); ok && to.Commit == tip {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	branch := fleet.TestBranch(l.host)
	const again = "push the host's test branch again, for garrison release --test"
	why := error(fleet.Errorf(fleet.Bad, fleet.CodeUnsigned, "no tag of a test points at the tip %.12s of the branch %s", tip, branch).WithHint(again))
	numbers = numbers[max(0, len(numbers)-manyTags):]
	for i, n := range slices.Backward(numbers) {
		name := fleet.TestTagName(l.host, n)
		tag, m, err := l.readTag(ctx, name, tip, refs[tagsRef+name])
		if err != nil {
			if i == len(numbers)-1 {
				why = err
			}
			continue
		}
		seen, _ := fleet.TestTagNumber(l.host, k.tested.Test)
		release := m.Ref(tip, tag.ID)
		switch {
		case n < seen || n == seen && tag.ID != k.tested.Tag:
			return deploy.TestFound{}, fleet.Errorf(fleet.Bad, fleet.CodeReplayed, "%s comes after %s: the number must go up", name, k.tested.Test).WithHint(again)
		case m.Base < given || m.Base > newest:
			return deploy.TestFound{}, fleet.Errorf(fleet.Bad, fleet.CodeNotDescendant, "%s is built on %s, and the newest release is %s", name, fleet.TagName(m.Base), fleet.TagName(newest)).
				WithHint("rebase the host's test branch and push it again, or delete it if it was merged")
		}
		return deploy.TestFound{Release: release, Entry: m.Hosts[l.host], Base: m.Base}, nil
	}
	return deploy.TestFound{}, why
}

// takeTest turns to what a remote's test branch says. That it is gone is believed when no remote that answers has it.
func (a *Agent) takeTest(ctx context.Context, l looked) {
	_, l.remote.untested = l.trial.event.(deploy.TestGone)
	a.tellIgnored(l)
	switch l.trial.event.(type) {
	case deploy.TestFound:
		a.apply(ctx, l.trial.event)
	case deploy.TestGone:
		if !slices.ContainsFunc(a.remotes, func(m *remote) bool { return !m.untested && a.status.Remotes[m.at].Failure == nil }) {
			a.apply(ctx, l.trial.event)
		}
	}
}

// tellIgnored has the status say what is ignored and why, and logs that once.
func (a *Agent) tellIgnored(l looked) {
	is := l.trial.ignored
	a.mu.Lock()
	was := a.status.Remotes[l.remote.at].Ignored
	same := was != nil && is != nil && was.Tip == is.Tip && was.Failure.Message == is.Failure.Message
	if !same {
		a.status.Remotes[l.remote.at].Ignored = is
	}
	a.mu.Unlock()
	if same || was == is {
		return
	}
	if is != nil {
		a.Log.Warn("ignoring the test branch", "stage", fleet.Verify, "tip", is.Tip, "code", is.Failure.Code, "err", firstLine(is.Failure.Message), "hint", is.Failure.Hint)
	}
	a.haveReported()
}

// tellTest logs what becomes of tests.
func (a *Agent) tellTest(was, now *deploy.Test) {
	switch {
	case was == nil && now != nil, was != nil && now != nil && was.Release.Tag != now.Release.Tag:
		a.Log.Info("a test release is tried", "test", now.Release.Test, "storePath", now.Entry.OutPath)
	case was != nil && now == nil:
		a.Log.Info("the test is over", "test", was.Release.Test)
	case was != nil && now.Left && !was.Left:
		a.Log.Warn("the test was left by a boot or by somebody, and is not begun again until its branch moves", "test", now.Release.Test)
	}
}
