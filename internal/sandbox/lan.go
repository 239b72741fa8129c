// Package sandbox makes hosts for the demo, drills and tests: machines with a /nix,
// /etc, /run, /var and network of their own, started in a fraction of a second.
//
// A LAN is a network namespace with a bridge. A Host on it is a process in
// namespaces of its own whose PID 1 is this package's Init, which builds the host's
// root from a folder, runs services and reaps orphans; with HostOptions.Base it is a
// whole Debian with systemd instead. The machine's programs are there read-only, its
// store, files and network are not.
//
// Nothing is left behind, however the owner ends. All namespaces are anonymous: they
// exist as long as a process in them or a descriptor of the owner's. Every init dies
// when its owner does (a pipe closes, and the kernel kills), and with PID 1 the kernel
// ends everything in the host. Mounts exist only in the hosts' own namespaces. What
// stays are the folders given in Options.Dir and HostOptions.Dir.
//
// It needs root. Start reading at NewLAN, then LAN.Start; what runs inside begins at Init.
package sandbox

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// CodeNotPermitted says that the machine does not let us make namespaces.
const CodeNotPermitted fleet.Code = "not-permitted"

// InitCommand is the hidden command of the garrison binary that must call Init.
const InitCommand = "sandbox-init"

// Network is where the hosts' addresses are from. Nothing outside the LAN is reachable from it.
var Network = netip.MustParsePrefix("192.0.2.0/24")

// Options of a LAN.
type Options struct {
	// Self is the binary that runs Init when it is called with InitCommand; also
	// found as `garrison` in every host's PATH. Default: the running program.
	Self string
	// Dir is where hosts' folders are, unless HostOptions.Dir says otherwise. Required.
	Dir string
	// Names are the host names that every host can resolve (/etc/hosts).
	Names map[string]netip.Addr
	// Tools are the machine's programs that hosts need. Default: DefaultTools.
	Tools []string
	// Log hears of hosts that start and stop. Default: discarded.
	Log *slog.Logger
}

// LAN is a network of hosts. Its methods may be called concurrently.
type LAN struct {
	opts  Options
	tools *Toolchain
	net   *netns
	forks chan func() // run on one thread that lives as long as the LAN

	mu     sync.Mutex
	hosts  []*Host
	links  int // how many links were ever made; names them
	closed bool
}

// NewLAN makes a network without hosts. It fails with CodeUsage when not run by root,
// CodeMissingTool when a program is missing and CodeNotPermitted when the machine
// allows no namespaces. Close it when done.
func NewLAN(ctx context.Context, o Options) (*LAN, error) {
	if os.Geteuid() != 0 {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeUsage, "hosts in namespaces need root").
			WithHint("run it as root, for example with sudo")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Tools == nil {
		o.Tools = DefaultTools
	}
	if o.Self == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fleet.Errorf(fleet.Local, fleet.CodeInternal, "cannot find the running program").WithCause(err)
		}
		o.Self = self
	}
	dir, err := filepath.Abs(o.Dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeState, "cannot make the folder of the hosts, %s", o.Dir).WithCause(err)
	}
	o.Dir = dir
	tools, err := FindToolchain(append([]string{"ip", "nsenter"}, o.Tools...))
	if err != nil {
		return nil, err
	}
	if err := tools.prepare(ctx, filepath.Join(dir, ".toolchain")); err != nil {
		return nil, err
	}
	ns, err := newNetns()
	if err != nil {
		return nil, err
	}
	l := &LAN{opts: o, tools: tools, net: ns, forks: make(chan func())}
	if err := ns.ip(ctx, "link add br0 type bridge", "link set br0 up", "link set lo up"); err != nil {
		return nil, firstError(err, ns.Close())
	}
	go l.forkLoop()
	return l, nil
}

// Hosts are the hosts that were ever started on the LAN, in order.
func (l *LAN) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Host(nil), l.hosts...)
}

// Close cuts the power of every host, waits until they are gone and removes the
// network. The hosts' folders stay. It may be called again.
func (l *LAN) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	var err error
	for _, h := range l.Hosts() {
		err = firstError(err, h.Kill())
	}
	close(l.forks)
	return firstError(err, l.net.Close())
}

// NixConf is the nix.conf that a host gets if its Files bring none, with the
// substituters and public keys given.
func (l *LAN) NixConf(substituters, trustedKeys []string) string {
	return NixConf(l.tools.Busybox, substituters, trustedKeys)
}

// Path is the PATH in every host.
func (l *LAN) Path() string { return l.tools.SearchPath() }

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
