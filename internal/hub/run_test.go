package hub_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/hub"
)

// statuses is a forge that keeps what it is told of commits.
type statuses struct {
	forge.Forge
	mu  sync.Mutex
	all map[string]map[string]forge.Status // by commit and context
}

func (s *statuses) SetStatus(_ context.Context, commit string, st forge.Status) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[commit] == nil {
		s.all[commit] = map[string]forge.Status{}
	}
	s.all[commit][st.Context] = st
	return nil
}

func (s *statuses) Statuses(_ context.Context, commit string) (list []forge.Status, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.all[commit] {
		list = append(list, st)
	}
	return list, nil
}

func (s *statuses) of(commit, context string) forge.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[commit][context]
}

// TestCITellsForge: the forge hears how runs end, also of one that a hub which was killed had left behind.
func TestCITellsForge(t *testing.T) {
	w := newWorld(t)
	_, err := w.NoteRun(t.Context(), fleet.Run{Schema: 1, State: fleet.RunRunning, Stage: fleet.Push, Source: fleet.Source{Commit: "killed"}, StartedAt: time.Now()})
	must(t, err)
	s := &statuses{all: map[string]map[string]forge.Status{"killed": {"garrison/publish": {Context: "garrison/publish", State: forge.Pending}}}}
	f := &fake{tip: "good", failures: map[string][]error{"bad": {fleet.Errorf(fleet.Bad, fleet.CodeBuild, "joker does not build")}}}
	ci := hub.NewCI(hub.CIOptions{Releaser: f, Hub: w.Hub, Forge: s, Poll: time.Hour, LogDir: w.dir, Log: slog.New(slog.NewTextHandler(w.log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); ci.Run(ctx) }()
	until(t, "all is told of the good one", func() bool { return s.of("good", "garrison/build").State == forge.Success })
	if killed := s.of("killed", "garrison/push"); killed.State != forge.Error || !strings.Contains(killed.Text, "stopped in the middle") || s.of("killed", "garrison/publish").State != forge.Error {
		t.Errorf("%+v", s.all["killed"])
	}
	f.set(func() { f.tip = "bad" })
	ci.Wake(time.Now())
	until(t, "all is told of the bad one", func() bool { return s.of("bad", "garrison/build").State == forge.Failure })
	cancel()
	<-done
}
