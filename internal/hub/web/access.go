package web

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/hub"
)

// visitor is who may read.
type visitor struct {
	Name    string // as a proxy says it; "" where it is not known
	Session bool   // logged in here, and may log out
	Orders  bool   // has a token that may order something about the roll-out
	hash    string // of the token; "" for who has none
}

type visitorKey struct{}

func visitorOf(r *http.Request) visitor {
	if v, _ := r.Context().Value(visitorKey{}).(*visitor); v != nil {
		return *v
	}
	return visitor{}
}

// visitor says who asks, nil when that is nobody who may read. An error is that the tokens cannot be read.
func (s *server) visitor(r *http.Request) (*visitor, error) {
	if name := s.proxied(r); name != "" {
		return &visitor{Name: name}, nil
	}
	tokens, err := s.Hub.Tokens()
	if err != nil {
		return nil, err
	}
	if scopes, known := tokens.Scopes(hub.Bearer(r)); known && slices.Contains(scopes, hub.ScopeRead) {
		return &visitor{hash: hub.HashToken(hub.Bearer(r)), Orders: slices.Contains(scopes, hub.ScopeRollout)}, nil
	}
	if hash, ok := s.sessions.token(r, time.Now()); ok {
		if scopes, known := tokens.ScopesOf(hash); known && slices.Contains(scopes, hub.ScopeRead) {
			return &visitor{Session: true, hash: hash, Orders: slices.Contains(scopes, hub.ScopeRollout)}, nil
		}
	}
	if s.Table.Loopback && onLoopback(r) {
		return &visitor{}, nil
	}
	return nil, nil
}

// proxied is the user whom a proxy names that we believe.
func (s *server) proxied(r *http.Request) string {
	peer := peerOf(r)
	if s.Table.Proxy.Header == "" || !slices.ContainsFunc(s.proxies, func(p netip.Prefix) bool { return p.Contains(peer) }) {
		return ""
	}
	// Two of them are one of the visitor's own, beside the proxy's.
	if named := r.Header.Values(s.Table.Proxy.Header); len(named) == 1 {
		return strings.TrimSpace(named[0])
	}
	return ""
}

func peerOf(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap().WithZone("")
}

// onLoopback says whether who asks is on this machine, as far as that can be told: the connection is on loopback, no proxy says that it passes
// something on, and the browser asked for a name of this machine. A page elsewhere whose name is made to lead here (DNS rebinding) asks for its own.
func onLoopback(r *http.Request) bool {
	here, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	local, err := netip.ParseAddrPort(here.String())
	if err != nil || !local.Addr().Unmap().IsLoopback() || !peerOf(r).IsLoopback() {
		return false
	}
	for name := range r.Header {
		if name == "Forwarded" || name == "Via" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			return false
		}
	}
	if !r.ProtoAtLeast(1, 1) { // what nginx speaks to what is behind it, unless told otherwise, is HTTP/1.0
		return false
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.IsLoopback() || strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
}

// Logins are bounded for each address and together. What is a token of 128 random bits is not guessed at any rate; this keeps the log readable.
func ofOneAddress() hub.Rate { return hub.Rate{PerSecond: 0.2, Burst: 10} }
func ofAll() hub.Rate        { return hub.Rate{PerSecond: 5, Burst: 50} }

// askWho answers who may not read, with the form to log in and nothing else. said is what to say above it.
func (s *server) askWho(w http.ResponseWriter, r *http.Request, said string) {
	to := r.URL.RequestURI()
	if r.Method != http.MethodGet {
		to = ownPath(r.PostFormValue("to"))
	}
	w.Header().Set("WWW-Authenticate", "Bearer")
	status := http.StatusUnauthorized
	if said != "" {
		status = http.StatusForbidden
	}
	// Who comes by a link from elsewhere comes without the session's cookie, which is for visits from here alone; so the page is asked for once more, from here.
	again := r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Site") == "cross-site"
	s.send(w, r, status, page{Title: "Log in", Template: "login.html", Now: time.Now(), Body: loginView{Said: said, To: to, Again: again}})
}

type loginView struct {
	Said, To string
	Again    bool
}

// ownPath is a path of this page, "/" for what is none.
func ownPath(to string) string {
	if to == "/" || strings.HasPrefix(to, "/?") || strings.HasPrefix(to, hub.PagePath) && !strings.ContainsAny(to, "\\\r\n\t") {
		return to
	}
	return "/"
}

// maxForm bounds what is posted, in bytes.
const maxForm = 16 << 10

func (s *server) login(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	if !s.tries.Admit(ofOneAddress(), s.From(r), now) || !s.tries.Admit(ofAll(), "", now) {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many tries; wait a little", http.StatusTooManyRequests)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	secret := strings.TrimSpace(r.PostFormValue("token"))
	tokens, err := s.Hub.Tokens()
	if err != nil {
		s.Log.Error("nobody can log in", "err", err)
		http.Error(w, "the hub cannot read its tokens", http.StatusServiceUnavailable)
		return
	}
	scopes, known := tokens.Scopes(secret)
	if !known || !slices.Contains(scopes, hub.ScopeRead) {
		s.Log.Warn("somebody tried to log in with what is no token of scope read", "from", s.From(r))
		s.askWho(w, r, "That is no token which may read here.")
		return
	}
	http.SetCookie(w, s.sessions.begin(r, hub.HashToken(secret), now))
	http.Redirect(w, r, ownPath(r.PostFormValue("to")), http.StatusSeeOther)
}

func (s *server) logout(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, s.sessions.end(r, time.Now()))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
