package nix

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// proxyOf is the address that nix is given.
func proxyOf(t *testing.T, env []string) *url.URL {
	t.Helper()
	_, at, _ := strings.Cut(env[0], "=")
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestThrottleGoesWhereNixWould: through the proxy that the machine has, with what lets in there; and what a cache is told and tells stays as it is.
func TestThrottleGoesWhereNixWould(t *testing.T) {
	t.Parallel()
	cache := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.Header.Get("Proxy-Authorization") != "" || r.Header.Get("Range") != "bytes=1-" || r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("the cache is told %v", r.Header)
		}
		w.Header().Set("X-Path", r.URL.RequestURI())
		_, _ = io.WriteString(w, user+":"+password)
	})
	plain, encrypted := httptest.NewServer(cache), httptest.NewTLSServer(cache)
	defer plain.Close()
	defer encrypted.Close()

	var mu sync.Mutex
	var passed []string
	upEnv, upEnd, err := throttled(t.Context(), 1<<30, func(r *http.Request) (*url.URL, error) {
		mu.Lock()
		defer mu.Unlock()
		passed = append(passed, r.URL.Host)
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	up := proxyOf(t, upEnv)
	env, end, err := throttled(t.Context(), 1<<30, func(*http.Request) (*url.URL, error) { return up, nil })
	if err != nil {
		t.Fatal(err)
	}
	ask := func(at string, through *url.URL) (*http.Response, string, error) {
		transport := encrypted.Client().Transport.(*http.Transport).Clone()
		transport.Proxy, transport.DisableCompression = http.ProxyURL(through), true
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at+"/c/a%2Fb?x=1;y", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("of", "netrc")
		r.Header.Set("Range", "bytes=1-")
		answer, err := transport.RoundTrip(r)
		if err != nil {
			return nil, "", err
		}
		defer func() { _ = answer.Body.Close() }()
		said, err := io.ReadAll(answer.Body)
		return answer, string(said), err
	}
	for _, at := range []string{plain.URL, encrypted.URL} {
		answer, said, err := ask(at, proxyOf(t, env))
		if err != nil || said != "of:netrc" || answer.Header.Get("X-Path") != "/c/a%2Fb?x=1;y" {
			t.Errorf("%s: %q, %v, %+v", at, said, err, answer)
		}
		stranger := *proxyOf(t, env)
		for _, stranger.User = range []*url.Userinfo{nil, url.UserPassword("nix", ""), url.UserPassword("nix", "guessed")} {
			if answer, said, err := ask(at, &stranger); err == nil && answer.StatusCode != http.StatusProxyAuthRequired || err != nil && !strings.Contains(err.Error(), "Proxy Authentication Required") {
				t.Errorf("%s, a stranger with %v: %q, %v", at, stranger.User, said, err)
			}
		}
	}
	mu.Lock()
	if len(passed) != 2 || "http://"+passed[0] != plain.URL || "https://"+passed[1] != encrypted.URL {
		t.Errorf("passed the machine's proxy: %q", passed)
	}
	mu.Unlock()

	_ = upEnd()
	if answer, said, err := ask(plain.URL, proxyOf(t, env)); err != nil || answer.StatusCode != http.StatusBadGateway || !strings.Contains(said, "connect") {
		t.Errorf("the machine's proxy is gone: %q, %v", said, err)
	}
	if _, said, err := ask(encrypted.URL, proxyOf(t, env)); err == nil {
		t.Errorf("the machine's proxy is gone: %q", said)
	}
	if err := end(); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("why: %v", err)
	}
}

// TestThrottleEnds what goes through it, with its context.
func TestThrottleEnds(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 2)
	cache := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		_, _ = io.WriteString(w, "a")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	plain, encrypted := httptest.NewServer(cache), httptest.NewTLSServer(cache)
	defer plain.Close() // which wait for those that they answer
	defer encrypted.Close()
	for _, at := range []string{plain.URL, encrypted.URL} {
		ctx, cancel := context.WithCancel(t.Context())
		env, end, err := throttled(ctx, 1<<20, func(*http.Request) (*url.URL, error) { return nil, nil })
		if err != nil {
			t.Fatal(err)
		}
		transport := encrypted.Client().Transport.(*http.Transport).Clone()
		transport.Proxy = http.ProxyURL(proxyOf(t, env))
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		<-begun
		cancel()
		if said, err := io.ReadAll(answer.Body); err == nil {
			t.Errorf("%s: whole, with %q", at, said)
		}
		_ = answer.Body.Close()
		_ = end()
		if answer, err := transport.RoundTrip(r); err == nil {
			t.Errorf("%s: still there: %s", at, answer.Status)
		}
	}
}
