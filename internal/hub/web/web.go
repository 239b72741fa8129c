// Package web is the hub's page for people: whether all is well in the fleet, and what is not.
//
// It shows what the hub knows, and changes nothing but the roll-out, by orders of who has a token for them (order.go). Pages are made by the server and work
// without the script, which only keeps them up to date, and marks them when it cannot. Who may not read is answered the same whatever was asked for. Start at
// New; who may: access.go.
package web

import (
	"cmp"
	"context"
	"embed"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
)

// Options are what a page needs.
type Options struct {
	Hub     *hub.Hub
	Table   hub.WebTable
	KeyFile string                     // that sessions are signed with; made where it is not there
	From    func(*http.Request) string // the address that a request comes from, for bounds
	Log     *slog.Logger
}

// server answers requests.
type server struct {
	Options
	proxies  []netip.Prefix
	sessions sessions
	tries    hub.Bound
	pages    pages
}

//go:embed static templates
var files embed.FS

// New makes the handler for hub.Options.Page. Errors have CodeState.
func New(o Options) (http.Handler, error) {
	s := &server{Options: o, proxies: o.Table.ProxyNetworks()}
	var err error
	if s.sessions.key, err = sessionKey(o.KeyFile); err != nil {
		return nil, err
	}
	static, err := fs.Sub(files, "static")
	if err == nil {
		s.pages, err = parsePages(static)
	}
	if err != nil {
		return nil, err
	}
	inside := http.NewServeMux()
	get := func(pattern string, show func(*http.Request) (page, error)) {
		inside.HandleFunc("GET "+pattern, func(w http.ResponseWriter, r *http.Request) { s.show(w, r, show) })
	}
	get("/{$}", s.fleet)
	get("/-/hosts/{host}", s.host)
	get("/-/releases", s.releases)
	get("/-/releases/{number}", s.release)
	get("/-/runs", s.runs)
	get("/-/runs/{id}", s.run)
	get("/-/alerts", s.alerts)
	get("/-/events", s.events)
	get("/-/drills", s.drills)
	get("/-/figures", s.figures)
	get("/", func(*http.Request) (page, error) { return page{}, errNotFound })
	inside.HandleFunc("GET /-/hosts/{host}/log", asEvents(o.Hub.ServeHostLogs))
	inside.HandleFunc("GET /-/runs/{id}/log", asEvents(o.Hub.ServeRunLog))
	inside.HandleFunc("GET /-/stream", s.stream)
	get("/-/rollout", s.rolloutPage)
	get("/-/rollout/order", s.orderForm)
	inside.HandleFunc("POST /-/rollout/order", s.order)

	outside := http.NewServeMux()
	outside.Handle("GET /-/static/{file}", s.static(static))
	outside.HandleFunc("POST /-/login", s.login)
	outside.HandleFunc("POST /-/logout", s.logout)
	outside.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.visitor(r)
		switch {
		case err != nil:
			s.Log.Error("the page cannot tell who may read it", "err", err)
			http.Error(w, "the hub cannot read its tokens", http.StatusServiceUnavailable)
		case v == nil:
			s.askWho(w, r, "")
		default:
			inside.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), visitorKey{}, v)))
		}
	})
	guard := http.NewCrossOriginProtection() // of logging in and out, and of orders; nothing else changes anything
	return headers(guard.Handler(outside)), nil
}

// policy lets a browser use what is of the page itself alone, and nobody put it in a frame.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Content-Security-Policy": policy, "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store", "Vary": "Cookie, Accept-Encoding",
		} {
			w.Header().Set(name, value)
		}
		if secure(r) { // browsers complain of it elsewhere
			w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
		}
		// The connection goes on to other requests, which set no time for what they write. Streams set their own.
		c := http.NewResponseController(w)
		_ = c.SetReadDeadline(time.Now().Add(answerTime))
		_ = c.SetWriteDeadline(time.Now().Add(answerTime))
		defer func() { _ = c.SetWriteDeadline(time.Time{}) }()
		next.ServeHTTP(w, r)
	})
}

const answerTime = time.Minute

// static serves the page's own files. Their address changes with their content.
func (s *server) static(files fs.FS) http.Handler {
	serve := http.StripPrefix("/-/static/", http.FileServerFS(files))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("v") == s.pages.version {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		serve.ServeHTTP(w, r)
	})
}

var errNotFound = fleet.Errorf(fleet.Local, fleet.CodeNotFound, "there is nothing at this address")

// show makes a page and sends it.
func (s *server) show(w http.ResponseWriter, r *http.Request, make func(*http.Request) (page, error)) {
	p, err := make(r)
	status := cmp.Or(p.Status, http.StatusOK)
	switch {
	case r.Context().Err() != nil:
		return
	case fleet.CodeOf(err) == fleet.CodeNotFound:
		status, p = http.StatusNotFound, page{Title: "Not here", Template: "lost.html", Body: err.Error()}
	case err != nil:
		s.Log.Error("a page cannot be made", "path", r.URL.Path, "err", err)
		status, p = http.StatusInternalServerError, page{Title: "Not readable", Template: "lost.html", Body: "The hub cannot read its store. Its log says why."}
	}
	p.Visitor = visitorOf(r)
	if p.Now = time.Now(); p.Template != "lost.html" && s.Hub.Alerts != nil {
		if p.Alerts, err = s.Hub.Alerts.Open(r.Context()); err != nil {
			s.Log.Error("the open alerts cannot be read", "err", err)
			p.AlertsUnknown = true
		}
	}
	s.send(w, r, status, p)
}
