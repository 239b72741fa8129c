package forge_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/proc"
)

// board is a forge that only has statuses, and fails as a test wants.
type board struct {
	forge.Forge
	mu   sync.Mutex
	fail error
	has  []forge.Status
	said []string
	asks int
}

func (b *board) Statuses(context.Context, string) ([]forge.Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.has), b.fail
}

func (b *board) SetStatus(_ context.Context, _ string, s forge.Status) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asks++
	if b.fail != nil {
		return b.fail
	}
	b.said = append(b.said, strings.TrimPrefix(s.Context, "garrison/")+" "+string(s.State))
	b.has = append(slices.DeleteFunc(b.has, func(o forge.Status) bool { return o.Context == s.Context }), s)
	return nil
}

func (b *board) set(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

func (b *board) shown() map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := map[string]string{}
	for _, s := range b.has {
		m[strings.TrimPrefix(s.Context, "garrison/")] = string(s.State) + ": " + s.Text
	}
	return m
}

// play runs stages as a release does, the last of which fails with err.
func play(s *forge.Stages, err error, stages ...fleet.Stage) error {
	ctx := proc.WithTimeline(context.Background(), &proc.Timeline{OnStage: s.OnStage})
	for i, st := range stages {
		if got := proc.Stage(ctx, st, func() error {
			if i == len(stages)-1 {
				return err
			}
			return nil
		}); got != nil {
			return got
		}
	}
	return nil
}

var all = []fleet.Stage{fleet.Fetch, fleet.Evaluate, fleet.Rekey, fleet.Build, fleet.Push, fleet.Publish}

func TestStages(t *testing.T) {
	bad := fleet.Errorf(fleet.Bad, fleet.CodeBuild, "web1 does not build, see https://ci:s3cret@hub/1").WithCause(errors.New("300 lines"))
	down := fleet.Errorf(fleet.Transient, fleet.CodeCache, "the cache is down")
	old := []forge.Status{{Context: "garrison/push", State: forge.Pending, Text: "running"}, {Context: "garrison/build", State: forge.Success, Text: "took 9s"}}
	ok, nothing := "success: took 0s", "success: nothing to do"
	for name, c := range map[string]struct {
		has    []forge.Status
		err    error
		stages []fleet.Stage
		want   map[string]string
	}{
		"well":                      {nil, nil, all, map[string]string{"evaluate": ok, "re-key": ok, "build": ok, "push": ok, "publish": ok}},
		"the change is to blame":    {nil, bad, all[:4], map[string]string{"evaluate": ok, "re-key": ok, "build": "failure: web1 does not build, see https://…@hub/1"}},
		"the system is":             {nil, down, all[:5], map[string]string{"evaluate": ok, "re-key": ok, "build": ok, "push": "error: the cache is down"}},
		"before the first":          {nil, down, all[:1], map[string]string{"evaluate": "error: the cache is down"}},
		"evaluated again":           {nil, bad, []fleet.Stage{fleet.Evaluate, fleet.Rekey, fleet.Evaluate}, map[string]string{"evaluate": "failure: web1 does not build, see https://…@hub/1", "re-key": "error: not reached: evaluate failed"}},
		"nothing to do":             {nil, nil, all[:1], map[string]string{"evaluate": nothing, "re-key": nothing, "build": nothing, "push": nothing, "publish": nothing}},
		"nothing to do, again":      {old, nil, all[:1], map[string]string{"evaluate": nothing, "re-key": nothing, "build": "success: took 9s", "push": nothing, "publish": nothing}},
		"after one that was killed": {old, bad, all[:2], map[string]string{"evaluate": "failure: web1 does not build, see https://…@hub/1", "build": "success: took 9s", "push": "error: not reached: evaluate failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := &board{has: c.has}
			s := forge.NewStages(b, tip, "https://hub/runs/1", nil)
			s.Close(t.Context(), play(s, c.err, c.stages...))
			if got := b.shown(); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%v", got)
			}
			most := len(c.want)
			if len(slices.Compact(slices.Sorted(slices.Values(c.stages)))) < len(c.stages) {
				most *= 2 // what is begun again may have been said to be done, with what came after it
			}
			if n := len(b.said); n > most {
				t.Errorf("%d statuses for %d contexts of a run that was over at once: %v", n, len(c.want), b.said)
			}
			s.Close(t.Context(), nil) // twice does nothing
			s.OnStage(fleet.StageTime{Stage: fleet.Build}, false)
		})
	}
}

// TestStagesSuperseded: a run that gives up for a newer one is no failure, and says where to look in each stage that was not done.
func TestStagesSuperseded(t *testing.T) {
	newer := fleet.Errorf(fleet.Transient, fleet.CodeSuperseded, "superseded by 123456789abc").WithHint("nothing to do")
	const by, ok = "success: superseded by 123456789abc", "success: took 0s"
	for name, c := range map[string]struct {
		stages []fleet.Stage
		in     error // of the last one
		want   map[string]string
	}{
		"before anything":      {all[:1], newer, map[string]string{"evaluate": by, "re-key": by, "build": by, "push": by, "publish": by}},
		"before the build":     {all[:3], nil, map[string]string{"evaluate": ok, "re-key": ok, "build": by, "push": by, "publish": by}},
		"when it is published": {all, newer, map[string]string{"evaluate": ok, "re-key": ok, "build": ok, "push": ok, "publish": by}},
	} {
		b := &board{}
		s := forge.NewStages(b, tip, "", nil)
		_ = play(s, c.in, c.stages...)
		s.Close(t.Context(), newer)
		if got := b.shown(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestStagesInOrder: what lasts is pending first; that it is done is said when the next begins.
func TestStagesInOrder(t *testing.T) {
	b := &board{}
	s := forge.NewStages(b, tip, "", nil)
	until := func(what string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			b.mu.Lock()
			said := strings.Join(b.said, ", ")
			b.mu.Unlock()
			if said == what {
				return
			} else if time.Now().After(end) || !strings.HasPrefix(what, said) {
				t.Fatalf("%s, and not %s", said, what)
			}
		}
	}
	s.OnStage(fleet.StageTime{Stage: fleet.Evaluate}, false)
	until("evaluate pending")
	s.OnStage(fleet.StageTime{Stage: fleet.Evaluate, Seconds: 2}, true)
	s.OnStage(fleet.StageTime{Stage: fleet.Build}, false)
	until("evaluate pending, evaluate success, build pending")
	s.OnStage(fleet.StageTime{Stage: fleet.Build, Seconds: 65}, true)
	s.Close(t.Context(), nil)
	until("evaluate pending, evaluate success, build pending, build success, re-key success, push success, publish success")
	if got := b.shown(); got["build"] != "success: took 1m5s" || got["evaluate"] != "success: took 2s" {
		t.Errorf("%v", got)
	}
}

// TestStagesNeverClaim that a stage was well which ended, before it is known how.
func TestStagesNeverClaim(t *testing.T) {
	b := &board{}
	s := forge.NewStages(b, tip, "", nil)
	s.OnStage(fleet.StageTime{Stage: fleet.Build}, false)
	s.OnStage(fleet.StageTime{Stage: fleet.Build, Seconds: 1}, true)
	time.Sleep(400 * time.Millisecond) // long enough to say something wrong
	s.Close(t.Context(), fleet.Errorf(fleet.Bad, fleet.CodeBuild, "web1 does not build"))
	if slices.Contains(b.said, "build success") || b.said[len(b.said)-1] != "build failure" {
		t.Errorf("%v", b.said)
	}
}

// TestStagesForgeDown: the run does not notice; what is true at the end is said when the forge is back.
func TestStagesForgeDown(t *testing.T) {
	var log bytes.Buffer
	b := &board{fail: fleet.Errorf(fleet.Transient, fleet.CodeForge, "the forge is down")}
	s := forge.NewStages(b, tip, "", slog.New(slog.NewTextHandler(&log, nil)))
	err := play(s, nil, all...)
	back := time.AfterFunc(100*time.Millisecond, func() { b.set(nil) })
	defer back.Stop()
	s.Close(t.Context(), err)
	if got := b.shown(); len(got) != 5 || got["publish"] != "success: took 0s" || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "the forge is down") {
		t.Errorf("%v\n%s", got, &log)
	}
}

func TestStagesGiveUp(t *testing.T) {
	for name, c := range map[string]struct {
		fail error
		asks int
		says string
	}{
		"down for good":  {fleet.Errorf(fleet.Transient, fleet.CodeForge, "the forge is down"), 0, "it is tried again"},
		"refused":        {fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "the token lacks write:repository").WithHint("make another"), 1, "make another"},
		"no such commit": {fleet.Errorf(fleet.Local, fleet.CodeNotFound, "no such commit"), 0, "no such commit"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			b := &board{fail: c.fail}
			s := forge.NewStages(b, tip, "", slog.New(slog.NewTextHandler(&log, nil)))
			err := play(s, nil, all...)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			s.Close(ctx, err)
			if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), c.says) || b.asks != c.asks {
				t.Errorf("%d asked\n%s", b.asks, &log)
			}
		})
	}
}
