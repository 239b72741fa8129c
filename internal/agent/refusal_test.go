package agent_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestRefusals moves the release branch to what must not be accepted. Each leaves the host as it is, says why, and is over
// when the branch is put right.
func TestRefusals(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	b.deploy("good2")
	good := b.tip
	onTop := []string{good}
	text := func(s string) func(*fleet.Manifest) []byte { return func(*fleet.Manifest) []byte { return []byte(s) } }
	for _, c := range []struct {
		name string
		do   func()
		code fleet.Code
		says string
	}{
		{"no tag at the tip", func() {
			tip := b.make(3, "good3", signed{parents: onTop})
			b.git("update-ref", "-d", "refs/tags/release-3")
			b.point(tip)
		}, fleet.CodeUnsigned, "no release tag points at the tip"},
		{"a lightweight tag", func() {
			tip := b.make(3, "good3", signed{parents: onTop})
			b.git("update-ref", "refs/tags/release-3", tip)
			b.point(tip)
		}, fleet.CodeUnsigned, "release-3 is not a signed one"},
		{"an annotated tag without a signature", func() {
			tip := b.make(3, "good3", signed{parents: onTop})
			b.git("-c", "user.name=t", "-c", "user.email=t@example.org", "tag", "--force", "--annotate", "--message", "release-3: x", "release-3", tip)
			b.point(tip)
		}, fleet.CodeUnsigned, "is not signed"},
		{"a tag signed by an unknown key", func() { b.point(b.make(3, "good3", signed{parents: onTop, key: "stranger"})) }, fleet.CodeUnknownKey, "not signed by a key in"},
		{"an older signed tag under a new name", func() {
			b.point(b.make(3, "good1", signed{parents: onTop, name: "release-1"}))
		}, fleet.CodeReplayed, "was signed as release-1"},
		{"a number that goes down", func() {
			b.point(b.make(1, "good1", signed{parents: onTop, ref: "release-1"}))
		}, fleet.CodeReplayed, "the number must go up"},
		{"a force-push to an older release", func() { b.point(b.parent(good)) }, fleet.CodeForcePushed, "was force-pushed"},
		{"a force-push to another history", func() { b.point(b.make(3, "good3", signed{})) }, fleet.CodeForcePushed, "was force-pushed"},
		{"the tag of what runs moved", func() { b.make(2, "good3", signed{parents: onTop}) }, fleet.CodeTagMoved, "the tag release-2 was moved"},
		{"the branch deleted", func() { b.point("") }, fleet.CodeBranchGone, "is gone from the remote"},
		{"a manifest that is none", func() {
			b.point(b.make(3, "good3", signed{parents: onTop, message: text("release-3: x\n\n{\"schema\": 1, \n")}))
		}, fleet.CodeManifest, "not JSON"},
		{"a manifest of another schema", func() {
			b.point(b.make(3, "good3", signed{parents: onTop, message: text("release-3: x\n\n{\"schema\": 2}\n")}))
		}, fleet.CodeManifest, "schema 2"},
		{"a manifest that names no store path", func() {
			b.point(b.make(3, "good3", signed{parents: onTop, message: func(m *fleet.Manifest) []byte {
				text, _ := m.TagMessage()
				return []byte(strings.ReplaceAll(string(text), "/nix/store/", "/tmp/"))
			}}))
		}, fleet.CodeManifest, "is not a store path"},
		{"another host's system", func() {
			b.point(b.make(3, "good3", signed{parents: onTop, message: func(m *fleet.Manifest) []byte {
				m.Hosts["good3"] = m.Hosts["joker"]
				text, _ := m.TagMessage()
				return text
			}}))
		}, fleet.CodeWrongHost, "the system of good3"},
	} {
		ok := t.Run(c.name, func(t *testing.T) {
			b := *b
			b.t = t
			tags := b.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/tags")
			before, _ := b.status()
			c.do()
			s := b.await("refused", func(s fleet.Status) bool { return s.Refused != nil })
			if s.Refused.Failure.Code != c.code || !strings.Contains(s.Refused.Failure.Message, c.says) || time.Since(s.Refused.Since) > time.Minute {
				t.Errorf("refused: %+v", s.Refused)
			}
			if s.Phase != before.Phase || *s.Newest != *before.Newest || !reflect.DeepEqual(s.Active, before.Active) {
				t.Errorf("the refusal changed more: %+v", s)
			}
			b.says(3, "idle: runs what the newest release says", "REFUSED", "→ ", c.says, "(since ", "ago)")
			b.runs("good2")
			log, err := b.host.ReadFile("/var/log/agent.log")
			if want := "tip=" + s.Refused.Tip + " code=" + string(c.code) + " err="; err != nil || !strings.Contains(strings.ReplaceAll(string(log), `tip="" `, "tip= "), want) {
				t.Errorf("%v; the log does not say %q", err, want)
			}
			if text := b.metrics(); !strings.Contains(text, `garrison_refused{code="`+string(c.code)+`"} 1`) {
				t.Errorf("it is not in the metrics:\n%s", text)
			}
			// Put right: branch and tags as they were.
			for line := range strings.Lines(b.git("for-each-ref", "--format=%(refname)", "refs/tags")) {
				b.git("update-ref", "-d", strings.TrimSpace(line))
			}
			for line := range strings.Lines(tags) {
				ref, id, _ := strings.Cut(strings.TrimSpace(line), " ")
				b.git("update-ref", ref, id)
			}
			b.point(good)
			b.await("accepted again", func(s fleet.Status) bool { return s.Refused == nil })
			b.says(0)
		})
		if !ok {
			return
		}
	}
	b.number = 2
	b.deploy("good3")
}

// A bad tip before the first release is refused as well, and forgotten with the branch.
func TestRefusalBeforeTheFirstRelease(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.point(b.make(1, "good1", signed{key: "stranger"}))
	b.await("refused", func(s fleet.Status) bool { return s.Refused != nil && s.Phase == fleet.PhaseNew })
	b.systems("", "")
	b.point("")
	b.await("forgotten", func(s fleet.Status) bool { return s.Refused == nil })
	b.deploy("good1")
}

// A repository that was made anew, or damaged, is fetched again, and what it says is held against the record.
func TestForcePushAndNoRepository(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	if err := b.host.StopService(testContext(t), b.unit); err != nil {
		t.Fatal(err)
	}
	b.must("rm -rf " + stateDir + "/repo.git")
	good := b.tip
	b.point(b.make(7, "good3", signed{}))
	b.git("update-ref", "-d", "refs/tags/release-1")
	if err := b.host.StartService(testContext(t), b.unit); err != nil {
		t.Fatal(err)
	}
	s := b.await("refused", func(s fleet.Status) bool { return s.Refused != nil })
	if s.Refused.Failure.Code != fleet.CodeForcePushed {
		t.Errorf("%+v", s.Refused)
	}
	b.point(good)
	b.await("accepted again", func(s fleet.Status) bool { return s.Refused == nil })
	b.runs("good1")
}

// Without a file of signers nothing is accepted, and nothing given up.
func TestNoAllowedSigners(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	b.must("mv /etc/garrison/allowed-signers /etc/garrison/elsewhere")
	n := b.publish("good2")
	b.await("it cannot verify", func(s fleet.Status) bool { return s.Remote.Failure != nil && s.Remote.Failure.Stage == fleet.Verify })
	b.says(3, "GIT", "cannot read the allowed signers", "must hold the public keys")
	b.runs("good1")
	b.must("mv /etc/garrison/elsewhere /etc/garrison/allowed-signers")
	b.ended(n)
	b.runs("good2")
	b.says(0)
}

// git runs git in the origin.
func (b *box) git(args ...string) string {
	b.t.Helper()
	out, err := gitOutput(b.origin.Dir, args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (b *box) parent(commit string) string { return b.git("rev-parse", commit+"^") }

// Tags that whoever may push put beside the release's own stop nobody.
func TestForeignTagsAreInNobodysWay(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	tip := b.make(2, "good2", signed{parents: []string{b.tip}})
	b.git("update-ref", "refs/tags/release-900", tip)
	b.git("-c", "user.name=t", "-c", "user.email=t@example.org", "tag", "--annotate", "--message", "release-901: x", "release-901", tip)
	b.point(tip)
	s := b.await("deployed", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Newest.Number == 2 })
	if s.Refused != nil {
		t.Errorf("%+v", s.Refused)
	}
	b.runs("good2")
}
