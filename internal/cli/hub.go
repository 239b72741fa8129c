package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/cache/local"
	cachesqlite "github.com/garrison-nix/garrison/internal/cache/sqlite"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/hub"
	hubsqlite "github.com/garrison-nix/garrison/internal/hub/sqlite"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/release"
)

func (a *app) hub() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "hub",
		Short: "Serve the cache, wake agents, take their reports, and run CI",
		Args:  noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := hub.ReadConfig(config)
			if err != nil {
				return err
			}
			return a.runHub(cmd.Context(), c)
		},
	}
	cmd.Flags().StringVar(&config, "config", "/etc/garrison/hub.toml", "configuration file")
	cmd.AddCommand(a.hubWake())
	return cmd
}

// hubWake is what a post-receive hook calls.
func (a *app) hubWake() *cobra.Command {
	var url, tokenFile string
	cmd := &cobra.Command{
		Use:   "wake",
		Short: "Tell a hub that something was pushed, so that it looks at once",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 15*time.Second)
			defer cancel()
			_, err := askHub(ctx, url, tokenFile, http.MethodPost, "/api/v1/wake")
			return err
		},
	}
	cmd.Flags().StringVar(&url, "url", "http://127.0.0.1:8420", "the hub")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with a token of scope wake")
	return cmd
}

const maxHubAnswer = 64 << 20 // bytes

// askHub makes one request and returns the answer's body.
func askHub(ctx context.Context, url, tokenFile, method, path string) ([]byte, error) {
	resp, err := openHub(ctx, url, tokenFile, method, path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxHubAnswer))
	if err != nil {
		return nil, fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the hub %s stopped answering", url).WithCause(err)
	}
	return body, nil
}

// openHub makes one request and returns the answer of a hub that did what it was asked for.
func openHub(ctx context.Context, url, tokenFile, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(url, "/")+path, nil)
	if err != nil {
		return nil, fleet.Errorf("", fleet.CodeUsage, "%q is not a hub's URL", url).WithCause(err)
	}
	if token := tokenFrom(tokenFile); token != nil {
		t, err := token()
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+t)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fleet.Errorf(fleet.Transient, fleet.CodeRemote, "cannot reach the hub %s", url).WithHint("does it run there?").WithCause(err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	said := strings.TrimSpace(string(body))
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "the hub refuses: %s", said).WithHint("give --token-file a token of the right scope")
	case http.StatusNotFound:
		return nil, fleet.Errorf(fleet.Local, fleet.CodeNotFound, "the hub does not have that: %s", said)
	}
	return nil, fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the hub answers %s: %s", resp.Status, said)
}

const drainTime = 10 * time.Second

// runHub wires cache, hub and CI together and serves them until ctx ends.
func (a *app) runHub(ctx context.Context, c hub.Config) (err error) {
	log := a.logger()
	logDir := filepath.Join(c.DataDir, "ci")
	if err := os.MkdirAll(logDir, 0o750); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot make the hub's folder %s", c.DataDir).WithCause(err)
	}
	own := rand.Text() // CI's token for the cache beside it; nobody else ever knows it
	file := &hub.TokenFile{Path: c.Tokens}
	tokens := func() (hub.Tokens, error) {
		t, err := file.Tokens()
		return t.With(hub.Token{Name: "ci", SHA256: hub.HashToken(own), Scopes: []string{hub.ScopePush}}), err
	}
	if _, err := tokens(); err != nil {
		return err
	}
	store, err := hubsqlite.Open(ctx, filepath.Join(c.DataDir, "hub.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	h := hub.New(hub.Options{Store: store, Tokens: tokens, LogDir: logDir, Log: log})
	caches, closeCaches, err := openCache(ctx, c, tokens, h.InUse, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeCaches()) }()
	h.Cache = caches.Handler()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "cannot listen on %s", c.Listen).WithHint("is another hub running? choose another address with listen").WithCause(err)
	}
	work, stopWork := context.WithCancelCause(ctx)
	defer stopWork(nil)
	ciDone := make(chan struct{})
	if c.CI.Remote == "" {
		close(ciDone)
	} else {
		ci, err := a.newCI(ctx, c, h, logDir, listener.Addr(), own, log)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		h.Wake = ci.Wake
		go func() {
			defer close(ciDone)
			ci.Run(work)
		}()
	}
	var collecting sync.WaitGroup
	collecting.Go(func() { caches.Run(work) })
	defer collecting.Wait()
	defer stopWork(nil)
	srv := &http.Server{Handler: h.Handler(), ReadHeaderTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	srv.RegisterOnShutdown(h.CloseStreams)
	stopped := context.AfterFunc(work, func() {
		drain, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		_ = srv.Shutdown(drain)
		_ = srv.Close()
	})
	defer stopped()
	log.Info("hub serves", "address", listener.Addr(), "cache", c.Cache.Name, "ci", git.Redact(c.CI.Remote))
	notify(daemon.SdNotifyReady)
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		stopWork(err)
	}
	<-ciDone
	if ctx.Err() == nil {
		return context.Cause(work)
	}
	return nil
}

// openCache opens the named cache in the data folder.
func openCache(ctx context.Context, c hub.Config, tokens func() (hub.Tokens, error), inUse func(context.Context) ([]string, error), log *slog.Logger) (*cache.Server, func() error, error) {
	upstreams, err := c.UpstreamKeys()
	if err != nil {
		return nil, nil, err
	}
	blobs, err := local.Open(filepath.Join(c.DataDir, "cache"))
	if err != nil {
		return nil, nil, err
	}
	index, err := cachesqlite.Open(ctx, filepath.Join(c.DataDir, "cache.db"))
	if err != nil {
		return nil, nil, errors.Join(err, blobs.Close())
	}
	closeAll := func() error { return errors.Join(index.Close(), blobs.Close()) }
	authorize := func(r *http.Request, _ string, p cache.Permission) error {
		if p == cache.Pull {
			return nil // public, until caches have an owner's word on it
		}
		t, err := tokens()
		if err != nil {
			return err
		}
		switch scopes, known := t.Scopes(cache.Token(r)); {
		case !known:
			return fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "this needs a token that the cache knows")
		case p != cache.Push || !slices.Contains(scopes, hub.ScopePush):
			return fmt.Errorf("%w: it does not have the scope %s", cache.ErrForbidden, hub.ScopePush)
		}
		return nil
	}
	s := cache.New(cache.Options{Blobs: blobs, Index: index, Authorize: authorize, Upstreams: upstreams, Roots: inUse, Log: log})
	key, err := blobs.Key(c.Cache.Name)
	if err == nil {
		err = s.EnsureCache(ctx, c.Cache.Name, key)
	}
	if err != nil {
		return nil, nil, errors.Join(err, closeAll())
	}
	return s, closeAll, nil
}

// newCI wires the built-in CI: the same release.Run as the command, pushing to the cache beside it.
func (a *app) newCI(ctx context.Context, c hub.Config, h *hub.Hub, logDir string, addr net.Addr, token string, log *slog.Logger) (*hub.CI, error) {
	n, err := nix.Find(ctx)
	if err != nil {
		return nil, err
	}
	if err := release.CheckKey(ctx, c.CI.SigningKey); err != nil {
		return nil, err
	}
	repo, err := git.Init(ctx, filepath.Join(c.DataDir, "repo.git"))
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr.String())
	host, _, _ := net.SplitHostPort(c.Listen)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	cl, err := client.New(client.Config{URL: "http://" + net.JoinHostPort(host, port) + "/" + c.Cache.Name, Token: func() (string, error) { return token, nil }})
	if err != nil {
		return nil, err
	}
	r := &releaser{nix: *n, options: release.Options{
		Repo: repo, Remote: c.CI.Remote, SigningKey: c.CI.SigningKey, AllowedSigners: c.CI.AllowedSigners,
		Identities: identities(c.CI.Identity), Cache: func(release.Config) (release.Cache, error) { return cl, nil }, Log: log, NoFetch: true,
	}}
	return hub.NewCI(hub.CI{Releaser: r, Hub: h, Poll: time.Duration(c.CI.Poll), LogDir: logDir, Log: log}), nil
}

// releaser is a hub.Releaser by package release.
type releaser struct {
	nix     nix.Nix
	options release.Options
}

func (r *releaser) Tip(ctx context.Context) (fleet.Source, error) {
	return release.Tip(ctx, r.options.Repo, r.options.Remote)
}

func (r *releaser) Release(ctx context.Context, source fleet.Source, out io.Writer) (fleet.RunState, *fleet.ReleaseRef, error) {
	n := r.nix
	n.Log = out
	o := r.options
	o.Nix, o.Source, o.PushedAt = &n, source.Commit, source.PushedAt
	result, err := release.Run(ctx, o)
	return result.State, result.Release, err
}
