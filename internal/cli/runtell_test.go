package cli

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/sqlite"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/release"
)

// TestRunTeller: a hub hears of a run elsewhere as far as it can be told; a hub that is away, or refuses, is named at the end and holds nothing up.
func TestRunTeller(t *testing.T) {
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	tokens := hub.Tokens{}.With(hub.Token{Name: "actions", SHA256: hub.HashToken("secret"), Scopes: []string{hub.ScopeCI}}).
		With(hub.Token{Name: "waker", SHA256: hub.HashToken("wakes"), Scopes: []string{hub.ScopeWake}})
	h := hub.New(hub.Options{Store: store, Tokens: func() (hub.Tokens, error) { return tokens, nil }, Cache: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler)})
	var away atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			http.Error(w, "gone for lunch", http.StatusBadGateway)
			return
		}
		h.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	t.Setenv("CI_JOB_URL", "https://forge.example.org/run/7")
	source := fleet.Source{Commit: strings.Repeat("a", 40), Branch: "main", Subject: "More"}
	began := time.Now().Add(-time.Minute)
	// run makes a run with a token, and returns what the hub has, and why it does not know of the run.
	run := func(token string, ended error, meanwhile func()) ([]fleet.Run, error) {
		t.Helper()
		began = began.Add(time.Second)
		var line proc.Timeline
		teller := newRunTeller(s.URL, func() (string, error) { return token, nil }, &line)
		line.OnStage = teller.onStage
		ctx := proc.WithTimeline(t.Context(), &line)
		_ = proc.Stage(ctx, fleet.Fetch, func() error { return nil }) // before anything is known of the run
		teller.begin(source, began)
		teller.begin(source, began.Add(time.Hour)) // once
		_ = proc.Stage(ctx, fleet.Build, func() error { meanwhile(); return ended })
		untold := teller.end(runOf(source, began, &line, release.Outcome{State: fleet.RunReleased, Release: &fleet.ReleaseRef{Number: 7}}, ended))
		runs, err := store.Runs(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		return runs, untold
	}
	known := func(state fleet.RunState, stage fleet.Stage) {
		t.Helper()
		for range 1000 {
			if runs, _ := store.Runs(t.Context(), 1); len(runs) == 1 && runs[0].State == state && runs[0].Stage == stage {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("the hub does not hear that a run is %s in %s", state, stage)
	}
	runs, untold := run("secret", nil, func() { known(fleet.RunRunning, fleet.Build) })
	if untold != nil || len(runs) != 1 || runs[0].State != fleet.RunReleased || runs[0].By != "actions" || runs[0].URL != "https://forge.example.org/run/7" || len(runs[0].Stages) != 2 || runs[0].Source.Subject != "More" {
		t.Errorf("%v, %+v", untold, runs)
	}
	runs, untold = run("secret", fleet.Errorf(fleet.Bad, fleet.CodeBuild, "it does not build"), func() {})
	if untold != nil || len(runs) != 2 || runs[0].State != fleet.RunFailed || runs[0].Failure.Code != fleet.CodeBuild || runs[0].Stage != fleet.Build {
		t.Errorf("%v, %+v", untold, runs)
	}
	away.Store(true)
	if runs, untold = run("secret", nil, func() {}); fleet.CodeOf(untold) != fleet.CodeRemote || !strings.Contains(untold.Error(), "gone for lunch") || len(runs) != 2 {
		t.Errorf("%v, %+v", untold, runs)
	}
	runs, untold = run("secret", nil, func() { away.Store(false) })
	if untold != nil || len(runs) != 3 || runs[0].State != fleet.RunReleased {
		t.Errorf("%v, %+v", untold, runs)
	}
	if runs, untold = run("wakes", nil, func() {}); fleet.CodeOf(untold) != fleet.CodeUnauthorized || len(runs) != 3 {
		t.Errorf("%v, %+v", untold, runs)
	}
	var nobody *runTeller
	nobody.begin(source, began)
	nobody.onStage(fleet.StageTime{}, true)
	if nobody.end(fleet.Run{}) != nil || newRunTeller("", nil, &proc.Timeline{}) != nil {
		t.Error("there is nobody to tell")
	}
}
