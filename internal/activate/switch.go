package activate

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// notRun stands for the exit status of a switch that was not even begun.
const notRun = -2

// verdict is what an exit status of switch-to-configuration test says of the running system.
type verdict int

const (
	untouched   verdict = iota // nothing was switched
	live                       // the new system runs, whole or not
	forNextBoot                // the new system can only be booted into
)

// judge tells what an exit status of switch-to-configuration test means.
func (h *helper) judge(code int) (verdict, error) {
	switch code {
	case 0:
		return live, nil
	case 4: // some unit failed, perhaps one that failed before: the check finds out
		return live, nil
	case 100:
		return forNextBoot, nil
	case lockHeld:
		return untouched, fleet.Errorf(fleet.Transient, fleet.CodeBusy, "another switch is under way on this host (switch-to-configuration exited with %d)", code)
	case 1: // it refused, or stopped in the middle: units may be down in either case, hence not untouched
		if now := current(); now != "" && now == h.req.Previous {
			return live, h.switchFailed("exited with 1 before the new system ran")
		}
	case 2:
		return live, h.switchFailed("exited with 2 (its activation script failed)")
	}
	return live, h.switchFailed(ended(code))
}

// switchLine begins the line of the log after which a switch has the word.
const switchLine = "--- "

// lockHeld is how switch-to-configuration ends when another one is at work.
const lockHeld = 11

// ended says how a program ended.
func ended(code int) string {
	if code < 0 {
		return "was killed"
	}
	return fmt.Sprintf("exited with %d", code)
}

func (h *helper) switchFailed(how string) error {
	return fleet.Errorf(fleet.Bad, fleet.CodeActivate, "switch-to-configuration %s%s", how, h.saidLast()).
		WithHint("its whole log: %s", LogFile(h.dir))
}

// saidLast is the end of what the last switch said, for an error that is read without the log.
func (h *helper) saidLast() string {
	f, err := os.Open(LogFile(h.dir))
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 1500
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	said, _ := io.ReadAll(io.LimitReader(f, most))
	if i := bytes.LastIndex(said, []byte("\n"+switchLine)); i >= 0 {
		_, said, _ = bytes.Cut(said[i+1:], []byte("\n"))
	}
	if text := strings.TrimSpace(strings.ToValidUTF8(string(said), "")); text != "" {
		return ":\n" + text
	}
	return ""
}

// switchTo runs a system's switch-to-configuration and returns its exit status, notRun with the reason when
// it was not begun. Everything it says goes to the log.
func (h *helper) switchTo(ctx context.Context, system, action string) (int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, switchTimeout, fleet.Errorf(fleet.Bad, fleet.CodeTimeout, "it took longer than %s", switchTimeout))
	defer cancel()
	log, err := os.OpenFile(LogFile(h.dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return notRun, stateError(err)
	}
	defer log.Close()
	fmt.Fprintf(log, switchLine+"%s %s %s\n", time.Now().UTC().Format(time.RFC3339), action, system)
	err = proc.RunTo(ctx, log, proc.Cmd{Program: switcher(system), Args: []string{action}, Env: []string{"NIXOS_INSTALL_BOOTLOADER="}})
	if code, ran := proc.ExitCode(err); ran {
		return code, nil
	}
	if err != nil && ctx.Err() != nil {
		return -1, fleet.Errorf(fleet.Bad, fleet.CodeTimeout, "switch-to-configuration %s was given up", action).WithHint("its whole log: %s", LogFile(h.dir)).WithCause(err)
	}
	if err != nil {
		return notRun, fleet.Errorf(fleet.ClassOf(err), fleet.CodeActivate, "switch-to-configuration of %s cannot be run", system).WithCause(err)
	}
	return 0, nil
}

// switchPatiently is switchTo, once more whenever somebody else's switch was under way. It is for what must be
// done now: committing, and going back.
func (h *helper) switchPatiently(ctx context.Context, system, action string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*switchTimeout)
	defer cancel()
	for {
		code, err := h.switchTo(ctx, system, action)
		if err != nil || code != lockHeld {
			return code, err
		}
		if h.awaitSwitch(ctx) != nil {
			return code, nil
		}
	}
}

// awaitSwitch waits until no switch-to-configuration is at work on this host: one outlives the helper that began it.
func (h *helper) awaitSwitch(ctx context.Context) error {
	for told := false; ; {
		held, err := durable.Held(switchLock)
		if err != nil {
			return stateError(err)
		}
		if !held && told {
			return nil
		}
		if held && !told {
			h.log.Info("waiting for the switch that is under way")
		}
		told = true // looked at least twice: somebody who only tries the lock does not count as a switch
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
