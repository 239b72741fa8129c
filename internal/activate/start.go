package activate

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

func variant(v any) godbus.Variant { return godbus.MakeVariant(v) }

// Start starts a helper on the request in dir and returns at once; exe is the garrison binary.
// Under systemd the helper is a transient unit, elsewhere a process in a session of its own whose output goes to the log.
func Start(ctx context.Context, exe, dir string, r Request) error {
	if HasSystemd() {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		return startUnit(ctx, exe, dir, r.ID)
	}
	log, err := os.OpenFile(LogFile(dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return stateError(err)
	}
	defer log.Close()
	cmd := exec.Command(exe, "activate", "--dir", dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeActivate, "cannot start the activation").WithCause(err)
	}
	go cmd.Wait() // reaps it, if this process lives that long
	return nil
}

const (
	lookEvery = 10 * time.Millisecond // while an activation is under way
	startTime = 10 * time.Second      // a helper holds its lock by then, or it died
)

// Wait waits for the outcome of request id. It is false when the helper died without one:
// then another must be started.
func Wait(ctx context.Context, dir, id string) (Outcome, bool, error) {
	started := time.Now()
	seen := false
	for {
		running, err := Running(dir)
		if err != nil {
			return Outcome{}, false, stateError(err)
		}
		// The outcome is read after the lock: a helper that just ended has written it.
		if o, done, err := ReadOutcome(dir, id); err != nil || done {
			return o, done, err
		}
		seen = seen || running
		if !running && (seen || time.Since(started) > startTime) {
			return Outcome{}, false, nil
		}
		select {
		case <-ctx.Done():
			return Outcome{}, false, context.Cause(ctx)
		case <-time.After(lookEvery):
		}
	}
}

// Clear removes what is left of earlier requests' journals; call it before Prepare, when no helper runs.
func Clear(dir string) error {
	if err := durable.Sweep(dir); err != nil {
		return stateError(err)
	}
	for _, f := range []string{journalFile(dir), LogFile(dir)} {
		if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
			return stateError(err)
		}
	}
	return nil
}
