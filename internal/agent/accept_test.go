package agent_test

import (
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestAccept: an operator's word lifts a refusal for the sake of history, once, for the commit that was refused, and never its
// signature; what was accepted is the new beginning, also for an agent that starts anew.
func TestAccept(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.publish(1)
	first := o.tip
	o.publish(2)
	o.publish(3)
	third := o.tip
	f := follow(t, o, "poll = \"1s\"\nremote = \""+o.repo.Dir+"\"\n")
	f.follows(3)
	refused := func(code fleet.Code, tip string) fleet.Status {
		t.Helper()
		return f.await("refused", func(s fleet.Status) bool {
			return s.Refused != nil && s.Refused.Failure.Code == code && s.Refused.Tip == tip
		})
	}
	no := func(commit, says string) {
		t.Helper()
		if out, err := f.accept(commit); err == nil || !strings.Contains(out, says) {
			t.Errorf("accept %s: %v, %q", commit, err, out)
		}
	}
	no(first, "no release is refused here")

	o.point(first)
	s := refused(fleet.CodeForcePushed, first)
	if !strings.Contains(s.Refused.Failure.Hint, "garrison agent accept "+first) {
		t.Errorf("%+v", s.Refused)
	}
	no(third, "is not the commit that is refused")
	no("main", "is named by at least 7 of its digits")
	no(first[:5], "is named by at least 7 of its digits")
	if out, err := f.accept(first[:12]); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s = f.follows(1)
	if s.Refused != nil || !strings.Contains(f.said(), "act=accept") {
		t.Errorf("%+v", s.Refused)
	}
	f.stop()
	f.start()
	f.follows(1)

	// It was for that commit alone: what was newer before is new again, what goes back once more is refused.
	o.do("git", "--git-dir", o.repo.Dir, "tag", "--delete", "release-2", "release-3")
	o.point(o.make(4, first, "release"))
	f.follows(4)
	o.point(first)
	refused(fleet.CodeForcePushed, first)

	// Another history, by an unknown key: the history could be accepted, the key cannot.
	stranger := o.make(9, "", "stranger")
	o.point(stranger)
	refused(fleet.CodeForcePushed, stranger)
	if out, err := f.accept(stranger); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	refused(fleet.CodeUnknownKey, stranger)
	no(stranger, "cannot be accepted by anybody's word")
	f.stop() // the word outlives the agent, and is still not enough
	f.start()
	s = refused(fleet.CodeUnknownKey, stranger)
	if s.Newest.Number != 4 {
		t.Errorf("%+v", s.Newest)
	}
}

// TestKeysThatExpire are told from unknown ones.
func TestKeysThatExpire(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.publish(1)
	f := follow(t, o, "poll = \"1s\"\nremote = \""+o.repo.Dir+"\"\n")
	f.follows(1)
	for options, says := range map[string]string{`valid-before="20200101"`: "had expired", `valid-after="20990101"`: "not valid yet"} {
		o.sign(options)
		tip := o.make(2, o.tip, "release")
		if err := o.repo.UpdateRef(t.Context(), "refs/heads/release", tip); err != nil {
			t.Fatal(err)
		}
		f.await("refused: "+says, func(s fleet.Status) bool {
			return s.Refused != nil && s.Refused.Failure.Code == fleet.CodeKeyExpired && strings.Contains(s.Refused.Failure.Message, says)
		})
		if err := o.repo.UpdateRef(t.Context(), "refs/heads/release", o.tip); err != nil {
			t.Fatal(err)
		}
		f.await("over", func(s fleet.Status) bool { return s.Refused == nil })
	}
	o.sign("")
	o.publish(2)
	f.follows(2)
}
