package drill

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Probe is how a host is looked at by commands: garrison.toml's [drill.hosts.NAME].
type Probe struct {
	Via                 []string // a program and its arguments; what is to be run on the host follows as one more
	System, Marker, Log string   // commands for a shell on the host
}

const probeTime = 20 * time.Second

// on runs a command on the host.
func (p Probe) on(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Via[0], append(slices.Clone(p.Via[1:]), command)...)
	cmd.WaitDelay = 2 * time.Second
	out, err := output(cmd)
	switch {
	case err != nil && ctx.Err() == context.DeadlineExceeded:
		err = fmt.Errorf("%w (no answer within %s)", err, probeTime)
	case err != nil && path.Base(p.Via[0]) == "ssh" && cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == sshFailed:
		err = sshError{p.Via[len(p.Via)-1], err}
	}
	return out, err
}

// sshFailed is ssh's exit code when it is ssh itself that failed, and not the command (ssh(1), EXIT STATUS).
const sshFailed = 255

// sshError is one of ssh itself: it has not come to the host.
type sshError struct {
	to    string // user and host
	cause error
}

func (e sshError) Error() string {
	said := e.cause.Error()
	for _, x := range []struct{ says, means string }{ // OpenSSH has no other words for programs
		{"IDENTIFICATION HAS CHANGED", "the host has another key than known_hosts says: another machine answers, or it was installed anew. Find out which; then ssh-keygen -R its name, and ssh %s once"},
		{"Host key verification failed", "its host key is not known here: ssh %s once by hand, and compare the key"},
		{"Permission denied", "it takes no key of yours: does its authorized_keys have it, and does ssh %s get in without being asked anything?"},
		{"resolve hostname", "nothing knows that name: is it in DNS, or ~/.ssh/config? ssh %s says the same"},
		{"", "it does not answer: is it up, and reachable from here? Try ssh %s"},
	} {
		if strings.Contains(said, x.says) {
			return fmt.Sprintf("ssh does not get to %s: %s\n%s", e.to, fmt.Sprintf(x.means, e.to), said)
		}
	}
	return said
}

func (e sshError) Unwrap() error { return e.cause }

// inFleet is a host of somebody's fleet: what its agent tells by the hub, and what is seen by commands on it.
type inFleet struct {
	*live
	name  string
	probe *Probe // nil: none, the hub's word alone
}

func (h inFleet) system(ctx context.Context) (string, error) {
	if h.probe == nil {
		s, err := h.status(ctx)
		if err == nil && s == nil {
			err = fmt.Errorf("nobody tells of %s", h.name)
		}
		if err != nil {
			return "", err
		}
		return s.Systems.Current, nil
	}
	system, err := h.probe.on(ctx, h.probe.System)
	if err == nil && !strings.HasPrefix(system, "/nix/store/") {
		err = fmt.Errorf("%s on %s says %q, which is no store path", h.probe.System, h.name, system)
	}
	return system, err
}

// marker is "" of a host that is not looked at by commands.
func (h inFleet) marker(ctx context.Context) (string, error) {
	if h.probe == nil {
		return "", nil
	}
	text, err := h.probe.on(ctx, h.probe.Marker)
	return text + "\n", err
}

func (h inFleet) log(ctx context.Context) (string, error) {
	if s, err := h.status(ctx); err != nil || s != nil {
		if err != nil {
			return "", err
		}
		b, err := h.hub.getBytes(ctx, "/api/v1/hosts/"+h.name+"/logs")
		return string(b), err
	}
	if h.probe == nil {
		return "", nil
	}
	return h.probe.on(ctx, h.probe.Log)
}

func (h inFleet) status(ctx context.Context) (*fleet.Status, error) {
	if h.hub == nil {
		return nil, nil
	}
	var s fleet.Status
	err := h.hub.get(ctx, "/api/v1/hosts/"+h.name, &s)
	if errors.Is(err, errAbsent) || err == nil && s.Phase == fleet.PhaseUnheard {
		return nil, nil
	}
	return &s, err
}

func (h inFleet) deployment(ctx context.Context, commit string) (*fleet.Deployment, error) {
	if h.hub == nil {
		return nil, nil
	}
	var past []fleet.Deployment
	err := h.hub.get(ctx, "/api/v1/hosts/"+h.name+"/history?n=20", &past)
	if errors.Is(err, errAbsent) {
		return nil, nil
	}
	i := slices.IndexFunc(past, func(d fleet.Deployment) bool { return d.Release.Source.Commit == commit })
	if err != nil || i < 0 {
		return nil, err
	}
	return &past[i], nil
}
