package activate

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Self is how this process was started: by which program and, under systemd, by which unit. A deployment may change both.
type Self struct {
	unit    string // service whose main process this is; "" for none
	defined [sha256.Size]byte
}

// KnowSelf looks how this process was started. Where systemd does not say, it is as if there was none.
func KnowSelf(ctx context.Context) Self {
	if !HasSystemd() {
		return Self{}
	}
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	conn, err := connect(ctx)
	if err != nil {
		return Self{}
	}
	defer conn.Close()
	name, err := conn.GetUnitNameByPID(ctx, uint32(os.Getpid()))
	if err != nil || !strings.HasSuffix(name, ".service") {
		return Self{}
	}
	if main, err := conn.GetServicePropertyContext(ctx, name, "MainPID"); err != nil || main.Value.Value() != uint32(os.Getpid()) {
		return Self{}
	}
	defined, err := definition(ctx, conn, name)
	if err != nil {
		return Self{}
	}
	return Self{name, defined}
}

// definition is a digest of the files that say what a unit is, the drop-ins too.
func definition(ctx context.Context, conn *dbus.Conn, name string) (sum [sha256.Size]byte, err error) {
	fragment, err := conn.GetUnitPropertyContext(ctx, name, "FragmentPath")
	if err != nil {
		return sum, err
	}
	more, err := conn.GetUnitPropertyContext(ctx, name, "DropInPaths")
	if err != nil {
		return sum, err
	}
	file, _ := fragment.Value.Value().(string)
	dropIns, _ := more.Value.Value().([]string)
	digest := sha256.New()
	for _, f := range append([]string{file}, dropIns...) {
		text, err := os.ReadFile(f)
		if err != nil {
			return sum, err
		}
		digest.Write(text)
		digest.Write([]byte{0})
	}
	return [sha256.Size]byte(digest.Sum(nil)), nil
}

// Replacement says whether whoever started this process would start another one now, and how to get there: by systemd,
// or by executing program in its place.
func (s Self) Replacement(ctx context.Context) (bySystemd bool, program string) {
	if s.unit != "" {
		ctx, cancel := context.WithTimeout(ctx, busTime)
		defer cancel()
		conn, err := connect(ctx)
		if err != nil {
			return false, ""
		}
		defer conn.Close()
		// A unit that is masked or gone is not to be started again.
		defined, err := definition(ctx, conn, s.unit)
		bySystemd = err == nil && (defined != s.defined || otherProgram() != "")
		return bySystemd, ""
	}
	return false, otherProgram()
}

// otherProgram is what the name leads to now by which this program was started, "" where that is this one still.
func otherProgram() string {
	path, err := exec.LookPath(os.Args[0])
	if err != nil {
		return ""
	}
	now, err1 := os.Stat(path)
	own, err2 := os.Stat("/proc/self/exe")
	if errors.Join(err1, err2) != nil || os.SameFile(now, own) {
		return ""
	}
	return path
}

// Restart has systemd stop this process and start what its unit says now. It does not wait for that.
func (s Self) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	conn, err := connect(ctx)
	if err == nil {
		defer conn.Close()
		_, err = conn.RestartUnitContext(ctx, s.unit, "replace", nil)
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeActivate, "systemd does not restart %s", s.unit).
			WithHint("the agent before this deployment goes on: systemctl restart %s", s.unit).WithCause(err)
	}
	return nil
}
