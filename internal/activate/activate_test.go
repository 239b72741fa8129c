package activate

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestJudge(t *testing.T) {
	h := &helper{dir: t.TempDir()}
	for code, want := range map[int]struct {
		now   verdict
		class fleet.Class // "" for no error
	}{
		0: {live, ""}, 4: {live, ""}, 100: {forNextBoot, ""}, 11: {untouched, fleet.Transient},
		1: {live, fleet.Bad}, 2: {live, fleet.Bad}, 101: {live, fleet.Bad}, -1: {live, fleet.Bad},
	} {
		now, err := h.judge(code)
		if now != want.now || (err == nil) != (want.class == "") || err != nil && fleet.ClassOf(err) != want.class {
			t.Errorf("exit status %d: %d, %v", code, now, err)
		}
	}
}

func TestSaidLastIsBounded(t *testing.T) {
	h := &helper{dir: t.TempDir()}
	if err := os.WriteFile(LogFile(h.dir), []byte(strings.Repeat("é", 4000)+"the end\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if said := h.saidLast(); len(said) > 1600 || !strings.HasSuffix(said, "the end") {
		t.Errorf("%d bytes: %s", len(said), said)
	}
	if err := os.WriteFile(LogFile(h.dir), []byte("level=INFO msg=activating\n--- now test /nix/store/x\nthe valve\nis stuck\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if said := h.saidLast(); said != ":\nthe valve\nis stuck" {
		t.Errorf("%q", said)
	}
}

// TestResolve takes the journal of a whole activation, cut after each line, and each system that may run then.
func TestResolve(t *testing.T) {
	req := Request{OutPath: "new", Previous: "old"}
	live := []step{{Step: stepTest}, {Step: stepTest, Done: true}, {Step: stepCheck}, {Step: stepCheck, Done: true}, {Step: stepProfile}, {Step: stepBoot}, {Step: stepBoot, Done: true}}
	boot := []step{{Step: stepTest}, {Step: stepTest, Done: true, Code: 100}, {Step: stepProfile}, {Step: stepBoot}, {Step: stepBoot, Done: true}}
	for lines := 1; lines <= len(live); lines++ {
		confirmed := lines >= 4
		for _, now := range []string{"new", "old", "third", ""} {
			want := undo
			if confirmed && now == "new" {
				want = finish
			}
			if got, reboot := resolve(live[:lines], now, req); got != want || reboot {
				t.Errorf("%d lines, %q runs: %v, reboot %v", lines, now, got, reboot)
			}
			back := append(append([]step{}, live[:lines]...), step{Step: stepRollback})
			if got, _ := resolve(back, now, req); got != undo {
				t.Errorf("%d lines and a roll-back, %q runs: %v", lines, now, got)
			}
			if got, _ := resolve(append(back, step{Step: stepRollback, Done: true}), now, req); got != alreadyBack {
				t.Errorf("%d lines and a whole roll-back, %q runs: %v", lines, now, got)
			}
		}
	}
	for lines := 1; lines <= len(boot); lines++ {
		for now, want := range map[string]struct {
			what   resolution
			reboot bool
		}{"new": {finish, false}, "old": {finish, true}, "third": {undo, false}} {
			if lines == 1 {
				want.what, want.reboot = undo, false
			}
			if got, reboot := resolve(boot[:lines], now, req); got != want.what || reboot != want.reboot {
				t.Errorf("for the next boot, %d lines, %q runs: %v, reboot %v", lines, now, got, reboot)
			}
		}
	}
}

// TestSettle plays sequences of what systemd says, one every millisecond; the last stays.
func TestSettle(t *testing.T) {
	busy, loops, failed := unitStates{"a.service": unitBusy}, unitStates{"a.service": unitLoops}, unitStates{"a.service": unitFailed}
	calm := unitStates{}
	down := unitStates(nil) // stands for an error
	for name, c := range map[string]struct {
		before unitStates
		seen   []unitStates
		err    string
	}{
		"nothing":                      {calm, []unitStates{calm}, ""},
		"one comes up":                 {calm, []unitStates{busy, busy, calm}, ""},
		"one does not":                 {calm, []unitStates{busy}, "a.service did not come up in time"},
		"one fails":                    {calm, []unitStates{busy, failed}, "a.service failed in the new system"},
		"one recovers":                 {calm, []unitStates{loops, loops, busy, calm}, ""},
		"one fails again and again":    {calm, []unitStates{loops, calm, loops, calm, loops}, "again and again"},
		"one had failed before":        {failed, []unitStates{failed}, ""},
		"and is started, and fails":    {failed, []unitStates{busy, failed}, ""},
		"one had looped before":        {loops, []unitStates{loops}, ""},
		"and gave up":                  {loops, []unitStates{failed}, ""},
		"one had been busy, and is":    {busy, []unitStates{busy}, ""},
		"one had been busy, and fails": {busy, []unitStates{failed}, "failed in the new system"},
		"systemd is away for a moment": {calm, []unitStates{down, down, calm}, ""},
		"systemd stays away":           {calm, []unitStates{down}, "away"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		i := 0
		look := func(context.Context) (unitStates, error) {
			now := c.seen[min(i, len(c.seen)-1)]
			i++
			if now == nil {
				return nil, errors.New("away")
			}
			return now, nil
		}
		err := settle(ctx, look, c.before, patienceTimes{every: time.Millisecond, calm: 20 * time.Millisecond, loops: 50 * time.Millisecond})
		cancel()
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An outcome is of its own request only, and a damaged one is none.
func TestReadOutcome(t *testing.T) {
	dir := t.TempDir()
	if err := durable.WriteJSON(outcomeFile(dir), Outcome{Schema: schema, ID: "1"}, 0o600); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{"1": true, "2": false} {
		if _, there, err := ReadOutcome(dir, id); there != want || err != nil {
			t.Errorf("%s: %v, %v", id, there, err)
		}
	}
	if err := os.WriteFile(outcomeFile(dir), []byte("{\"schema\""), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, there, err := ReadOutcome(dir, "1"); there || err != nil {
		t.Errorf("damaged: %v, %v", there, err)
	}
}

// A request that was taken back is carried out by nobody; one of which nothing was begun can be made again.
func TestGiveUp(t *testing.T) {
	dir := t.TempDir()
	r := Request{ID: "1", OutPath: "/nix/store/x"}
	log := discard()
	if err := Prepare(t.Context(), dir, r, log); err != nil {
		t.Fatal(err)
	}
	lock, err := durable.TryLock(lockFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, ended := giveUp(dir, r, nil); ended {
		t.Error("given up while a helper is at work")
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := Prepare(short, dir, Request{ID: "2"}, log); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another request was written under a helper's hands: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	out, ended := giveUp(dir, r, errors.New("no systemd"))
	if !ended || out.Result != fleet.NotActivated || out.Failure.Class != fleet.Local || !strings.Contains(out.Failure.Message, "no systemd") {
		t.Errorf("%v, %+v", ended, out)
	}
	if err := Run(t.Context(), dir, log); err != nil {
		t.Errorf("a late helper: %v", err)
	}
	if _, done, err := ReadOutcome(dir, "1"); done || err != nil {
		t.Errorf("a late helper did something: %v", err)
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
