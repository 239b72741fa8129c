package agent_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// orders gives the agent an order as a person does, who wants it taken (exit code 0) or refused, and told what want says.
func (b *box) orders(code int, command string, want ...string) {
	b.t.Helper()
	out, err := b.host.Command(testContext(b.t), "sh", "-c", "garrison "+command).CombinedOutput()
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	}
	if got != code {
		b.t.Errorf("garrison %s exits with %d, not %d:\n%s", command, got, code, out)
	}
	for _, w := range want {
		if !strings.Contains(string(out), w) {
			b.t.Errorf("garrison %s does not say %q:\n%s", command, w, out)
		}
	}
}

// phase waits until the host is in a phase, at rest with a variant.
func (b *box) phase(p fleet.Phase, variant string) fleet.Status {
	b.t.Helper()
	return b.await("it is "+string(p)+" with "+variant, func(s fleet.Status) bool {
		return s.Phase == p && (variant == "" || s.Active != nil && s.Active.OutPath == b.lab.out(variant))
	})
}

func (b *box) restartAgent() {
	b.t.Helper()
	if err := b.host.RestartService(testContext(b.t), b.unit); err != nil {
		b.t.Fatal(err)
	}
	b.await("the agent is back", func(fleet.Status) bool { return true })
}

// acts are the kinds of what garrison history knows besides deployments, newest first.
func (b *box) acts() []string {
	b.t.Helper()
	var all []fleet.Act
	if err := json.Unmarshal([]byte(b.must("garrison history -n 1000 -o json")), &all); err != nil {
		b.t.Fatal(err)
	}
	var kinds []string
	for _, a := range all {
		if a.Act != "" {
			kinds = append(kinds, a.Act)
		}
	}
	return kinds
}

func TestRetry(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	b.orders(1, "retry", "nothing failed here that could be tried again: the host is idle", "→ garrison explain")
	n := b.publish("fails")
	b.ended(n)
	b.says(3, "held")
	b.orders(0, "retry", fleet.TagName(n)+" is tried again now")
	b.await("it failed twice", func(s fleet.Status) bool { return s.Phase == fleet.PhaseHeld && s.Attempt == 2 })
	if d := b.history(n); len(d) != 2 || d[0].Result != fleet.RolledBack {
		t.Errorf("history: %+v", d)
	}
	b.runs("good1")

	// A system that is held stays so while newer releases bring it again; retry lifts that.
	m := b.publish("fails")
	b.await("still held", func(s fleet.Status) bool { return s.Newest.Number == m && s.Phase == fleet.PhaseHeld })
	b.orders(0, "retry", fleet.TagName(m)+" is tried again now")
	b.await("tried", func(s fleet.Status) bool { return s.Phase == fleet.PhaseHeld && s.Attempt == 3 })
	if d := b.history(m); len(d) != 1 {
		t.Errorf("history: %+v", d)
	}
	b.orders(0, "explain", "holds "+fleet.TagName(m)+", which failed here for a reason of its own", "→ garrison retry")
}

func TestRollback(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	b.orders(1, "rollback", "the history has only 0 confirmed systems before the one that runs", "→ garrison history")
	b.deploy("good2")
	b.deploy("good3")
	b.orders(0, "rollback --reason 'the lights went out'", "turning to release-2", "good2")
	b.phase(fleet.PhaseOverruled, "good2")
	b.runs("good2")
	b.says(4, "overruled: runs what root chose (rollback)", "CHOSEN", "release-2 by root (the lights went out)")
	b.orders(0, "explain", "runs release-2, which root chose by garrison rollback (the lights went out)", "until a release newer than release-3 brings", "→ garrison deploy release-3")

	// It stays, whatever the agent, and releases that bring what was overruled.
	n := b.publish("good3")
	b.await("seen", func(s fleet.Status) bool { return s.Newest.Number == n })
	b.restartAgent()
	b.phase(fleet.PhaseOverruled, "good2")
	b.runs("good2")
	b.orders(0, "rollback", "turning to release-1") // further back, not forth
	b.phase(fleet.PhaseOverruled, "good1")
	b.orders(0, "deploy release-"+fmt.Sprint(n), "turning to release-4")
	b.phase(fleet.PhaseIdle, "good3")
	b.says(0)
	b.orders(0, "rollback", "turning to release-1") // those between were run away from
	b.phase(fleet.PhaseOverruled, "good1")
	b.deploy("good2") // a newer release with another system
	b.says(0)
	b.deploy("good3")
	b.orders(0, "rollback 2", "turning to release-1")
	b.phase(fleet.PhaseOverruled, "good1")
	if got := strings.Join(b.acts(), " "); got != "rollback rollback deploy rollback rollback" {
		t.Errorf("acts: %s", got)
	}
	if out := b.must("garrison history"); !strings.Contains(out, "rollback by root") || !strings.Contains(out, "(the lights went out)") {
		t.Errorf("history:\n%s", out)
	}
	b.orders(2, "rollback 0")
	b.orders(1, "rollback 9", "only")
}

func TestDeployOfChoice(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	b.deploy("good2")
	b.orders(1, "deploy release-2", "this host runs that system already, from release-2")
	b.orders(1, "deploy release-9", "release-9 is not among the releases that this host knows")
	b.orders(2, "deploy nonsense", "a release is named like release-411")
	b.orders(1, "deploy /nix/store/nonsense", "is not a store path")
	b.orders(0, "deploy 1", "turning to release-1")
	b.phase(fleet.PhaseOverruled, "good1")
	b.runs("good1")
	// One that no release of this host ever had, fetched from the cache.
	b.orders(0, "deploy "+b.lab.out("good3"), "turning to /nix/store/")
	b.phase(fleet.PhaseOverruled, "good3")
	b.runs("good3")
	b.says(4, "a store path by root")
	// One that is bad is rolled back like any other, and held.
	b.orders(0, "deploy "+b.lab.out("fails"))
	b.phase(fleet.PhaseHeld, "good3")
	b.runs("good3")
	b.orders(0, "explain", "holds a store path, which failed here")
	b.deploy("good1")
	b.says(0)

	// A tag that somebody else signed is no release, even asked for by name.
	commit := b.make(9, "good2", signed{key: "stranger", parents: []string{b.tip}})
	if err := b.origin.UpdateRef(testContext(t), "refs/heads/elsewhere", commit); err != nil {
		t.Fatal(err)
	}
	b.number = 9
	b.deploy("good3")
	b.orders(1, "deploy release-9", "is not signed by a key")
	b.runs("good3")
}

func TestSuspend(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	b.orders(2, "suspend --for 1h", "suspend needs --reason")
	b.orders(2, "suspend --reason x", "suspend needs --for")
	b.orders(1, "resume", "nothing is suspended")
	b.orders(0, "suspend --reason 'the audit' --for 1h", "no activation starts until")
	b.says(0, "SUSPENDED", "by root until", "(the audit)") // it runs what it should
	n := b.publish("good2")
	b.phase(fleet.PhaseWaiting, "good1")
	b.says(3, fleet.TagName(n)+" is fetched, and waits for the end of the suspension")
	b.restartAgent()
	b.phase(fleet.PhaseWaiting, "good1")
	b.orders(0, "explain", "root suspended activations", "the audit", "→ garrison resume")
	b.runs("good1")
	b.orders(0, "rollback 1 2>&1; garrison resume") // refused for want of a history; the rest goes on
	b.phase(fleet.PhaseIdle, "good2")
	b.runs("good2")

	b.orders(0, "suspend --reason short --for 3s")
	m := b.publish("good3")
	b.await("the suspension ends by itself", func(s fleet.Status) bool {
		return s.Phase == fleet.PhaseIdle && s.Active.Release.Number == m && s.Suspended == nil
	})
	b.says(0)
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true, config: "confirm = \"manual\""})
	n := b.publish("good1")
	b.phase(fleet.PhaseWaiting, "")
	b.systems("", "")
	b.says(3, "waiting: release-1 is fetched, and waits for somebody to say: garrison confirm release-1")
	b.orders(1, "confirm release-7", "release-7 is not what waits here: release-1 is", "→ look at it, then: garrison confirm release-1")
	b.orders(0, "confirm release-1", "release-1 is confirmed")
	b.phase(fleet.PhaseIdle, "good1")
	b.runs("good1")
	b.orders(1, "confirm release-1", "nothing waits for a confirmation")

	// A newer one needs a word of its own, also when it was confirmed before that.
	b.publish("good2")
	b.phase(fleet.PhaseWaiting, "good1")
	n = b.publish("good3")
	b.await("the newer one waits", func(s fleet.Status) bool {
		return s.Phase == fleet.PhaseWaiting && s.Target.Release.Number == n
	})
	b.orders(1, "confirm release-2", "release-2 is not what waits here: release-3 is")
	b.restartAgent()
	b.phase(fleet.PhaseWaiting, "good1")
	b.runs("good1")
	b.orders(0, "confirm 3")
	b.phase(fleet.PhaseIdle, "good3")
	// The word is for an exact tag.
	n = b.publish("good1")
	b.phase(fleet.PhaseWaiting, "good3")
	resp, err := b.client().Post("http://agent/v1/acts", "application/json", strings.NewReader(fmt.Sprintf(`{"act":"confirm","release":%d,"tag":"%040d"}`, n, 1)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 409 {
		t.Errorf("a confirmation of another tag is answered %s", resp.Status)
	}
	b.runs("good3")
}

// A window that is closed now keeps what is staged until it opens, or somebody says --now.
func TestWindow(t *testing.T) {
	t.Parallel()
	day := time.Now().AddDate(0, 0, 3).Format("Mon")
	b := newBox(t, boxOptions{systemd: true, config: fmt.Sprintf("windows = [\"%s 02:00–05:00\"]", day)})
	b.publish("good1")
	b.phase(fleet.PhaseWaiting, "")
	b.says(3, "waits for its window, which opens "+day+" 20", "02:00")
	b.systems("", "")
	b.orders(0, "confirm release-1 --now")
	b.phase(fleet.PhaseIdle, "good1")
	b.publish("good2")
	b.phase(fleet.PhaseWaiting, "good1")
	b.orders(0, "explain", "→ garrison confirm release-2 --now")
	b.orders(0, "deploy release-2 --now")
	b.phase(fleet.PhaseIdle, "good2")
	b.publish("good3")
	b.phase(fleet.PhaseWaiting, "good2")
	b.orders(0, "rollback", "turning to release-1") // which waits for nothing
	b.phase(fleet.PhaseOverruled, "good1")
	b.runs("good1")

	// One opens by itself, and not before its time: windows have minutes, so this takes one.
	opens := strings.Fields(b.must(`t=$(( ($(date +%s) + 75) / 60 * 60 )); echo $t $(date -d @$t +%H:%M) $(date -d @$((t + 1800)) +%H:%M)`))
	b.must("busybox sed -i 's/^windows.*/windows = [\"" + opens[1] + "-" + opens[2] + "\"]/' /etc/garrison/agent.toml")
	b.restartAgent()
	n := b.publish("good2")
	b.phase(fleet.PhaseWaiting, "good1")
	b.says(3, "waits for its window, which opens", opens[1])
	b.systems("good1", "good1")
	s := b.awaitFor(2*time.Minute, "it is activated in its window", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Active.Release.Number == n })
	began := slices.IndexFunc(s.Last.Stages, func(s fleet.StageTime) bool { return s.Stage == fleet.Activate })
	if at, _ := strconv.ParseInt(opens[0], 10, 64); s.Last.Stages[began].StartedAt.Before(time.Unix(at, 0)) {
		t.Errorf("the window opens at %v, and these are the stages: %+v", time.Unix(at, 0), s.Last.Stages)
	}
	b.runs("good2")
}

// A revert is a release like any other, whatever became of what it reverts; twice in a row, too.
func TestRevert(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	b.deploy("good2")
	b.deploy("good1") // reverted
	b.deploy("good2") // and that, in turn
	n := b.publish("fails")
	b.ended(n)
	b.says(3, "held")
	n = b.publish("good2") // reverted after its failure: what runs is what is wanted
	b.await("idle", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Active.Release.Number == n })
	b.runs("good2")
	b.says(0)
	n = b.publish("fails") // the revert is reverted: it is known to be bad only while it is held
	if s := b.ended(n); s.Last.Result != fleet.RolledBack {
		t.Errorf("%+v", s.Last)
	}
	b.deploy("good1")
	b.says(0)
}

// What is no order is refused with a reason, and changes nothing; who gives one is whom the kernel says.
func TestBadOrders(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	before, err := b.host.ReadFile(stateDir + "/state.json")
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]int{
		"":                                    400,
		"[]":                                  400,
		`{"act":"explode"}`:                   400,
		`{"act":"retry","by":{"uid":0}}`:      400, // nobody says who they are
		`{"act":"rollback"}`:                  400,
		`{"act":"rollback","back":-1}`:        400,
		`{"act":"rollback","back":1}`:         404,
		`{"act":"deploy"}`:                    404,
		`{"act":"deploy","storePath":"/etc"}`: 400,
		`{"act":"suspend","seconds":1e300,"reason":"x"}`:                400,
		`{"act":"suspend","seconds":5}`:                                 400,
		`{"act":"retry"}`:                                               409,
		`{"act":"retry","reason":"` + strings.Repeat("x", 2000) + `"}`:  400,
		`{"act":"retry","reason":"` + strings.Repeat("x", 1<<20) + `"}`: 400,
	} {
		resp, err := b.client().Post("http://agent/v1/acts", "application/json", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			continue
		}
		var f fleet.Failure
		err = json.NewDecoder(resp.Body).Decode(&f)
		resp.Body.Close()
		if resp.StatusCode != want || err != nil || f.Message == "" {
			t.Errorf("%.80s: %s, %+v, %v", body, resp.Status, f, err)
		}
	}
	if after, err := b.host.ReadFile(stateDir + "/state.json"); err != nil || string(after) != string(before) {
		t.Errorf("the record changed: %v\n%s", err, after)
	}
	if acts := b.acts(); len(acts) != 0 {
		t.Errorf("acts: %s", acts)
	}
	if out, err := b.run("setpriv --reuid=12345 --regid=0 --clear-groups garrison deploy " + b.lab.out("good2") + " 2>&1"); err == nil || !strings.Contains(out, "only root may deploy a store path") {
		t.Errorf("an unsigned system is taken from anybody: %v, %s", err, out)
	}
	b.must("setpriv --reuid=12345 --regid=0 --clear-groups garrison suspend --reason test --for 1h")
	s := b.await("suspended", func(s fleet.Status) bool { return s.Suspended != nil })
	if s.Suspended.By.UID != 12345 {
		t.Errorf("by %+v", s.Suspended.By)
	}
	b.says(0, "SUSPENDED  ", "by uid 12345")
	if out, err := b.run("setpriv --reuid=12345 --regid=12345 --clear-groups garrison resume 2>&1"); err == nil || !strings.Contains(out, "no agent answers") {
		t.Errorf("a stranger is answered: %v, %s", err, out)
	}
}
