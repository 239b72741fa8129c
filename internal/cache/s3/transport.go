package s3

import (
	"context"
	"net"
	"net/http"
	"time"
)

// tries is how often a request is made that fails by no fault of its own.
const tries = 4

// newTransport makes connections that fail when nothing moves on them for that long, in either direction: a
// server that stands still is noticed wherever it stops, and a slow one is left alone.
func newTransport(timeout time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: min(timeout, 10*time.Second), KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &patientConn{c, timeout}, nil
		},
		TLSHandshakeTimeout: timeout,
		IdleConnTimeout:     timeout,
		MaxIdleConnsPerHost: 64,
		DisableCompression:  true,
	}
}

// patientConn gives every read and write a while. A write counts as a sign of life for a read that
// waits: the answer to an upload comes after all of it was sent.
type patientConn struct {
	net.Conn
	timeout time.Duration
}

func (c *patientConn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *patientConn) Write(b []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
