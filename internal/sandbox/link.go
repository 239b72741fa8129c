package sandbox

import (
	"context"
	"fmt"
	"net"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// plugIn connects a new init's network namespace to the LAN. The hardware address
// follows from the IP address, so that a rebooted host is the same neighbour.
func (h *Host) plugIn(ctx context.Context) error {
	h.lan.mu.Lock()
	h.lan.links++
	// A name of its own for each boot: the kernel takes its time to remove an old one.
	link := fmt.Sprintf("port%d", h.lan.links)
	h.lan.mu.Unlock()
	a := h.opts.Addr.As4()
	err := h.lan.net.ip(ctx,
		fmt.Sprintf("link add %s type veth peer name host0 address 02:00:%02x:%02x:%02x:%02x netns %d",
			link, a[0], a[1], a[2], a[3], h.proc.pid),
		fmt.Sprintf("link set %s master br0 up", link))
	if err != nil {
		return err
	}
	h.link = link
	ns, err := netnsOf(h.proc.pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.ip(ctx,
		"link set lo up",
		fmt.Sprintf("addr add %s/%d dev host0", h.opts.Addr, Network.Bits()),
		"link set host0 up")
}

// unplug removes the cable; that it is gone already is no error.
func (h *Host) unplug() {
	if h.link != "" {
		_ = h.lan.net.ip(context.Background(), "link del "+h.link)
		h.link = ""
	}
}

// CutLink takes the host's cable out: nothing reaches it, connections hang.
func (h *Host) CutLink(ctx context.Context) error { return h.setLink(ctx, "down") }

// RestoreLink puts the cable back.
func (h *Host) RestoreLink(ctx context.Context) error { return h.setLink(ctx, "up") }

func (h *Host) setLink(ctx context.Context, state string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.link == "" {
		return h.errOff()
	}
	return h.lan.net.ip(ctx, "link set "+h.link+" "+state)
}

// DialContext connects to a numeric address from inside the host; it fits
// http.Transport.DialContext, so that the owner can ask servers on the LAN.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ns, err := h.network()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return ns.dial(ctx, network, address)
}

// Listen is net.Listen at a numeric address inside the host, so that the owner can be a server on the LAN.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	ns, err := h.network()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = ns.do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// network is the host's network namespace.
func (h *Host) network() (*netns, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.proc.alive() {
		return nil, h.errOff()
	}
	ns, err := netnsOf(h.proc.pid)
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeInternal, "host %s: cannot enter its network", h.opts.Name).WithCause(err)
	}
	return ns, nil
}
