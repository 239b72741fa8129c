package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
)

// TestServeUntil has a server told to stop while an upload is under way: that one is taken to its end, others are not let in.
func TestServeUntil(t *testing.T) {
	t.Parallel()
	l, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n, err)
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	served := make(chan error, 1)
	go func() { served <- serveUntil(ctx, newServer(h, slog.New(slog.DiscardHandler)), l) }()

	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT / HTTP/1.1\r\nHost: c\r\nContent-Length: 10\r\n\r\n01234")
	<-begun
	stop()
	for { // until it listens no more
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			break
		}
		c.Close()
	}
	select {
	case err := <-served:
		t.Fatalf("it did not wait for the upload: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	fmt.Fprint(conn, "56789")
	b, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200 ") || !strings.Contains(string(b), "10 <nil>") {
		t.Errorf("%q, %v", b, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestServeUntilTheListenerFails(t *testing.T) {
	t.Parallel()
	l, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := serveUntil(t.Context(), newServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler)), l); err == nil {
		t.Error("nothing is served, and nobody is told")
	}
}

func TestEitherToken(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	first := func(token string) (cache.Grant, error) {
		switch token {
		case "mine":
			return cache.Grant{ID: "mine"}, nil
		case "broken":
			return cache.Grant{}, broken
		}
		return cache.Grant{}, cache.ErrBadToken
	}
	either := eitherToken(first, nil)
	if g, err := either("mine"); err != nil || g.ID != "mine" {
		t.Error(g, err)
	}
	if _, err := either("broken"); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, err := either("other"); !errors.Is(err, cache.ErrBadToken) {
		t.Error(err)
	}
}
