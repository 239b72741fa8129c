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
// and package sqlite implement them. Tokens say who may do what (Options.Tokens); who may do nothing with a cache does not even learn whether there is one.
//
// Start at Server.Handler, then access.go for who may, upload.go for the way in and read.go for the way out.
package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// Options say how a Server works. Blobs and Index are mandatory.
type Options struct {
	Blobs Blobs
	Index Index

	// Tokens says what a token allows. Its error is ErrBadToken of one that is not valid, and any other when that cannot be found out. nil: no token is.
	Tokens func(token string) (Grant, error)

	// Upstreams are the keys of caches that hosts ask besides this one: the archives of what they signed need not be here.
	Upstreams []nar.PublicKey

	// Roots returns store paths that are kept in every cache, with all that they refer to: what hosts run, ran and will run. nil for none.
	Roots        func(context.Context) ([]string, error)
	Retention    Retention     // of caches that have none of their own
	Grace        time.Duration // archives of deleted paths are served for that long yet; default DefaultGrace
	CollectEvery time.Duration // between two collections by Run; default 6 h

	// Alone says that no other process writes to Index, so that what is not there can be remembered.
	Alone bool

	BaseURL     string // "https://cache.example.org", without a path; "" = the host that the client asked for
	StoreDir    string // default "/nix/store"
	Priority    int    // of caches that say nothing else; default 41, behind cache.nixos.org's 40
	MaxNarBytes int64  // largest archive, uncompressed; default 64 GiB
	MaxUploads  int    // archives received at the same time, each takes about 5 MB, some 15; default 16
	Limits      Limits
	Proxies     []netip.Prefix // whose word on where a request comes from (X-Forwarded-For) is taken
	Log         *slog.Logger   // failures of the server itself, and tokens that end soon; default discards
}

// Server serves caches over HTTP.
type Server struct {
	Options
	uploads chan struct{} // one element per upload in progress
	wide    chan struct{} // one element per upload in progress that takes more memory than most
	locks   keyedMutex    // by URL of an archive, or cache and hash of a path
	memory  memory
	puller  puller

	encoders, decoders sync.Pool // of zstd

	mu     sync.Mutex
	cached atomic.Pointer[known] // nil: to be read

	expiring daily
	limiter  limiter
	quotas   quotas
	full     chan struct{} // gets an element when a quota was hit
	counts   counts
	narInfos *routeCounts
}

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
	s := &Server{Options: o, uploads: make(chan struct{}, o.MaxUploads), wide: make(chan struct{}, max(1, o.MaxUploads/4)), full: make(chan struct{}, 1)}
	s.narInfos = s.counts.route(narInfoRoute)
	return s
}

// EnsureCache makes sure that there is a cache of that name. One that is made is public and signs with key; one that is there signs with
// the keys that the index has, and takes key only as the private half of one of these.
func (s *Server) EnsureCache(ctx context.Context, name string, key *nar.PrivateKey) error {
	if err := CheckName(name); err != nil {
		return err
	}
	c := Cache{Name: name, Keys: []Key{KeyOf(key)}, CreatedAt: time.Now(), Settings: Settings{Public: true}}
	err := s.Index.CreateCache(ctx, c)
	if errors.Is(err, ErrConflict) {
		err = s.Index.UpdateCache(ctx, name, func(c *Cache) error { return c.adopt(key) })
	}
	if errors.Is(err, errNoPrivateKey) {
		return fleet.Errorf(fleet.Local, fleet.CodeKey, "cache %s was made with another signing key", name).WithCause(err).
			WithHint("restore the key file that the cache was made with: hosts trust that one")
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "cache %s cannot be opened", name).WithCause(err)
	}
	s.forget()
	return nil
}

// adopt gives the cache the private half of one of its keys. It fails while one is left without.
func (c *Cache) adopt(key *nar.PrivateKey) error {
	for i, k := range c.Keys {
		if k.String() == key.Public().String() {
			c.Keys[i].Private = key
		}
		if c.Keys[i].Private == nil {
			return fmt.Errorf("%w: %s", errNoPrivateKey, k.Public.Name)
		}
	}
	return nil
}

var errNoPrivateKey = errors.New("the private half of a key is not known")

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

// Calm has the collector of a process that serves run less often, until its result is called. A server's heap is a few MB, so that answering tens of
// thousands of requests a second would double it, which is when the collector runs, many times a second. It is done by memory that is never touched, and
// so never resident.
func Calm() (end func()) {
	untouched := make([]byte, 32<<20)
	return func() { runtime.KeepAlive(untouched) }
}

// Handler serves all caches. It is to be mounted at "/"; routes of others win
// where they are more specific. The http.Server around it needs a
// ReadHeaderTimeout; bodies have time limits here.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h handler) { mux.Handle(pattern, s.attend(h, s.counts.route(pattern))) }
	handle("GET /{cache}/nix-cache-info", s.getCacheInfo)
	handle("PUT /{cache}/nix-cache-info", s.putCacheInfo)
	handle("GET /{cache}/{file}", s.getListing)
	handle("PUT /{cache}/{file}", s.putFile)
	handle("GET /{cache}/nar/{file}", s.getNar)
	handle("PUT /{cache}/nar/{file}", s.putNar)
	handle("GET /{cache}/log/{drv}", s.getLog)
	handle("PUT /{cache}/log/{drv}", s.putLog)
	handle("GET /{cache}/realisations/{file}", s.getRealisation)
	handle("PUT /{cache}/realisations/{file}", s.putRealisation)
	handle("GET /{cache}/build-trace-v2/{drv}/{file}", s.getRealisation)
	handle("PUT /{cache}/build-trace-v2/{drv}/{file}", s.putRealisation)
	handle("GET /_api/v1/cache-config/{cache}", s.getCacheConfig)
	handle("POST /_api/v1/cache-config/{cache}", s.postCacheConfig)
	handle("PATCH /_api/v1/cache-config/{cache}", s.patchCacheConfig)
	handle("DELETE /_api/v1/cache-config/{cache}", s.deleteCache)
	handle("POST /_api/v1/get-missing-paths", s.postMissingPaths)
	const upload = "/api/v1/caches/{cache}/uploads/{narHash}/{upload}"
	handle("GET "+upload, s.getParts)
	handle("PUT "+upload+"/{part}", s.putPart)
	handle("POST "+upload, s.postParts)
	handle("DELETE "+upload, s.deleteParts)
	handle("PUT /_api/v1/upload-path", s.putUploadPath)
	handle("GET /api/v1/caches", s.getCaches)
	handle("GET /api/v1/caches/{cache}", s.getInfo)
	handle("POST /api/v1/caches/{cache}/keys", s.postKey)
	handle("DELETE /api/v1/caches/{cache}/keys/{key}", s.deleteKey)
	handle("POST /api/v1/tokens/revoke", s.postRevoke)
	handle("POST /api/v1/caches/{cache}/closure", s.postClosure)
	handle("GET /api/v1/caches/{cache}/pins", s.getPins)
	handle("POST /api/v1/caches/{cache}/pins", s.postPins)
	handle("DELETE /api/v1/caches/{cache}/pins/{pin...}", s.deletePin)
	handle("POST /api/v1/caches/{cache}/collect", s.postCollect)
	handle("POST /api/v1/caches/{cache}/fsck", s.postFsck)
	handle("POST /api/v1/caches/{cache}/paths", s.postPaths)
	handle("DELETE /api/v1/caches/{cache}/paths/{hash}", s.deletePath)
	handle("/", func(_ http.ResponseWriter, r *http.Request) error { return noSuchObject(r.URL.Path) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.getReady)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cache, hashPart, ok := narInfoOf(r); ok {
			s.getNarInfo(w, r, cache, hashPart)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// handler answers a request, or says why it does not.
type handler func(http.ResponseWriter, *http.Request) error

// attended is what is kept of a request while it is answered. It is the request's context.
type attended struct {
	context.Context
	who    caller
	answer reply
	body   countedBody
}

// Value implements context.Context.
func (a *attended) Value(key any) any {
	if key == (callerKey{}) {
		return &a.who
	}
	return a.Context.Value(key)
}

// attend has h answer requests whose caller is known and within its limits, and counts what becomes of them.
func (s *Server) attend(h handler, route *routeCounts) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &attended{Context: r.Context(), answer: reply{ResponseWriter: w}, body: countedBody{ReadCloser: r.Body}}
		a.who = caller{began: time.Now(), server: s, request: r, answer: w.Header()}
		r = r.WithContext(a)
		r.Body = &a.body
		err := s.admit(&a.who, r)
		if err == nil {
			err = h(&a.answer, r)
		}
		if err != nil {
			s.fail(&a.answer, r, err)
		}
		s.counts.note(route, a.answer.status, a.body.n, a.answer.n, time.Since(a.who.began))
	})
}

// admit finds out who makes the request, and whether it is within its limits.
func (s *Server) admit(who *caller, r *http.Request) error {
	if err := s.identify(who, r); err != nil || s.Limits.RequestsPerSecond <= 0 {
		return err
	}
	return s.limiter.admit(s.Limits.RequestsPerSecond, who.who(), who.began)
}

// getReady answers 200 when requests can be answered: when index and content are within reach.
func (s *Server) getReady(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTime)
	defer cancel()
	_, err := s.Index.Revoked(ctx)
	if err == nil {
		_, _, err = s.Blobs.Stat(ctx, "ready")
	}
	if err != nil {
		s.Log.Error("the cache is not ready", "err", err)
		http.Error(w, "the cache is not ready; its log says why", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

const readyTime = 5 * time.Second

// keyedMutex is a mutex for each key. The zero value is ready.
type keyedMutex struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	sync.Mutex
	users int
}

// lock waits for all of the keys and returns what gives them up. They are taken in order: who holds some must not lock others.
func (k *keyedMutex) lock(keys ...string) (unlock func()) {
	var unlocks []func()
	for _, key := range slices.Sorted(slices.Values(keys)) {
		unlocks = append(unlocks, k.lockOne(key))
	}
	return func() {
		for _, unlock := range unlocks {
			unlock()
		}
	}
}

func (k *keyedMutex) lockOne(key string) (unlock func()) {
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
