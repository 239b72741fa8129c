package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// HostBase is the base for HostOptions.Base: a Debian with systemd, Nix, git and age
// that scripts/host-base made. It fails with CodeMissingTool, saying how to make it,
// when it or systemd-nspawn is not there. script is the path of scripts/host-base.
func HostBase(ctx context.Context, script string) (string, error) {
	out, err := exec.CommandContext(ctx, script, "--print").Output()
	if err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeMissingTool, "cannot ask %s for the base of systemd hosts", script).WithCause(err)
	}
	base := strings.TrimSpace(string(out))
	missing := ""
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		missing = "systemd-nspawn"
	} else if !exists(base) {
		missing = base
	}
	if missing != "" {
		return "", fleet.Errorf(fleet.Local, fleet.CodeMissingTool, "hosts with a systemd need %s, which is not there", missing).
			WithHint("run scripts/setup test")
	}
	return base, nil
}

// CachedBase is the newest base that scripts/host-base made for whoever runs this; "" where there is none, or nothing to start it with.
func CachedBase() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		return ""
	}
	all, err := filepath.Glob(filepath.Join(cache, "garrison/host-base/*/usr/lib/systemd/systemd"))
	if err != nil || len(all) == 0 {
		return ""
	}
	return strings.TrimSuffix(slices.Max(all), "/usr/lib/systemd/systemd")
}

// AwaitBoot waits until a host with a systemd has booted, which Start does by itself: it
// is for hosts that were told to reboot from inside. Other hosts need no waiting.
func (h *Host) AwaitBoot(ctx context.Context) error {
	h.mu.Lock()
	p := h.proc
	h.mu.Unlock()
	if !p.alive() {
		return h.errOff()
	}
	if h.opts.Base == "" {
		return nil
	}
	return h.awaitSystemd(ctx, p)
}

// awaitSystemd waits until the system inside has booted: "running", or "degraded" when
// a unit failed.
func (h *Host) awaitSystemd(ctx context.Context, p *process) error {
	for {
		if state := h.systemdState(ctx, p); state == "running" || state == "degraded" {
			return nil
		}
		select {
		case <-time.After(30 * time.Millisecond):
		case <-p.done:
			return p.explain(errors.New("its systemd ended while booting"))
		case <-ctx.Done():
			return fmt.Errorf("systemd has not booted (see %s): %w", filepath.Join(h.opts.Dir, "console.log"), context.Cause(ctx))
		}
	}
}

// systemdState asks how far the system inside is; "" when nobody answers.
func (h *Host) systemdState(ctx context.Context, p *process) string {
	leader, err := findLeader(p.pid)
	if err != nil {
		return ""
	}
	// A systemd on its way up or down may leave the question without an answer.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out, _ := h.commandIn(ctx, leader, "systemctl", "is-system-running").Output() // exits 1 for all but "running"
	return strings.TrimSpace(string(out))
}

// findLeader is the process id of the systemd inside: below the init and its nspawn,
// the child that is in a process namespace of its own.
func findLeader(init int) (int, error) {
	outside, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init))
	if err != nil {
		return 0, err
	}
	for _, nspawn := range childrenOf(init) {
		for _, child := range childrenOf(nspawn) {
			inside, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", child))
			if err == nil && inside != outside {
				return child, nil
			}
		}
	}
	return 0, errors.New("its systemd does not run")
}

func childrenOf(pid int) (children []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // it ended
		}
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// units are the files that make systemd run the host's services, for the host's disk.
func (h *Host) units() []File {
	var files []File
	for _, s := range h.opts.Services {
		args := s.Args
		if len(args) > 0 && !filepath.IsAbs(args[0]) {
			args = append([]string{"/usr/bin/env"}, args...) // looks it up in the PATH given below
		}
		var b strings.Builder
		// The agent under test must outlive the switch that it makes, and finds, as on NixOS, the booted system activated.
		fmt.Fprintf(&b, "[Unit]\nDescription=%s\nAfter=boot-entry.service\nX-RestartIfChanged=false\n[Service]\nExecStart=%s\n", s.Name,
			strings.ReplaceAll(quoteUnit(args), "$", "$$"))
		fmt.Fprintf(&b, "Environment=%s\n", quoteUnit(mergeEnv(h.environ(), s.Env)))
		fmt.Fprintf(&b, "StandardOutput=append:/var/log/%[1]s.log\nStandardError=append:/var/log/%[1]s.log\n", s.Name)
		if s.Restart {
			fmt.Fprintf(&b, "Restart=always\nRestartSec=%dms\n", restartDelay.Milliseconds())
		}
		files = append(files, File{Path: unitPath(s.Name), Data: []byte(b.String())})
	}
	return files
}

const unitDir = "/etc/systemd/system"

func unitPath(service string) string { return filepath.Join(unitDir, service+".service") }

// enableUnits links the services to what boots.
func (h *Host) enableUnits() error {
	wants := filepath.Join(h.disk(), unitDir, "multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	for _, s := range h.opts.Services {
		err := os.Symlink(unitPath(s.Name), filepath.Join(wants, s.Name+".service"))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// quoteUnit writes words so that systemd reads each as one, with nothing in it special.
func quoteUnit(words []string) string {
	special := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "%", "%%")
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = `"` + special.Replace(w) + `"`
	}
	return strings.Join(quoted, " ")
}

// askSystemd does for a host with systemd what an init does for its services.
func (h *Host) askSystemd(ctx context.Context, r request) (reply, error) {
	args := []string{r.Op, r.Service}
	switch r.Op {
	case "signal":
		args = []string{"kill", "--kill-who=main", "--signal=" + strconv.Itoa(r.Signal), r.Service}
	case "pid":
		args = []string{"show", "--property=MainPID", "--value", r.Service}
	}
	out, err := h.Run(ctx, "systemctl", args...)
	if err != nil || r.Op != "pid" {
		return reply{}, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	return reply{Pid: pid}, err
}
