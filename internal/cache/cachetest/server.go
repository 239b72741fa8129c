package cachetest

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/local"
	"github.com/garrison-nix/garrison/internal/cache/sqlite"
	"github.com/garrison-nix/garrison/internal/nar"
)

// PushToken is the token that may do everything with a Server's caches.
const PushToken = "push-token"

// Server is a cache named "c" on loopback: everybody may pull, PushToken may do everything.
type Server struct {
	*httptest.Server
	Cache *cache.Server
	Blobs *local.Store
	Index *sqlite.Index
	Dir   string // of its content
	Key   nar.PublicKey
}

// NewServer starts a Server in a directory of the test's own. wrap stands
// between the network and the cache, to inject faults; nil for none.
func NewServer(t testing.TB, wrap func(http.Handler) http.Handler) *Server {
	t.Helper()
	return Start(t, cache.Options{MaxNarBytes: 64 << 20}, wrap)
}

// Start is NewServer with options: its own Blobs, Index and Tokens where o has none.
func Start(t testing.TB, o cache.Options, wrap func(http.Handler) http.Handler) *Server {
	t.Helper()
	s := &Server{Dir: filepath.Join(t.TempDir(), "cache")}
	store, err := local.Open(s.Dir)
	s.Blobs = store
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })
	s.Index, err = sqlite.Open(t.Context(), filepath.Join(s.Dir, "index.sqlite"))
	must(t, err)
	t.Cleanup(func() { must(t, s.Index.Close()) })
	key, err := local.Key(s.Dir, "c")
	must(t, err)
	s.Key = key.Public()
	if o.Blobs == nil {
		o.Blobs = store
	}
	if o.Index == nil {
		o.Index = s.Index
	}
	if o.Tokens == nil {
		o.Tokens = Tokens
	}
	s.Cache = cache.New(o)
	must(t, s.Cache.EnsureCache(t.Context(), "c", key))
	h := s.Cache.Handler()
	if wrap != nil {
		h = wrap(h)
	}
	s.Server = serve(h)
	t.Cleanup(s.Server.Close)
	return s
}

// serve starts a server as garrison does.
func serve(h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnContext = cache.ConnContext
	s.Start()
	return s
}

// Tokens is an Options.Tokens that knows PushToken.
func Tokens(token string) (cache.Grant, error) {
	if token != PushToken {
		return cache.Grant{}, cache.ErrBadToken
	}
	return cache.Grant{ID: "push", Subject: "push", Caches: cache.CacheGrants{{Pattern: "*", May: cache.Everything}}}, nil
}

// CacheURL is the URL of the cache.
func (s *Server) CacheURL() string { return s.URL + "/c" }

// BlobFile is where the archive with that hash is stored, which the index must know.
func (s *Server) BlobFile(t testing.TB, h nar.Hash) string {
	t.Helper()
	n, ok, err := s.Index.Nar(t.Context(), h)
	must(t, err)
	if !ok {
		t.Fatalf("archive %s is not known", h)
	}
	return filepath.Join(s.Dir, "nar", n.Blob[:2], n.Blob)
}

// WantClean fails the test if unfinished uploads are left. A client that broke
// off is ahead of the server, which gets a moment to notice.
func (s *Server) WantClean(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left, err := os.ReadDir(filepath.Join(s.Dir, "tmp"))
		must(t, err)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d temporary files are left", len(left))
		}
	}
}

// WantEmpty fails the test if any content is stored.
func (s *Server) WantEmpty(t testing.TB) {
	t.Helper()
	must(t, s.Blobs.List(t.Context(), "", func(b cache.Blob) error {
		t.Errorf("%s was stored", b.Key)
		return nil
	}))
}
