package activate

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestEndpoints(t *testing.T) {
	for _, c := range []struct {
		of              func(string) (Endpoint, bool)
		from, what, url string
	}{
		{GitEndpoint, "https://bot:geheim@forge.example:3000/a/fleet.git/?token=geheim", "git remote https://forge.example:3000/a/fleet.git", "https://forge.example:3000/a/fleet.git/info/refs?service=git-upload-pack"},
		{GitEndpoint, "ssh://git@forge.example/fleet.git", "git remote forge.example:22", "tcp://forge.example:22"},
		{GitEndpoint, "ssh://git@[2001:db8::1]:2222/fleet.git", "git remote [2001:db8::1]:2222", "tcp://[2001:db8::1]:2222"},
		{GitEndpoint, "git@forge.example:a/fleet.git", "git remote forge.example:22", "tcp://forge.example:22"},
		{GitEndpoint, "[2001:db8::1]:fleet.git", "git remote [2001:db8::1]:22", "tcp://[2001:db8::1]:22"},
		{GitEndpoint, "git://forge.example/fleet.git", "git remote forge.example:9418", "tcp://forge.example:9418"},
		{GitEndpoint, "file:///srv/fleet.git", "", ""},
		{GitEndpoint, "/srv/fleet.git", "", ""},
		{GitEndpoint, "/srv/a:b.git", "", ""},
		{GitEndpoint, "%zz://", "", ""},
		{CacheEndpoint, "https://cache.example/fleet?priority=10", "cache https://cache.example/fleet", "https://cache.example/fleet/nix-cache-info"},
		{CacheEndpoint, "ssh-ng://builder", "cache builder:22", "tcp://builder:22"},
		{CacheEndpoint, "s3://bucket?region=x", "", ""},
		{CacheEndpoint, "daemon", "", ""},
		{CacheEndpoint, "local?root=/x", "", ""},
	} {
		e, ok := c.of(c.from)
		if ok != (c.url != "") || e.URL != c.url || e.What != c.what {
			t.Errorf("%s: %+v, %v", c.from, e, ok)
		}
	}
}

// Whatever a remote is called, no password gets into the request.
func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{"forge", "http://forge/x", "//forge", "[::1]", "%41"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		for _, scheme := range []string{"https", "ssh", "git"} {
			if strings.Contains(rest, "geheim") {
				return
			}
			if e, ok := GitEndpoint(scheme + "://bot:geheim@" + rest); ok && strings.Contains(e.URL+e.What, "geheim") {
				t.Errorf("%+v", e)
			}
		}
	})
}

func TestReachable(t *testing.T) {
	var down atomic.Bool
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case down.Load():
			w.WriteHeader(http.StatusBadGateway)
		case r.URL.Path == "/private":
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	secure := httptest.NewUnstartedServer(http.NotFoundHandler()) // with a certificate that nobody trusts
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	all := []Endpoint{
		{"open", url}, {"private", url + "/private"}, {"untrusted", secure.URL}, {"tcp", "tcp://" + strings.TrimPrefix(url, "http://")},
		{"closed", "http://" + closedPort(t)}, {"closed too", "tcp://" + closedPort(t)},
	}
	got := reachable(t.Context(), all, time.Minute)
	if len(got) != 4 {
		t.Fatalf("%+v", got)
	}
	if err := awaitReachable(t.Context(), got); err != nil {
		t.Error(err)
	}
	down.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := awaitReachable(ctx, got)
	var lost *lostError
	if !errors.As(err, &lost) || fleet.ClassOf(err) != fleet.Bad || !strings.Contains(err.Error(), "does not reach open, private, which") {
		t.Errorf("%v", err)
	}

	h := checker()
	h.req.CheckSeconds = 0.1
	why := fleet.FailureOf(fleet.Check, err)
	if h.blame(t.Context(), err, why); why.Class != fleet.Transient || !strings.Contains(why.Message, "the network is at fault") {
		t.Errorf("%+v", why)
	}
	down.Store(false)
	h.req.CheckSeconds = 60
	why = fleet.FailureOf(fleet.Check, err)
	if h.blame(t.Context(), err, why); why.Class != fleet.Bad {
		t.Errorf("%+v", why)
	}
	time.AfterFunc(50*time.Millisecond, func() { down.Store(false) })
	down.Store(true)
	if err := awaitReachable(t.Context(), got); err != nil {
		t.Errorf("back after a moment: %v", err)
	}
}
