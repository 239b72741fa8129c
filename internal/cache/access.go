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

// caller is who makes a request.
type caller struct {
	grant   Grant
	bad     error  // why the token that came along counts for nothing; nil without one
	address string // where the request comes from
	cache   string // that it was let into; "" until then, and for a cache that is not there
	answer  http.Header
}

// who names the caller for limits: by the token, else by the address.
func (c *caller) who() string {
	if c.grant.ID != "" {
		return "token " + c.grant.ID
	}
	return c.address
}

type callerKey struct{}

func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	return c
}

// identify finds out who makes the request. A token that is not valid counts as none.
func (s *Server) identify(w http.ResponseWriter, r *http.Request) (*caller, error) {
	c := &caller{address: s.Address(r), answer: w.Header()}
	token := Token(r)
	if token == "" || s.Tokens == nil {
		return c, nil
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
		return c, nil
	case err != nil:
		return c, err
	}
	c.grant = g
	if !g.ExpiresAt.IsZero() && time.Until(g.ExpiresAt) < expiryNotice {
		w.Header().Set(ExpiryHeader, g.ExpiresAt.UTC().Format(time.RFC3339))
		if s.expiring.first(g.ID, time.Now()) {
			s.Log.Warn("a token ends soon: make another", "subject", g.Subject, "id", g.ID, "expires", g.ExpiresAt.UTC().Format(time.RFC3339))
		}
	}
	return c, nil
}

// open lets a request into a cache that it may do p with. Who may do nothing with a cache gets one and the same answer whether it is there or not.
func (s *Server) open(r *http.Request, name string, p Permission) (*Cache, error) {
	k, err := s.known(r.Context())
	if err != nil {
		return nil, err
	}
	who, c := callerOf(r.Context()), k.caches[name]
	may := who.grant.On(name)
	if c != nil && c.Public {
		may |= Pull
	}
	switch {
	case may&p == p && c != nil:
		who.cache = name
		if c.Public {
			who.answer.Set(visibilityHeader, "public")
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
