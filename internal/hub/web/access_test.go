package web_test

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/web"
)

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Add(name, value) }
}

func withHost(host string) func(*http.Request) { return func(r *http.Request) { r.Host = host } }

func proxied(from ...string) (t hub.WebTable) {
	t.Proxy.Header, t.Proxy.From = "X-Forwarded-User", from
	return t
}

// TestWhoMayRead: each way in, and each way beside it.
func TestWhoMayRead(t *testing.T) {
	const in, out = http.StatusOK, http.StatusUnauthorized
	for _, c := range []struct {
		name   string
		table  hub.WebTable
		change []func(*http.Request)
		want   int
	}{
		{"nothing", hub.WebTable{}, nil, out},
		{"a token to read", hub.WebTable{}, []func(*http.Request){token("read")}, in},
		{"as a password", hub.WebTable{}, []func(*http.Request){func(r *http.Request) { r.SetBasicAuth("ada", secretOf("read")) }}, in},
		{"a token for something else", hub.WebTable{}, []func(*http.Request){token("push")}, out},
		{"a host's token", hub.WebTable{}, []func(*http.Request){token("report:joker")}, out},
		{"a token that is none", hub.WebTable{}, []func(*http.Request){token("nobody")}, out},
		{"a cookie that is none of ours", hub.WebTable{}, []func(*http.Request){header("Cookie", "garrison="+hub.HashToken(secretOf("read"))+".99999999999.x.y")}, out},
		{"a user, no proxy configured", hub.WebTable{}, []func(*http.Request){header("X-Forwarded-User", "ada")}, out},

		{"a proxy's user", proxied("127.0.0.1"), []func(*http.Request){header("X-Forwarded-User", "ada")}, in},
		{"a proxy's user, by network", proxied("127.0.0.0/8"), []func(*http.Request){header("X-Forwarded-User", "ada")}, in},
		{"a user from elsewhere", proxied("192.0.2.1"), []func(*http.Request){header("X-Forwarded-User", "ada")}, out},
		{"a proxy that names nobody", proxied("127.0.0.1"), []func(*http.Request){header("X-Forwarded-User", " ")}, out},
		{"a proxy without its header", proxied("127.0.0.1"), nil, out},
		{"two users", proxied("127.0.0.1"), []func(*http.Request){header("X-Forwarded-User", "eve"), header("X-Forwarded-User", "ada")}, out},
		{"another header", proxied("127.0.0.1"), []func(*http.Request){header("Remote-User", "ada")}, out},

		{"loopback, by address", hub.WebTable{Loopback: true}, nil, in},
		{"loopback, by name", hub.WebTable{Loopback: true}, []func(*http.Request){withHost("localhost:8420")}, in},
		{"loopback, IPv6", hub.WebTable{Loopback: true}, []func(*http.Request){withHost("[::1]:8420")}, in},
		{"a name that was made to lead here", hub.WebTable{Loopback: true}, []func(*http.Request){withHost("evil.example.org:8420")}, out},
		{"a name that only begins like one", hub.WebTable{Loopback: true}, []func(*http.Request){withHost("localhost.example.org")}, out},
		{"no name", hub.WebTable{Loopback: true}, []func(*http.Request){withHost("192.0.2.7")}, out},
		{"behind a proxy", hub.WebTable{Loopback: true}, []func(*http.Request){header("X-Forwarded-For", "192.0.2.7")}, out},
		{"behind a proxy that says so otherwise", hub.WebTable{Loopback: true}, []func(*http.Request){header("Forwarded", "for=192.0.2.7")}, out},
		{"behind Via", hub.WebTable{Loopback: true}, []func(*http.Request){header("Via", "1.1 proxy")}, out},
		{"behind nginx", hub.WebTable{Loopback: true}, []func(*http.Request){header("X-Real-IP", "192.0.2.7")}, out},
		{"behind a proxy, with a token", hub.WebTable{Loopback: true}, []func(*http.Request){header("X-Forwarded-For", "192.0.2.7"), token("read")}, in},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.table, "joker")
			for _, path := range []string{"/", "/-/releases", "/-/stream"} {
				if path == "/-/stream" && c.want == in {
					continue // it does not end
				}
				if got := w.request(http.MethodGet, path, "", c.change...).StatusCode; got != c.want {
					t.Errorf("%s: %d, not %d", path, got, c.want)
				}
			}
		})
	}
}

// TestStranger: who may not read is told the same whatever was asked for, and by whatever they tried with.
func TestStranger(t *testing.T) {
	w := newWorld(t, hub.WebTable{}, "joker")
	now := refTo(1, "a secret subject", w.Started())
	w.publish(now, w.Started(), "joker")
	w.tell("joker", "/api/v1/reports", status("joker", now, w.Started()))
	without := func(path string) string {
		text := read(t, w.request(http.MethodGet, path, ""))
		return strings.ReplaceAll(text, `value="`+strings.ReplaceAll(path, "&", "&amp;")+`"`, "")
	}
	first := without("/")
	for _, path := range []string{"/-/hosts/joker", "/-/hosts/nobody", "/-/hosts/joker/log", "/-/releases/1", "/-/releases/99", "/-/runs/1/log", "/-/stream", "/-/nothing", "/-/", "/?rows=joker", "/-/events?type=x"} {
		if got := without(path); got != first {
			t.Errorf("%s: another answer:\n%s", path, got)
		}
	}
	for _, word := range []string{"joker", "secret", "release", "alert", "host"} {
		if strings.Contains(first, word) {
			t.Errorf("a stranger learns of %q", word)
		}
	}
	if got := w.request(http.MethodPost, "/-/hosts/joker", "").StatusCode; got != http.StatusUnauthorized {
		t.Errorf("posting: %d", got)
	}
	if resp := w.request(http.MethodGet, "/", "", func(r *http.Request) { r.Header.Set("Accept", "*/*") }); resp.StatusCode != http.StatusNotFound || !strings.Contains(read(t, resp), "the cache") {
		t.Errorf("what is no browser gets %s at /", resp.Status)
	}
	// Strict cookies do not come along with a link from elsewhere: the page is asked for again, once, from here.
	if text := read(t, w.request(http.MethodGet, "/-/alerts", "", header("Sec-Fetch-Site", "cross-site"))); !strings.Contains(text, `http-equiv="refresh"`) {
		t.Error("who comes by a link has to log in again")
	}
	if text := read(t, w.request(http.MethodGet, "/-/alerts", "", header("Sec-Fetch-Site", "same-origin"))); strings.Contains(text, `http-equiv="refresh"`) {
		t.Error("the page is asked for again and again")
	}
}

// session logs in and returns the cookie.
func (w *world) session(change ...func(*http.Request)) *http.Cookie {
	w.t.Helper()
	resp := w.request(http.MethodPost, "/-/login", url.Values{"token": {secretOf("read")}, "to": {"/-/releases?before=3"}}.Encode(), change...)
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/-/releases?before=3" || len(resp.Cookies()) != 1 {
		w.t.Fatalf("login: %s to %s with %v", resp.Status, resp.Header.Get("Location"), resp.Cookies())
	}
	return resp.Cookies()[0]
}

func TestSession(t *testing.T) {
	w := newWorld(t, hub.WebTable{})
	c := w.session()
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Secure || c.Path != "/" || c.MaxAge <= 0 || strings.Contains(c.Value, secretOf("read")) {
		t.Errorf("the cookie is %+v", c)
	}
	may := func(c *http.Cookie, change ...func(*http.Request)) int {
		return w.request(http.MethodGet, "/", "", append(change, func(r *http.Request) { r.AddCookie(c) })...).StatusCode
	}
	if got := may(c); got != http.StatusOK {
		t.Errorf("logged in: %d", got)
	}
	bent := *c
	bent.Value = strings.Replace(c.Value, ".", ".9", 1)
	if got := may(&bent); got != http.StatusUnauthorized {
		t.Errorf("with a longer time: %d", got)
	}
	https := w.session(header("X-Forwarded-Proto", "https"))
	if !https.Secure || !strings.HasPrefix(https.Name, "__Host-") {
		t.Errorf("by https the cookie is %+v", https)
	}
	if got := may(https, header("X-Forwarded-Proto", "https")); got != http.StatusOK {
		t.Errorf("by https: %d", got)
	}

	// Another hub on the same data knows the session.
	address := w.at.Listener.Addr().String()
	w.stop()
	w.serve(address, hub.WebTable{})
	if got := may(c); got != http.StatusOK {
		t.Errorf("after a restart: %d", got)
	}
	other := w.session()
	out := w.request(http.MethodPost, "/-/logout", "", func(r *http.Request) { r.AddCookie(c) })
	if out.StatusCode != http.StatusSeeOther || len(out.Cookies()) != 1 || out.Cookies()[0].MaxAge >= 0 {
		t.Errorf("logout: %s, %v", out.Status, out.Cookies())
	}
	if got := may(c); got != http.StatusUnauthorized {
		t.Errorf("logged out: %d", got)
	}
	if got := may(other); got != http.StatusOK {
		t.Errorf("another one's session after that: %d", got)
	}
	w.writeTokens("push") // the token is revoked
	if got := may(other); got != http.StatusUnauthorized {
		t.Errorf("without the token: %d", got)
	}
}

func TestLoginRefuses(t *testing.T) {
	w := newWorld(t, hub.WebTable{}, "joker")
	login := func(secret, to string, change ...func(*http.Request)) *http.Response {
		return w.request(http.MethodPost, "/-/login", url.Values{"token": {secret}, "to": {to}}.Encode(), change...)
	}
	for _, secret := range []string{"", "nobody's", secretOf("push"), secretOf("report:joker"), strings.Repeat("x", 100_000)} {
		resp := login(secret, "/")
		if resp.StatusCode != http.StatusForbidden || len(resp.Cookies()) > 0 || secret != "" && strings.Contains(read(t, resp), secret) {
			t.Errorf("%.20q: %s, %v", secret, resp.Status, resp.Cookies())
		}
	}
	for _, to := range []string{"https://evil.example.org/", "//evil.example.org", `/\evil.example.org`, "/-/\r\nSet-Cookie: a=b", "javascript:alert(1)", ""} {
		if resp := login(secretOf("read"), to); resp.Header.Get("Location") != "/" {
			t.Errorf("%q leads to %q", to, resp.Header.Get("Location"))
		}
		w.Page = nil
		w.stop()
		w.serve("127.0.0.1:0", hub.WebTable{}) // whose bounds are new
	}
	for name, change := range map[string]func(*http.Request){"another site": header("Sec-Fetch-Site", "cross-site"), "another origin": header("Origin", "https://evil.example.org")} {
		if resp := login(secretOf("read"), "/", change); resp.StatusCode != http.StatusForbidden || len(resp.Cookies()) > 0 {
			t.Errorf("from %s: %s, %v", name, resp.Status, resp.Cookies())
		}
	}
	last := 0
	for range 30 {
		last = login("guess", "/", func(r *http.Request) { r.Close = false }).StatusCode
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the thirtieth guess: %d", last)
	}
}

func TestHeaders(t *testing.T) {
	w := newWorld(t, hub.WebTable{})
	for _, path := range []string{"/", "/-/releases", "/-/static/page.css", "/-/nothing"} {
		for _, change := range [][]func(*http.Request){nil, {token("read")}} {
			h := w.request(http.MethodGet, path, "", change...).Header
			policy := h.Get("Content-Security-Policy")
			if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") || strings.Contains(policy, "unsafe") || h.Get("X-Frame-Options") != "DENY" || h.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: %v", path, h)
			}
			if cached := h.Get("Cache-Control"); cached != "no-store" {
				t.Errorf("%s may be kept: %q", path, cached)
			}
		}
	}
}

// TestSessionKey: it is nobody else's to read, and one that is damaged is an error that says what to do.
func TestSessionKey(t *testing.T) {
	w := newWorld(t, hub.WebTable{})
	file := filepath.Join(w.dir, "web.key")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || info.Size() != 32 {
		t.Errorf("the key is %v, %v", info, err)
	}
	must(t, os.WriteFile(file, []byte("short"), 0o600))
	if _, err := web.New(web.Options{Hub: w.Hub, KeyFile: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a damaged key: %v", err)
	}
}
