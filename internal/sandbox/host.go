package sandbox

import (
	"context"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// HostOptions say what a host is.
type HostOptions struct {
	Name string // names the host on the LAN and in logs; unique
	Addr netip.Addr
	// Hostname is what it calls itself. Default: Name.
	Hostname string
	// Dir is the host's disk: its / but for /run, /tmp, /proc, /sys, /dev and the
	// machine's programs. Default: Name in the LAN's Dir.
	Dir string
	// Files are written to the disk before every start. An /etc/nix/nix.conf among
	// them replaces the default one.
	Files []File
	// Binds are folders and files of the machine's that the host sees too.
	Binds []Bind
	// Services are started with the host. With Base, they are units of these names.
	Services []Service
	// Env is added to the environment of services and commands.
	Env []string
	// Base makes it a host with a real systemd: the folder that HostBase tells, on
	// which the host's disk lies as an overlay.
	Base string
}

// File is a file of a host.
type File struct {
	Path string
	Mode fs.FileMode // 0 means 0644
	Data []byte
}

// Bind makes Source of the machine appear as Target in the host, read-only unless Writable.
type Bind struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	Writable bool   `json:"writable,omitempty"`
}

// Service is a program that a host's init runs, with its output in /var/log/NAME.log.
type Service struct {
	Name    string   `json:"name"`
	Args    []string `json:"args"` // the program, looked up in PATH, and its arguments
	Env     []string `json:"env,omitempty"`
	Restart bool     `json:"restart,omitempty"` // started again whenever it ends by itself
}

// Host is a machine on a LAN. Its methods may be called concurrently.
type Host struct {
	lan  *LAN
	opts HostOptions

	mu   sync.Mutex
	proc *process // nil while it is off
	link string   // the LAN's end of its cable
}

// Start makes a host and starts it: when it returns, the network is up, the system
// that the boot entry names (if there is one) is activated and the services run.
// The host runs until Stop, Kill or Close; ctx bounds the start only.
func (l *LAN) Start(ctx context.Context, o HostOptions) (*Host, error) {
	if !fleet.ValidHostName(o.Name) {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeUsage, "%q cannot name a host", o.Name)
	}
	if !Network.Contains(o.Addr) {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeUsage, "host %s: %s is not an address in %s", o.Name, o.Addr, Network)
	}
	if o.Hostname == "" {
		o.Hostname = o.Name
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(l.opts.Dir, o.Name)
	}
	h := &Host{lan: l, opts: o}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, fleet.Errorf(fleet.Local, fleet.CodeUsage, "host %s: the LAN is closed", o.Name)
	}
	for _, other := range l.hosts {
		if other.Name() == o.Name || other.Addr() == o.Addr {
			l.mu.Unlock()
			return nil, fleet.Errorf(fleet.Local, fleet.CodeUsage, "host %s: its name or address is taken", o.Name)
		}
	}
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	if err := h.Start(ctx); err != nil {
		l.forget(h)
		return nil, err
	}
	return h, nil
}

func (l *LAN) forget(h *Host) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.hosts {
		if l.hosts[i] == h {
			l.hosts = append(l.hosts[:i], l.hosts[i+1:]...)
			return
		}
	}
}

// Name and Addr are what HostOptions said.
func (h *Host) Name() string     { return h.opts.Name }
func (h *Host) Addr() netip.Addr { return h.opts.Addr }

// Start switches a host on again that was stopped or killed: disk as it was, /run and
// /tmp empty. It does nothing when the host runs.
func (h *Host) Start(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.proc.alive() {
		return nil
	}
	begin := time.Now()
	if err := h.writeDisk(); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "host %s: cannot write its disk", h.opts.Name).WithCause(err)
	}
	p, err := h.lan.fork(h.config(), h.logFile())
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeOf(err), "host %s does not start", h.opts.Name).WithCause(err)
	}
	h.proc = p
	if err := h.bringUp(ctx); err != nil {
		_ = h.turnOff()
		return fleet.Errorf(fleet.Local, fleet.CodeInternal, "host %s does not start", h.opts.Name).WithCause(err)
	}
	h.lan.opts.Log.Debug("host started", "host", h.opts.Name, "duration", time.Since(begin))
	return nil
}

// bringUp connects the new init's network while it builds the root, then boots.
func (h *Host) bringUp(ctx context.Context) error {
	plugged := h.plugIn(ctx)
	if err := h.proc.hello(ctx); err != nil {
		return err // and why the init ended, if that is why its network is gone
	}
	if plugged != nil {
		return plugged
	}
	if h.opts.Base == "" {
		_, err := h.proc.call(ctx, request{Op: "boot"})
		return err
	}
	removeStaleCgroups()
	if err := enterCgroup(cgroupName(h.proc.pid), h.proc.pid); err != nil {
		return err
	}
	if _, err := h.proc.call(ctx, request{Op: "boot"}); err != nil {
		return err
	}
	return h.awaitSystemd(ctx, h.proc)
}

func (h *Host) config() initConfig {
	o := h.opts
	binds := append([]Bind{{Source: h.lan.opts.Self, Target: binDir + "/garrison"}}, o.Binds...)
	return initConfig{
		Name: o.Name, Hostname: o.Hostname, Root: o.Dir, Binds: binds,
		Env: h.environ(), Services: o.Services, Base: o.Base,
	}
}

// environ is the environment of whatever runs in the host.
func (h *Host) environ() []string {
	return append([]string{
		"PATH=" + h.lan.Path(), "HOME=/root", "USER=root", "LANG=C.UTF-8",
		"NIX_SSL_CERT_FILE=" + certFile,
	}, h.opts.Env...)
}

// Stop shuts the host down: services get SIGTERM, and SIGKILL after 5 s (with Base, as
// systemd does it). When ctx ends before that, the power is cut.
func (h *Host) Stop(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.proc.alive() {
		h.proc.terminate(ctx)
	}
	return h.turnOff()
}

// Kill cuts the power: everything in the host ends at once, by SIGKILL. What was
// written to its disk stays, synced or not.
func (h *Host) Kill() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.turnOff()
}

func (h *Host) turnOff() error {
	if h.proc == nil {
		return nil
	}
	h.proc.kill()
	var err error
	if h.opts.Base != "" {
		err = removeCgroup(cgroupName(h.proc.pid))
	}
	h.proc = nil
	h.unplug()
	return err
}

// Running says whether the host is on.
func (h *Host) Running() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proc.alive()
}

// StopService stops a service, with all of its process group, and waits until it is
// gone. It stays down until it is started or the host boots.
func (h *Host) StopService(ctx context.Context, name string) error {
	_, err := h.call(ctx, request{Op: "stop", Service: name})
	return err
}

// StartService starts a service that does not run.
func (h *Host) StartService(ctx context.Context, name string) error {
	_, err := h.call(ctx, request{Op: "start", Service: name})
	return err
}

// RestartService stops a service, if it runs, and starts it.
func (h *Host) RestartService(ctx context.Context, name string) error {
	_, err := h.call(ctx, request{Op: "restart", Service: name})
	return err
}

// SignalService sends a signal to the main process of a service.
func (h *Host) SignalService(ctx context.Context, name string, sig os.Signal) error {
	n, ok := signalNumber(sig)
	if !ok {
		return fleet.Errorf(fleet.Local, fleet.CodeUsage, "%v is not a signal", sig)
	}
	_, err := h.call(ctx, request{Op: "signal", Service: name, Signal: n})
	return err
}

// ServicePID is the process id of a service as seen from inside the host, 0 when it
// does not run.
func (h *Host) ServicePID(ctx context.Context, name string) (int, error) {
	r, err := h.call(ctx, request{Op: "pid", Service: name})
	return r.Pid, err
}

func (h *Host) call(ctx context.Context, r request) (reply, error) {
	if h.opts.Base != "" {
		return h.askSystemd(ctx, r)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.proc.alive() {
		return reply{}, h.errOff()
	}
	answer, err := h.proc.call(ctx, r)
	if err != nil {
		return reply{}, fleet.Errorf(fleet.Local, fleet.CodeInternal, "host %s: %s", h.opts.Name,
			strings.TrimSpace(r.Op+" "+r.Service)).WithCause(err)
	}
	return answer, nil
}

func (h *Host) errOff() error {
	return fleet.Errorf(fleet.Local, fleet.CodeNotFound, "host %s is off", h.opts.Name)
}
