package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// stopped does something to a host whose agent does not run.
func (b *box) stopped(f func()) {
	b.t.Helper()
	if err := b.host.StopService(testContext(b.t), b.unit); err != nil {
		b.t.Fatal(err)
	}
	f()
	if err := b.host.StartService(testContext(b.t), b.unit); err != nil {
		b.t.Fatal(err)
	}
}

// TestDamage: whatever a power cut, a bad disk or a person does to the agent's files, it finds back by itself, to what runs and
// to the next release.
func TestDamage(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	last := "good1"
	for _, c := range []struct{ name, script string }{
		{"everything deleted", "rm -rf S/* S/.[a-z]*"},
		{"the record deleted", "rm S/state.json"},
		{"the record cut short", "busybox truncate -s 40 S/state.json"},
		{"the record of zeros", "busybox truncate -s 0 S/state.json; busybox truncate -s 500 S/state.json"},
		{"the memory cut short", "busybox truncate -s 20 S/newest.json"},
		{"record and memory deleted", "rm S/state.json S/newest.json"},
		{"record and repository deleted", "rm -rf S/state.json S/repo.git"},
		{"the repository deleted", "rm -rf S/repo.git"},
		{"the repository empty", "rm -rf S/repo.git/*"},
		{"a pack cut short", "git --git-dir S/repo.git repack -adq; for p in S/repo.git/objects/pack/*.pack; do chmod u+w $p; busybox truncate -s 200 $p; done"},
		{"a pack deleted", "git --git-dir S/repo.git repack -adq; rm -f S/repo.git/objects/pack/*.pack"},
		{"refs of zeros", "busybox find S/repo.git/refs -type f | while read f; do busybox truncate -s 0 $f; busybox truncate -s 41 $f; done"},
		{"refs that are empty", "busybox find S/repo.git/refs -type f -exec busybox truncate -s 0 {} +"},
		{"packed refs of zeros", "git --git-dir S/repo.git pack-refs --all; busybox truncate -s 0 S/repo.git/packed-refs; busybox truncate -s 300 S/repo.git/packed-refs"},
		{"objects deleted", "rm -rf S/repo.git/objects/??"},
		{"objects that are empty", "busybox find S/repo.git/objects/?? -type f -exec chmod u+w {} + -exec busybox truncate -s 0 {} +"},
		{"HEAD empty", "busybox truncate -s 0 S/repo.git/HEAD"},
		{"nonsense in git's configuration", "echo '[[nonsense' > S/repo.git/config"},
		{"a file in the repository's place", "rm -rf S/repo.git; echo x > S/repo.git"},
		{"locks", "cd S/repo.git; for d in refs/garrison/remotes/*/heads/release; do touch -d '2 hours ago' $d.lock; done; for l in HEAD config packed-refs shallow objects/info/commit-graph gc.pid; do touch -d '2 hours ago' $l.lock; done"},
		{"a repository half put in place of another", "mv S/repo.git S/repo.git.old; cp -r S/repo.git.old S/repo.git.new"},
	} {
		if !t.Run(c.name, func(t *testing.T) {
			b := *b
			b.t = t
			b.stopped(func() { b.must("set -e; " + strings.ReplaceAll(c.script, "S/", stateDir+"/")) })
			b.await("it finds back to what runs", func(s fleet.Status) bool {
				return s.Phase == fleet.PhaseIdle && s.Active != nil && s.Active.OutPath == b.lab.out(last) && s.Refused == nil
			})
			b.runs(last)
			if d := b.history(b.number); c.name != "everything deleted" && len(d) != 1 {
				t.Errorf("it was deployed again: %+v", d)
			}
		}) {
			return
		}
		if last = map[string]string{"good1": "good2", "good2": "good1"}[last]; !t.Run(c.name+", and goes on", func(t *testing.T) {
			c := *b
			c.t = t
			c.deploy(last)
			b.number, b.tip = c.number, c.tip
			c.says(0)
			if left := c.must("ls " + stateDir); strings.Contains(left, "repo.git.") {
				t.Errorf("left: %s", left)
			}
		}) {
			return
		}
	}
}

// TestDamageWhileItRuns: the same, under a running agent.
func TestDamageWhileItRuns(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	b.must("rm -rf " + stateDir + "/repo.git")
	b.deploy("good2")
	b.must("rm -rf " + stateDir + "/repo.git/objects/??; busybox truncate -s 0 " + stateDir + "/repo.git/HEAD")
	b.deploy("good1")
	b.must("rm " + stateDir + "/state.json " + stateDir + "/newest.json")
	b.deploy("good2")
}

// TestMemory: what was accepted is not forgotten with any one of the files, nor with several; and where all are gone, what runs
// is held against the releases that there are.
func TestMemory(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	first := b.tip
	b.deploy("good2")
	second := b.tip
	for _, c := range []struct {
		lost string
		code fleet.Code
	}{
		{"state.json", fleet.CodeForcePushed}, {"newest.json", fleet.CodeForcePushed}, {"repo.git", fleet.CodeForcePushed},
		{"state.json repo.git", fleet.CodeForcePushed}, {"newest.json repo.git", fleet.CodeForcePushed}, {"*", fleet.CodeReplayed},
	} {
		b.stopped(func() {
			b.must("cd " + stateDir + " && rm -rf " + c.lost)
			b.point(first)
		})
		s := b.await("refused without "+c.lost, func(s fleet.Status) bool { return s.Refused != nil })
		if s.Refused.Tip != first || s.Refused.Failure.Code != c.code {
			t.Errorf("without %s: %+v", c.lost, s.Refused)
		}
		b.runs("good2")
		b.point(second)
		b.await("over", func(s fleet.Status) bool {
			return s.Refused == nil && s.Phase == fleet.PhaseIdle && s.Newest.Number == 2
		})
		b.runs("good2")
	}

	// And if it is meant: the operator says so.
	b.point(first)
	b.await("refused", func(s fleet.Status) bool { return s.Refused != nil })
	b.must("garrison agent accept " + first)
	b.await("gone back", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Newest.Number == 1 })
	b.runs("good1")
	b.says(0)
}

// TestMemoryAndMirror: where all is forgotten, a mirror that lags does not take the host back, whichever remote answers first.
func TestMemoryAndMirror(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{config: "[[remotes]]\nname = \"mirror\"\nurl = \"file:///srv/mirror.git\"\n"})
	b.deploy("good1")
	b.must("git clone --quiet --mirror file:///srv/fleet.git /srv/mirror.git")
	b.deploy("good2")
	for range 4 {
		b.stopped(func() { b.must("rm -rf " + stateDir + "/*") })
		s := b.await("both were asked", func(s fleet.Status) bool {
			return s.Phase == fleet.PhaseIdle && s.Remotes[1].Behind && s.Remotes[0].Tip == b.tip
		})
		if s.Newest.Number != 2 || s.Last != nil {
			t.Errorf("%+v; %+v", s.Newest, s.Last)
		}
		b.runs("good2")
	}
	// Without the other one it is all there is.
	b.stopped(func() { b.must("rm -rf " + stateDir + "/*; busybox sed -i '/^remote = /d' /etc/garrison/agent.toml") })
	b.await("gone back", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Newest.Number == 1 })
	b.runs("good1")
}

// TestOtherHostsSystem: a release that mixed up hosts is refused by those that it would hurt.
func TestOtherHostsSystem(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{host: "good1"})
	mixed := func(variant string) func(*fleet.Manifest) []byte {
		return func(m *fleet.Manifest) []byte {
			m.Hosts = map[string]fleet.Entry{"good1": b.lab.manifest.Hosts[variant], "good2": b.lab.manifest.Hosts["good2"]}
			text, err := m.TagMessage()
			if err != nil {
				t.Error(err)
			}
			return text
		}
	}
	publish := func(number int, variant string) {
		var parents []string
		if b.tip != "" {
			parents = []string{b.tip}
		}
		b.tip = b.make(number, "", signed{parents: parents, message: mixed(variant)})
		b.point(b.tip)
	}
	wrong := func() {
		t.Helper()
		s := b.await("refused", func(s fleet.Status) bool { return s.Refused != nil })
		if s.Refused.Failure.Code != fleet.CodeWrongHost || !strings.Contains(s.Refused.Failure.Message, "the system of good2") {
			t.Errorf("%+v", s.Refused)
		}
	}
	publish(1, "good2")
	wrong()
	b.systems("", "")
	publish(2, "good1")
	b.ended(2)
	b.runs("good1")
	publish(3, "good2")
	wrong()
	b.runs("good1")
	publish(4, "good3") // of no host of this release: a fleet's own way of naming
	b.ended(4)
	b.runs("good3")
}

// TestFullDiskDuringFetch: a release that does not fit leaves a repository that works, and is followed when there is room.
func TestFullDiskDuringFetch(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{tmpfs: true})
	b.deploy("good1")
	noise := filepath.Join(t.TempDir(), "noise")
	if err := command("", "sh", "-c", "head -c 6000000 /dev/urandom > "+noise); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(noise)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := b.origin.WriteBlob(testContext(t), data)
	if err != nil {
		t.Fatal(err)
	}
	if b.tree, err = b.origin.TreeWith(testContext(t), b.tip, map[string]string{"noise": blob}); err != nil {
		t.Fatal(err)
	}
	n := b.publish("good2")
	s := b.await("it does not fit", func(s fleet.Status) bool { return s.Remote.Failure != nil })
	if f := s.Remote.Failure; f.Class != fleet.Local || !strings.Contains(f.Message, "no space left") {
		t.Errorf("%+v", f)
	}
	b.runs("good1")
	b.must("git --git-dir " + stateDir + "/repo.git fsck --full --no-dangling; mount -o remount,size=40m " + stateDir)
	b.ended(n)
	b.runs("good2")
	if left := b.must("find " + stateDir + "/repo.git -name '*.lock'; git --git-dir " + stateDir + "/repo.git fsck --full --no-dangling"); left != "" {
		t.Errorf("left: %s", left)
	}
}

// TestPowerCutDamage, on a host with a real systemd: what a power cut leaves of the agent's files is found back from, and a refusal
// is lifted there as anywhere.
func TestPowerCutDamage(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	first := b.tip
	b.must("systemctl stop garrison-agent; cd " + stateDir + ` && find repo.git/objects -type f -path '*/??/*' -exec chmod u+w {} + -exec truncate -s 0 {} + &&
		touch -d '2 hours ago' repo.git/packed-refs.lock repo.git/HEAD.lock && truncate -s 30 newest.json && echo '{"schema": 1, "ho' > state.json.tmp && sync`)
	if err := b.host.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := b.host.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	b.deploy("good2")
	b.says(0)
	second := b.tip
	b.point(first)
	b.await("refused", func(s fleet.Status) bool { return s.Refused != nil })
	b.says(3, "REFUSED", "was force-pushed", "garrison agent accept "+first)
	b.runs("good2")
	b.must("garrison agent accept " + first)
	b.await("gone back", func(s fleet.Status) bool {
		return s.Phase == fleet.PhaseIdle && s.Newest.Number == 1 && s.Refused == nil
	})
	b.runs("good1")
	b.point(second)
	b.await("and forth: a release that follows", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Newest.Number == 2 })
	b.runs("good2")
}
