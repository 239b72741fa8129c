package cache

import (
	"context"
	"net"
	"net/http"
	"syscall"

	"golang.org/x/sys/unix"
)

type connKey struct{}

// ConnContext is for the http.Server around a Handler, which works without it, but sends archives slower.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return ctx
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, raw)
}

// cork has the connection of a request send nothing but full packets, until its result is called, which sends what is left. Go's connections send each write at once: the header
// and the end of each of the kernel's chunks of a file in a packet of their own. Where the kernel paces what it sends (BBR), that many more timers ran in the
// time of who reads, on its processor. See decisions/0023.
func cork(r *http.Request) (uncork func()) {
	raw, ok := r.Context().Value(connKey{}).(syscall.RawConn)
	if !ok {
		return func() {}
	}
	set := func(on int) {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, on) }) // it fails when the client is gone
	}
	set(1)
	return func() { set(0) }
}
