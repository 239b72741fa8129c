package cache_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
)

// corkSpy is content that notes whether the connection of the server was corked when it was read.
type corkSpy struct {
	cache.Blobs
	conn   atomic.Pointer[net.TCPConn] // the server's newest
	corked atomic.Int64                // reads
	plain  atomic.Int64
}

func (s *corkSpy) Open(ctx context.Context, key string) (io.ReadSeekCloser, error) {
	f, err := s.Blobs.Open(ctx, key)
	return &spiedReader{f, s}, err
}

type spiedReader struct {
	io.ReadSeekCloser
	spy *corkSpy
}

func (r *spiedReader) Read(b []byte) (int, error) {
	n := &r.spy.plain
	if on, err := r.spy.isCorked(); err == nil && on {
		n = &r.spy.corked
	}
	n.Add(1)
	return r.ReadSeekCloser.Read(b)
}

func (s *corkSpy) isCorked() (on bool, err error) {
	raw, err := s.conn.Load().SyscallConn()
	if err != nil {
		return false, err
	}
	var value int
	var got error
	err = raw.Control(func(fd uintptr) { value, got = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK) })
	if err == nil {
		err = got
	}
	return value != 0, err
}

// TestArchivesAreSentCorked: and the connection is as it was when the answer has ended, for what else is said on it.
func TestArchivesAreSentCorked(t *testing.T) {
	backing := cachetest.NewServer(t, nil)
	content := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	o := newObject(t, "hello", string(content))
	o.put(t, backing)

	spy := &corkSpy{Blobs: backing.Blobs}
	server := cache.New(cache.Options{Blobs: spy, Index: backing.Index, Tokens: cachetest.Tokens})
	idle := make(chan struct{}, 16)
	web := httptest.NewUnstartedServer(server.Handler())
	web.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		spy.conn.Store(conn.(*net.TCPConn))
		return cache.ConnContext(ctx, conn)
	}
	web.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateIdle {
			idle <- struct{}{}
		}
	}
	web.Start()
	defer web.Close()
	s := &cachetest.Server{Server: web}

	half := len(o.file) / 2
	for name, ask := range map[string]func() answer{
		"whole": func() answer { return call(t, s, "GET", "/c/"+o.info.URL, nil) },
		"range": func() answer { return call(t, s, "GET", "/c/"+o.info.URL, nil, "Range", "bytes=5-") },
		"head":  func() answer { return call(t, s, "HEAD", "/c/"+o.info.URL, nil) },
		"stale": func() answer { return call(t, s, "GET", "/c/"+o.info.URL, nil, "Range", "bytes=99999999-") },
	} {
		spy.corked.Store(0)
		a := ask()
		<-idle
		switch name {
		case "whole":
			a.want(t, 200, string(o.file[half:]))
		case "range":
			a.want(t, 206, string(o.file[5:]))
		case "head":
			a.want(t, 200, "")
		case "stale":
			a.want(t, 416, "")
		}
		if on, err := spy.isCorked(); err != nil || on {
			t.Errorf("%s: the connection is left corked: %v, %v", name, on, err)
		}
		if wholly := name == "whole" || name == "range"; wholly != (spy.corked.Load() > 0) || spy.plain.Load() > 0 {
			t.Errorf("%s: read %d times corked, %d times not", name, spy.corked.Load(), spy.plain.Load())
		}
	}

	// A client that goes away in the middle leaves nothing that web.Close would wait for, and keeps nobody from anything.
	res, err := http.Get(web.URL + "/c/" + o.info.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Fatal(err)
	}
	call(t, s, "GET", "/c/"+o.info.URL, nil).want(t, 200, string(o.file[half:]))
}

// TestSlowReaders: as many as there may be, which take nothing more, keep no one from an archive.
func TestSlowReaders(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	content := make([]byte, 16<<20) // more than the buffers between server and client hold
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	o := newObject(t, "hello", string(content))
	o.put(t, s)
	slow := &http.Client{Transport: &http.Transport{ReadBufferSize: 4096, DisableKeepAlives: true}}
	var bodies []io.ReadCloser
	for range 64 {
		res, err := slow.Get(s.CacheURL() + "/" + o.info.URL)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, res.Body)
	}
	call(t, s, "GET", "/c/"+o.info.URL, nil).want(t, 200, string(o.file[len(o.file)-100:]))
	for _, body := range bodies[1:] {
		if err := body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := io.ReadAll(bodies[0]) // late, but whole
	if err != nil || !bytes.Equal(got, o.file) {
		t.Errorf("%d bytes of %d: %v", len(got), len(o.file), err)
	}
	if err := bodies[0].Close(); err != nil {
		t.Fatal(err)
	}
}

// TestArchivesByTLS: such a connection is no TCP connection to the cache.
func TestArchivesByTLS(t *testing.T) {
	backing := cachetest.NewServer(t, nil)
	o := newObject(t, "hello", "hello")
	o.put(t, backing)
	web := httptest.NewUnstartedServer(backing.Cache.Handler())
	web.Config.ConnContext = cache.ConnContext
	web.StartTLS()
	defer web.Close()
	res, err := web.Client().Get(web.URL + "/c/" + o.info.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, o.file) {
		t.Errorf("%d bytes of %d: %v", len(got), len(o.file), err)
	}
}
