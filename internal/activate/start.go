package activate

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	lookEvery    = 10 * time.Millisecond // while an activation is young
	lookSlowly   = 100 * time.Millisecond
	young        = 10 * time.Second
	startTime    = 10 * time.Second // a helper holds its lock by then, or it died
	mostHelpers  = 5
	helperPause  = time.Second // before the second helper; then twice as long each time
	lockedPause  = 200 * time.Millisecond
	logLockAfter = 5 * time.Second
)

// Prepare writes the request in place of an earlier one. It waits as long as a helper is at work: an
// agent that lost its record may know nothing of it.
func Prepare(ctx context.Context, dir string, r Request, log *slog.Logger) error {
	r.Schema = schema
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return stateError(err)
	}
	lock, err := await(ctx, dir, log)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if err := durable.Sweep(dir); err != nil {
		return stateError(err)
	}
	for _, f := range []string{journalFile(dir), LogFile(dir)} {
		if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
			return stateError(err)
		}
	}
	return stateError(durable.WriteJSON(requestFile(dir), r, 0o644))
}

func await(ctx context.Context, dir string, log *slog.Logger) (*durable.FileLock, error) {
	told := false
	for began := time.Now(); ; {
		lock, err := durable.TryLock(lockFile(dir))
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, durable.ErrLocked) {
			return nil, stateError(err)
		}
		if !told && time.Since(began) > logLockAfter {
			log.Warn("waiting for an earlier activation to end", "log", LogFile(dir))
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockedPause):
		}
	}
}

// Follow returns the outcome of r, which Prepare wrote: of a helper that is at work or was, else of one that it
// starts, and of others after that one died. exe is the garrison binary. It fails only with ctx.
func Follow(ctx context.Context, exe, dir string, r Request, log *slog.Logger) (Outcome, error) {
	pause, starts := helperPause, 0
	var why error
	for {
		running, err := Running(dir)
		if err == nil && !running {
			var out Outcome
			var done bool
			if out, done, err = ReadOutcome(dir, r.ID); err == nil && done {
				return out, nil
			}
		}
		if err == nil && !running && starts == mostHelpers {
			if out, ended := giveUp(dir, r, why); ended {
				return out, nil
			}
			starts = 0
			continue
		}
		if err == nil && !running {
			if starts++; starts > 1 {
				log.Warn("starting another activation helper", "release", r.Release.Number, "attempt", starts, "err", why)
				if err := sleep(ctx, pause); err != nil {
					return Outcome{}, err
				}
				pause *= 2
			}
			err = Start(ctx, exe, dir, r)
		}
		if err == nil {
			var out Outcome
			var ended bool
			if out, ended, err = Wait(ctx, dir, r.ID); ended {
				return out, nil
			}
		}
		if ctx.Err() != nil {
			return Outcome{}, context.Cause(ctx)
		}
		if why = err; err == nil {
			why = errors.New("the helper died")
		} else if err := sleep(ctx, lockedPause); err != nil {
			return Outcome{}, err
		}
	}
}

// giveUp takes the request back, so that a helper that starts late does nothing. It is false when one is at work after all.
func giveUp(dir string, r Request, why error) (Outcome, bool) {
	out := Outcome{Schema: schema, ID: r.ID, EndedAt: time.Now().UTC()}
	lock, err := durable.TryLock(lockFile(dir))
	if errors.Is(err, durable.ErrLocked) {
		return out, false
	}
	if err == nil {
		defer lock.Unlock()
		if last, done, err := ReadOutcome(dir, r.ID); err == nil && done {
			return last, true
		}
		err = os.Remove(requestFile(dir))
	}
	why = errors.Join(why, err)
	if steps, err := readSteps(dir, r.ID); err == nil && len(steps) == 0 {
		out.Result = fleet.NotActivated
		out.Failure = fleet.FailureOf(fleet.Activate, fleet.Errorf(fleet.Local, fleet.CodeActivate, "the activation cannot be started").WithCause(why))
		return out, true
	}
	out.Result = fleet.RollbackFailed
	out.Failure = fleet.FailureOf(fleet.Activate, fleet.Errorf(fleet.Bad, fleet.CodeInterrupted, "the activation died %d times without an outcome", mostHelpers).
		WithHint("look at the host: %s", LogFile(dir)).WithCause(why))
	return out, true
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Start starts a helper on the request in dir and returns at once; exe is the garrison binary.
// Under systemd the helper is a transient unit, elsewhere a process in a session of its own; what it says goes to the log.
func Start(ctx context.Context, exe, dir string, r Request) error {
	log, err := os.OpenFile(LogFile(dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return stateError(err)
	}
	defer log.Close()
	if HasSystemd() {
		return startUnit(ctx, exe, dir, r)
	}
	cmd := exec.Command(exe, "activate", "--dir", dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeActivate, "cannot start the activation").WithCause(err)
	}
	go cmd.Wait() // reaps it, if this process lives that long
	return nil
}

// Wait waits for the outcome of request id. It is false when the helper died without one, or none
// appeared: then another must be started.
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
		age := time.Since(started)
		if !running && (seen || age > startTime) {
			return Outcome{}, false, nil
		}
		pause := lookEvery
		if age > young {
			pause = lookSlowly
		}
		if err := sleep(ctx, pause); err != nil {
			return Outcome{}, false, err
		}
	}
}
