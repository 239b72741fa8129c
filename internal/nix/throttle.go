package nix

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// throttle is a forward proxy on loopback that nix fetches through, and that reads from the network no faster than it may: whatever options
// a Nix knows, and over all its connections together. It goes where nix would: by what the environment says of proxies.
type throttle struct {
	ctx     context.Context // its life: what it has open ends with that
	login   string          // that it asks for. Other users of the machine must not get into the network as root, nor behind the proxy that root may use
	via     func(*http.Request) (*url.URL, error)
	proxies http.Transport // for what stands behind those that via tells of

	bytesPerSecond int64
	mu             sync.Mutex
	free           time.Time // when what was read until now is paid for
	failed         error     // why nix was last told that a cache is not reached, which it does not pass on
}

const (
	// throttleDial is for a connection to a cache, as connect-timeout is for nix's own.
	throttleDial = 5 * time.Second
	// throttleSilence is how long nothing comes before a connection is given up; more than nix's stalled-download-timeout, which tells why.
	throttleSilence = 90 * time.Second
	// throttleChunk is what is read at once, at most, in bytes; throttleDebt how much time not used is not lost.
	throttleChunk, throttleDebt = 32 << 10, 100 * time.Millisecond
)

// throttled begins a throttle. env makes nix fetch through it; end ends it, and all that goes through it, as parent does, and returns why a cache
// was not reached.
func throttled(parent context.Context, bytesPerSecond int64, via func(*http.Request) (*url.URL, error)) (env []string, end func() error, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(parent)
	t := &throttle{ctx: ctx, login: rand.Text(), via: via, bytesPerSecond: bytesPerSecond}
	quiet := slog.NewLogLogger(slog.DiscardHandler, 0) // nix is told, and says so
	transport := &http.Transport{Proxy: via, DialContext: t.dial, TLSHandshakeTimeout: throttleDial, ResponseHeaderTimeout: throttleSilence,
		DisableCompression: true, MaxIdleConnsPerHost: 25, IdleConnTimeout: throttleSilence}
	t.proxies.DialContext, t.proxies.TLSHandshakeTimeout = t.dial, throttleDial
	pass := &httputil.ReverseProxy{Transport: transport, ErrorLog: quiet,
		Rewrite:      func(r *httputil.ProxyRequest) { r.Out.URL.RawQuery = r.In.URL.RawQuery }, // also one that Go does not understand
		ErrorHandler: t.fail}
	server := &http.Server{ErrorLog: quiet, ReadHeaderTimeout: throttleSilence, BaseContext: func(net.Listener) context.Context { return ctx },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case !t.knows(r):
				w.Header().Set("Proxy-Authenticate", "Basic")
				http.Error(w, "this is for one nix alone", http.StatusProxyAuthRequired)
			case r.Method == http.MethodConnect:
				t.tunnel(w, r)
			case r.URL.Scheme == "http":
				pass.ServeHTTP(w, r)
			default:
				http.Error(w, "this is a proxy for http and https", http.StatusBadRequest)
			}
		})}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(l) }) // until it is closed
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	at := (&url.URL{Scheme: "http", User: url.UserPassword("nix", t.login), Host: l.Addr().String()}).String()
	// curl reads the lower case first, and for http nothing else
	return []string{"http_proxy=" + at, "https_proxy=" + at, "no_proxy=", "NO_PROXY="}, func() error {
		cancel()
		if stop() {
			_ = server.Close()
		}
		served.Wait()
		transport.CloseIdleConnections()
		t.proxies.CloseIdleConnections()
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.failed
	}, nil
}

// knows says whether a request is from who was told the login.
func (t *throttle) knows(r *http.Request) bool {
	_, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
	return subtle.ConstantTimeCompare([]byte(password), []byte(t.login)) == 1
}

// fail tells nix that a cache is not reached.
func (t *throttle) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil { // it is not nix that gave up
		t.mu.Lock()
		t.failed = err
		t.mu.Unlock()
	}
	http.Error(w, err.Error(), http.StatusBadGateway)
}

// tunnel carries what is encrypted.
func (t *throttle) tunnel(w http.ResponseWriter, r *http.Request) {
	there, err := t.connect(r.Host)
	if err != nil {
		t.fail(w, r, err)
		return
	}
	defer func() { _ = there.Close() }()
	here, sent, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = here.Close() }()
	defer context.AfterFunc(t.ctx, func() { _, _ = here.Close(), there.Close() })()
	if _, err := io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(there, sent)
		_, _ = here.Close(), there.Close() // nix has no more use for it
	})
	_, _ = io.Copy(here, there)
	_, _ = here.Close(), there.Close()
	both.Wait()
}

// behind is a connection through a proxy: what is sent is the body of a request, what comes that of its answer.
type behind struct {
	io.ReadCloser
	*io.PipeWriter
}

func (b behind) Close() error {
	_ = b.PipeWriter.Close()
	return b.ReadCloser.Close()
}

// connect connects with a host, through the proxy that this machine has for it.
func (t *throttle) connect(host string) (io.ReadWriteCloser, error) {
	proxy, err := t.via(&http.Request{URL: &url.URL{Scheme: "https", Host: host}})
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		return t.dial(t.ctx, "tcp", host)
	}
	body, sent := io.Pipe()
	r := (&http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: proxy.Scheme, Host: proxy.Host}, Host: host, Header: http.Header{}, Body: body, ContentLength: -1}).WithContext(t.ctx)
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		r.SetBasicAuth(proxy.User.Username(), password)
		r.Header["Proxy-Authorization"] = r.Header["Authorization"]
		r.Header.Del("Authorization")
	}
	answer, err := t.proxies.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	there := behind{answer.Body, sent}
	if answer.StatusCode != http.StatusOK {
		_ = there.Close()
		return nil, fmt.Errorf("the proxy %s answers %s for %s", proxy.Host, answer.Status, host)
	}
	return there, nil
}

// dial opens a connection that is read no faster than may be, and that neither outlives the throttle nor waits for long.
func (t *throttle) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: throttleDial}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &slow{c, t, context.AfterFunc(t.ctx, func() { _ = c.Close() })}, nil
}

// slow is a connection of a throttle.
type slow struct {
	net.Conn
	of   *throttle
	stop func() bool
}

func (c *slow) Read(p []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(throttleSilence)) // fails on what is closed, as reading does
	n, err := c.Conn.Read(p[:min(int64(len(p)), throttleChunk, max(c.of.bytesPerSecond/10, 1))])
	c.of.pay(n)
	return n, err
}

func (c *slow) Write(p []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(throttleSilence))
	return c.Conn.Write(p)
}

func (c *slow) Close() error {
	c.stop()
	return c.Conn.Close()
}

// pay waits until so many bytes may have come, after all that came before.
func (t *throttle) pay(bytes int) {
	t.mu.Lock()
	now := time.Now()
	if early := now.Add(-throttleDebt); t.free.Before(early) {
		t.free = early
	}
	t.free = t.free.Add(time.Duration(float64(bytes) / float64(t.bytesPerSecond) * float64(time.Second)))
	wait := time.NewTimer(t.free.Sub(now))
	t.mu.Unlock()
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-t.ctx.Done():
	}
}
