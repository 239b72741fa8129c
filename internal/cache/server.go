// Package cache is a binary cache: it serves Nix's HTTP protocol, takes uploads,
// and signs what it stores.
//
// What it guarantees:
//
//   - Nothing is stored that was not verified: an archive is well-formed and hashes
//     to its name, a path's archive and every path it refers to are there. Instead of its archive
//     a path may have the signature of an upstream cache that is trusted: it is noted, and never served.
//     A bad or broken upload leaves nothing.
//   - Nothing answers 200 before everything it promises is there.
//   - An upload that was answered with 200 survives a power cut.
//   - The first upload of a store path wins; a second one never changes it.
//
// The server keeps content in Blobs and all else in an Index; package local
// and package sqlite implement them. Who may do what is asked of Options.Authorize.
//
// Start at Server.Handler, then upload.go for the way in and read.go for the way out.
package cache

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// Permission is what a request wants to do with a cache.
type Permission string

// The permissions.
const (
	Pull Permission = "pull"
	Push Permission = "push"
)

// ErrForbidden is returned (wrapped) by Options.Authorize when the token is good
// for this cache but not for that permission.
var ErrForbidden = errors.New("this token does not allow that")

// Options say how a Server works. Blobs, Index and Authorize are mandatory.
type Options struct {
	Blobs Blobs
	Index Index

	// Authorize returns nil when r may do p with the cache. An error with
	// fleet.CodeUnauthorized is answered with 401, one that is ErrForbidden with
	// 403, any other with 500. It is also asked with the request stripped of its
	// credentials, to learn whether a cache is public. Token takes the token out of r.
	Authorize func(r *http.Request, cache string, p Permission) error

	// Upstreams are the keys of caches that hosts ask besides this one: the archives of what they signed need not be here.
	Upstreams []nar.PublicKey

	// Roots returns store paths that are kept in every cache, with all that they refer to: what hosts run, ran and will run. nil for none.
	Roots        func(context.Context) ([]string, error)
	Retention    Retention     // of caches that have none of their own
	Grace        time.Duration // archives of deleted paths are served for that long yet; default DefaultGrace
	CollectEvery time.Duration // between two collections by Run; default 6 h

	// Alone says that no other process writes to Index, so that what is not there can be remembered.
	Alone bool

	BaseURL     string       // "https://cache.example.org", without a path; "" = the host that the client asked for
	StoreDir    string       // default "/nix/store"
	Priority    int          // lower is asked first by Nix; default 41, behind cache.nixos.org's 40
	MaxNarBytes int64        // largest archive, uncompressed; default 64 GiB
	MaxUploads  int          // archives received at the same time, each takes about 20 MB; default 16
	Log         *slog.Logger // failures of the server itself; default discards
}

// Server serves caches over HTTP.
type Server struct {
	Options
	uploads chan struct{} // one element per upload in progress
	locks   keyedMutex    // by URL of an archive, or cache and hash of a path
	memory  memory

	mu       sync.Mutex
	caches   map[string]*Cache // as the index had them at loadedAt
	loadedAt time.Time
}

// cachesValid is how long a change that another replica made of a cache may go unnoticed.
const cachesValid = time.Second

// New returns a server without caches; EnsureCache adds them.
func New(o Options) *Server {
	if o.StoreDir == "" {
		o.StoreDir = "/nix/store"
	}
	if o.Priority == 0 {
		o.Priority = 41
	}
	if o.MaxNarBytes == 0 {
		o.MaxNarBytes = 64 << 30
	}
	if o.MaxUploads == 0 {
		o.MaxUploads = 16
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.CollectEvery == 0 {
		o.CollectEvery = 6 * time.Hour
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{Options: o, uploads: make(chan struct{}, o.MaxUploads)}
}

// EnsureCache makes sure that there is a cache of that name, which signs with key. One that is made is public. A cache
// that the index knows, but not with this key, is refused.
func (s *Server) EnsureCache(ctx context.Context, name string, key *nar.PrivateKey) error {
	if err := CheckName(name); err != nil {
		return err
	}
	c := Cache{Name: name, Keys: []Key{KeyOf(key)}, CreatedAt: time.Now(), Settings: Settings{Public: true}}
	err := s.Index.CreateCache(ctx, c)
	if errors.Is(err, ErrConflict) {
		err = s.Index.UpdateCache(ctx, name, func(c *Cache) error {
			i := slices.IndexFunc(c.Keys, func(k Key) bool { return k.String() == key.Public().String() })
			if i < 0 {
				return ErrConflict
			}
			c.Keys[i].Private = key
			return nil
		})
	}
	if errors.Is(err, ErrConflict) {
		return fleet.Errorf(fleet.Local, fleet.CodeKey, "cache %s was made with another signing key", name).WithCause(err).
			WithHint("restore the key file that the cache was made with: hosts trust that one")
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "cache %s cannot be opened", name).WithCause(err)
	}
	s.forgetCaches()
	return nil
}

// forgetCaches has the next request ask the index for all caches.
func (s *Server) forgetCaches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loadedAt = time.Time{}
}

// cache returns the cache of that name as it was at most cachesValid ago.
func (s *Server) cache(ctx context.Context, name string) (*Cache, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.loadedAt) > cachesValid {
		at := time.Now()
		all, err := s.Index.Caches(ctx)
		if err != nil {
			return nil, err
		}
		s.caches, s.loadedAt = make(map[string]*Cache, len(all)), at
		for i := range all {
			s.caches[all[i].Name] = &all[i]
		}
	}
	c, ok := s.caches[name]
	if !ok {
		return nil, &httpError{http.StatusNotFound, "NoSuchCache", "there is no cache " + quoted(name)}
	}
	return c, nil
}

// cacheName is Attic's rule for names, which is also safe as a file name.
var cacheName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_+-]{0,49}$`) })

// CheckName returns an error that says what names are allowed, unless name can name a cache.
func CheckName(name string) error {
	if !cacheName().MatchString(name) || name == "api" {
		return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "%q cannot name a cache", name).
			WithHint(`use up to 50 letters, digits, "-", "_" and "+", the first a letter or digit; "api" is reserved`)
	}
	return nil
}

// Handler serves all caches. It is to be mounted at "/"; routes of others win
// where they are more specific. The http.Server around it needs a
// ReadHeaderTimeout; bodies have time limits here.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				s.fail(w, r, err)
			}
		})
	}
	handle("GET /{cache}/nix-cache-info", s.getCacheInfo)
	handle("GET /{cache}/{file}", s.getNarInfo)
	handle("GET /{cache}/nar/{file}", s.getNar)
	handle("PUT /{cache}/{file}", s.putNarInfo)
	handle("PUT /{cache}/nar/{file}", s.putNar)
	handle("GET /_api/v1/cache-config/{cache}", s.getCacheConfig)
	handle("POST /_api/v1/get-missing-paths", s.postMissingPaths)
	const upload = "/api/v1/caches/{cache}/uploads/{narHash}/{upload}"
	handle("GET "+upload, s.getParts)
	handle("PUT "+upload+"/{part}", s.putPart)
	handle("POST "+upload, s.postParts)
	handle("DELETE "+upload, s.deleteParts)
	handle("GET /api/v1/caches/{cache}", s.getInfo)
	handle("POST /api/v1/caches/{cache}/closure", s.postClosure)
	handle("GET /api/v1/caches/{cache}/pins", s.getPins)
	handle("POST /api/v1/caches/{cache}/pins", s.postPins)
	handle("DELETE /api/v1/caches/{cache}/pins/{pin...}", s.deletePin)
	handle("POST /api/v1/caches/{cache}/collect", s.postCollect)
	handle("POST /api/v1/caches/{cache}/fsck", s.postFsck)
	handle("DELETE /api/v1/caches/{cache}/paths/{hash}", s.deletePath)
	handle("/", func(_ http.ResponseWriter, r *http.Request) error { return noSuchObject(r.URL.Path) })
	return mux
}

// open authorizes a request and returns the cache it is about.
func (s *Server) open(r *http.Request, name string, p Permission) (*Cache, error) {
	if err := s.Authorize(r, name, p); err != nil {
		return nil, err
	}
	return s.cache(r.Context(), name)
}

// keyedMutex is a mutex for each key. The zero value is ready.
type keyedMutex struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	sync.Mutex
	users int
}

// lock waits for key and returns what gives it up.
func (k *keyedMutex) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyLock{}
	}
	l := k.held[key]
	if l == nil {
		l = &keyLock{}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.held, key)
		}
	}
}
