package cli

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/local"
	"github.com/garrison-nix/garrison/internal/cache/postgres"
	"github.com/garrison-nix/garrison/internal/cache/s3"
	cachesqlite "github.com/garrison-nix/garrison/internal/cache/sqlite"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/metrics"
	pg "github.com/garrison-nix/garrison/internal/postgres"
)

func (a *app) cacheServe() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve binary caches, and nothing else",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := ReadCacheFile(config)
			if err != nil {
				return err
			}
			return a.runCache(cmd.Context(), c)
		},
	}
	cmd.Flags().StringVar(&config, "config", "/etc/garrison/cache.toml", "configuration file")
	return cmd
}

func (a *app) runCache(ctx context.Context, c CacheFile) (err error) {
	log := a.logger()
	s, closeAll, err := openCache(ctx, c.Cache, c.DataDir, cache.Options{Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	l, err := listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	log.Info("cache serves", "address", l.Addr())
	tellSystemd(daemon.SdNotifyReady)
	work, stop := context.WithCancel(ctx)
	var collecting sync.WaitGroup
	collecting.Go(func() { s.Run(work) })
	defer collecting.Wait()
	defer stop()
	return serveUntil(ctx, newServer(s.Handler(), log), l)
}

// listen opens the address that a server is to be reached at.
func listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeConfig, "cannot listen on %s", address).
			WithHint("is another hub or cache running? choose another address with listen").WithCause(err)
	}
	return l, nil
}

func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ConnContext: cache.ConnContext, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
}

// drainTime is how long a server that is told to stop lets uploads come to their end. The units' TimeoutStopSec is longer.
const drainTime = 45 * time.Second

// serveUntil serves until ctx ends, and then the requests under way until they have ended, or drainTime has.
func serveUntil(ctx context.Context, srv *http.Server, l net.Listener) error {
	defer cache.Calm()()
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		tellSystemd(daemon.SdNotifyStopping)
		drain, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		if srv.Shutdown(drain) != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(l)
	if stop() {
		return err // ctx has not ended: the listener failed
	}
	<-drained
	return nil
}

// openCache opens what the table says, by default in dataDir. o.Tokens, unless nil, is asked before the keys of JSON web tokens.
// Metrics are served until what is returned is closed.
func openCache(ctx context.Context, t CacheTable, dataDir string, o cache.Options) (_ *cache.Server, _ func() error, err error) {
	var opened []io.Closer
	closeAll := func() (err error) {
		for i := len(opened) - 1; i >= 0; i-- {
			err = errors.Join(err, opened[i].Close())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()
	keys, err := cache.OpenTokenKeys(t.TokenKeys)
	if err != nil {
		return nil, nil, err
	}
	o.Tokens = eitherToken(o.Tokens, keys)
	o = t.options(o)
	blobs, err := openBlobs(ctx, t, dataDir)
	if err != nil {
		return nil, nil, err
	}
	o.Blobs = blobs
	if c, ok := blobs.(io.Closer); ok {
		opened = append(opened, c)
	}
	index, err := openIndex(ctx, t, dataDir)
	if err != nil {
		return nil, nil, err
	}
	opened, o.Index = append(opened, index), index
	_, isAlone := index.(*cachesqlite.Index)
	o.Alone = isAlone
	s := cache.New(o)
	if t.Name != "" {
		key, err := local.Key(orElse(t.Dir, filepath.Join(dataDir, "cache")), t.Name)
		if err != nil {
			return nil, nil, err
		}
		if err := s.EnsureCache(ctx, t.Name, key); err != nil {
			return nil, nil, err
		}
	}
	if t.Metrics.Listen != "" {
		srv, err := exposeMetrics(ctx, t.Metrics.Listen, s.Metrics, o.Log)
		if err != nil {
			return nil, nil, err
		}
		opened = append(opened, srv)
	}
	return s, closeAll, nil
}

func openBlobs(ctx context.Context, t CacheTable, dataDir string) (cache.Blobs, error) {
	if t.S3.Bucket == "" {
		return local.Open(orElse(t.Dir, filepath.Join(dataDir, "cache")))
	}
	return s3.Open(ctx, t.S3)
}

type index interface {
	cache.Index
	io.Closer
}

func openIndex(ctx context.Context, t CacheTable, dataDir string) (index, error) {
	if t.Postgres == (pg.Config{}) {
		return cachesqlite.Open(ctx, orElse(t.Index, filepath.Join(dataDir, "cache.db")))
	}
	return postgres.Open(ctx, t.Postgres)
}

// eitherToken asks first, then the keys.
func eitherToken(first func(string) (cache.Grant, error), keys *cache.TokenKeys) func(string) (cache.Grant, error) {
	if first == nil {
		return keys.Grant
	}
	return func(token string) (cache.Grant, error) {
		g, err := first(token)
		if errors.Is(err, cache.ErrBadToken) {
			return keys.Grant(token)
		}
		return g, err
	}
}

// exposeMetrics serves a page of metrics, and nothing else, until what it returns is closed.
func exposeMetrics(ctx context.Context, address string, page func() string, log *slog.Logger) (io.Closer, error) {
	l, err := listen(ctx, address)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", metrics.ContentType)
		_, _ = io.WriteString(w, page()) // the client went away
	})
	srv := newServer(mux, log)
	srv.ReadTimeout, srv.WriteTimeout = 10*time.Second, 10*time.Second
	log.Info("serving metrics", "address", l.Addr())
	go func() { _ = srv.Serve(l) }() // until it is closed
	return srv, nil
}
