package drill_test

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/examples"
	"github.com/garrison-nix/garrison/internal/drill"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// TestSandbox drills everything, twice in a row in the same folder.
func TestSandbox(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 18*time.Minute)
	defer cancel()
	base, err := sandbox.HostBase(ctx, "../../scripts/host-base")
	must(t, err)
	example, err := fs.Sub(examples.Fleet, "fleet")
	must(t, err)
	exe := filepath.Join(t.TempDir(), "garrison") // the program as it is shipped: the race detector would double what all its scenarios take
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", exe, "./cmd/garrison")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var out bytes.Buffer
	o := drill.DrillOptions{Options: drill.Options{Self: exe, Dir: t.TempDir(), Fleet: example, Out: &out, Log: slog.New(slog.DiscardHandler), Version: "test"},
		Repeat: 1, Limit: time.Minute, HostBase: base}
	report, err := drill.Sandbox(ctx, o)
	t.Logf("%s", out.String())
	if err != nil || !report.Passed {
		t.Fatalf("%v\n%+v", err, report)
	}
	for _, s := range report.Scenarios {
		if s.Result != fleet.DrillPass || len(s.Checks) == 0 {
			t.Errorf("%s: %s %s", s.Name, s.Result, s.Detail)
		}
	}
}
