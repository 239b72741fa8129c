package cache

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// ExpiryHeader tells who uses a token that ends within expiryNotice when that is (RFC 3339).
const (
	ExpiryHeader = "X-Garrison-Token-Expires"
	expiryNotice = 14 * 24 * time.Hour
)

// visibilityHeader tells Attic's proxies that an answer may be kept for anybody.
const visibilityHeader = "X-Attic-Cache-Visibility"

// Values of headers that many answers share. Nothing changes them.
var (
	valuePublic  = []string{"public"}
	valueNarInfo = []string{narInfoType}
	valueJSON    = []string{"application/json"}
	valueNoStore = []string{"no-store"}
)

// caller is who makes a request.
type caller struct {
	grant   Grant
	bad     error  // why the token that came along counts for nothing; nil without one
	cache   string // that it was let into; "" until then, and for a cache that is not there
	began   time.Time
	server  *Server
	request *http.Request
	answer  http.Header
}

// who names the caller for limits: by the token, else by the address.
func (c *caller) who() string {
	if c.grant.ID != "" {
		return "token " + c.grant.ID
	}
	return c.server.Address(c.request)
}

type callerKey struct{}

func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	return c
}

// identify finds out who makes the request. A token that is not valid counts as none.
func (s *Server) identify(c *caller, r *http.Request) error {
	token := Token(r)
	if token == "" || s.Tokens == nil {
		return nil
	}
	g, err := s.Tokens(token)
	if err == nil && g.ID != "" {
		var k *known
		if k, err = s.known(r.Context()); err == nil && k.revoked[g.ID] {
			err = errRevoked
		}
	}
	switch {
	case errors.Is(err, ErrBadToken):
		c.bad = err
		return nil
	case err != nil:
		return err
	}
	c.grant = g
	if !g.ExpiresAt.IsZero() && time.Until(g.ExpiresAt) < expiryNotice {
		c.answer.Set(ExpiryHeader, g.ExpiresAt.UTC().Format(time.RFC3339))
		if s.expiring.first(g.ID, time.Now()) {
			s.Log.Warn("a token ends soon: make another", "subject", g.Subject, "id", g.ID, "expires", g.ExpiresAt.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// open lets a request into a cache that it may do p with. Who may do nothing with a cache gets one and the same answer whether it is there or not.
func (s *Server) open(r *http.Request, name string, p Permission) (*Cache, error) {
	return s.let(r.Context(), callerOf(r.Context()), name, p)
}

func (s *Server) let(ctx context.Context, who *caller, name string, p Permission) (*Cache, error) {
	k, err := s.known(ctx)
	if err != nil {
		return nil, err
	}
	c := k.caches[name]
	may := who.grant.On(name)
	if c != nil && c.Public {
		may |= Pull
	}
	switch {
	case may&p == p && c != nil:
		who.cache = name
		if c.Public {
			who.answer[visibilityHeader] = valuePublic
		}
		return c, nil
	case may == 0 || may&p != p && who.grant.ID == "":
		return nil, unauthorized(who)
	case may&p != p:
		return nil, forbidden(p)
	}
	return nil, noSuchCache(name)
}

// needs is an error unless the grant of whoever makes the request allows p on a cache of that name, which need not be there.
func (s *Server) needs(r *http.Request, name string, p Permission) error {
	who := callerOf(r.Context())
	switch may := who.grant.On(name); {
	case may == 0:
		return unauthorized(who)
	case may&p != p:
		return forbidden(p)
	}
	return nil
}

func unauthorized(who *caller) error {
	if who.bad != nil {
		return &httpError{status: http.StatusUnauthorized, kind: "Unauthorized", message: who.bad.Error()}
	}
	return &httpError{status: http.StatusUnauthorized, kind: "Unauthorized", message: "this needs a token that allows it"}
}

func forbidden(p Permission) error {
	return &httpError{status: http.StatusForbidden, kind: "AccessError", message: "the token does not allow to " + p.String() + " this cache"}
}

func noSuchCache(name string) error {
	return &httpError{status: http.StatusNotFound, kind: "NoSuchCache", message: "there is no cache " + quoted(name)}
}
