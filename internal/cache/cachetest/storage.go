package cachetest

import (
	"errors"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/local"
	"github.com/garrison-nix/garrison/internal/cache/postgres"
	"github.com/garrison-nix/garrison/internal/cache/s3"
	"github.com/garrison-nix/garrison/internal/cache/sqlite"
	"github.com/garrison-nix/garrison/internal/nar"
	pg "github.com/garrison-nix/garrison/internal/postgres"
)

// Storage is where a cache keeps content and index: a folder with a SQLite database in it, or a bucket and a PostgreSQL database.
type Storage struct {
	Dir      string // the folder; "" where it is a bucket
	Bucket   s3.Config
	Database string // the URL of PostgreSQL

	once sync.Once
	key  *nar.PrivateKey // of cache "c", of whichever server
}

// LocalStorage is an empty folder.
func LocalStorage(t testing.TB) *Storage {
	t.Helper()
	return &Storage{Dir: filepath.Join(t.TempDir(), "cache")}
}

// SharedStorage is an empty bucket and an empty database.
func (l *Lab) SharedStorage(t testing.TB) *Storage {
	t.Helper()
	return &Storage{Bucket: l.Bucket(t), Database: l.PostgresURL(t)}
}

// Open opens both; close is to be called when they are not used any more.
func (s *Storage) Open(t testing.TB) (b cache.Blobs, x cache.Index, close func()) {
	t.Helper()
	if s.Dir == "" {
		blobs, err := s3.Open(t.Context(), s.Bucket)
		must(t, err)
		index, err := postgres.Open(t.Context(), pg.Config{URL: s.Database})
		must(t, err)
		return blobs, index, func() { must(t, index.Close()) }
	}
	blobs, err := local.Open(s.Dir)
	must(t, err)
	index, err := sqlite.Open(t.Context(), filepath.Join(s.Dir, "index.sqlite"))
	must(t, err)
	return blobs, index, func() { must(t, errors.Join(index.Close(), blobs.Close())) }
}

// Start starts servers that share the storage, with a cache "c" on it that everybody may read, and one address in front of them
// which has them answer in turn. Server.Cache is the first of them.
func (s *Storage) Start(t testing.TB, servers int, o cache.Options) *Server {
	t.Helper()
	if o.Tokens == nil {
		o.Tokens = Tokens
	}
	o.Alone = s.Dir != ""
	var all []*cache.Server
	var handlers []http.Handler
	for range servers {
		var end func()
		o.Blobs, o.Index, end = s.Open(t)
		t.Cleanup(end)
		server := cache.New(o)
		s.once.Do(func() {
			key, err := nar.GenerateKey("c-1")
			must(t, err)
			s.key = key
		})
		must(t, server.EnsureCache(t.Context(), "c", s.key))
		all, handlers = append(all, server), append(handlers, server.Handler())
	}
	var turn atomic.Uint64
	server := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers[turn.Add(1)%uint64(len(handlers))].ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return &Server{Server: server, Cache: all[0], Dir: s.Dir, Key: s.key.Public()}
}

// EachStorage runs f as a benchmark of each way to keep and serve a cache that figures are taken of: what its storage is, and how many servers share one.
func (l *Lab) EachStorage(b *testing.B, f func(b *testing.B, empty func(testing.TB) *Storage, servers int)) {
	b.Run("sqlite", func(b *testing.B) { f(b, LocalStorage, 1) })
	b.Run("postgres-s3", func(b *testing.B) { f(b, l.SharedStorage, 1) })
	b.Run("postgres-s3-two", func(b *testing.B) { f(b, l.SharedStorage, 2) })
}
