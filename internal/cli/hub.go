package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/notify"
	"github.com/garrison-nix/garrison/internal/release"
)

func (a *app) hub() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "hub",
		Short: "Serve the cache, wake agents, take their reports, and run CI",
		Args:  noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := ReadHubFile(config)
			if err != nil {
				return err
			}
			return a.runHub(cmd.Context(), c)
		},
	}
	cmd.Flags().StringVar(&config, "config", "/etc/garrison/hub.toml", "configuration file")
	cmd.AddCommand(a.hubWake(), a.hubRuns(), a.hubLog(), a.hubForget())
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

const (
	maxHubAnswer = 64 << 20 // bytes
	hubTime      = time.Minute
)

// askHub makes one request and returns the answer's body.
func askHub(ctx context.Context, url, tokenFile, method, path string) ([]byte, error) {
	return askHubAs(ctx, url, tokenFrom(tokenFile), method, path)
}

// askHubAs is askHub with a token from anywhere; nil is none.
func askHubAs(ctx context.Context, url string, token func() (string, error), method, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, hubTime, fleet.Errorf(fleet.Transient, fleet.CodeTimeout, "the hub %s does not answer within %s", url, hubTime))
	defer cancel()
	resp, err := openHubAs(ctx, url, token, method, path)
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
	return openHubAs(ctx, url, tokenFrom(tokenFile), method, path)
}

func openHubAs(ctx context.Context, url string, token func() (string, error), method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(url, "/")+path, nil)
	if err != nil {
		return nil, fleet.Errorf("", fleet.CodeUsage, "%q is not a hub's URL", url).WithCause(err)
	}
	if token != nil {
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

// HubFile is hub.toml.
type HubFile = hub.Config[CacheTable, notify.Config]

// ReadHubFile reads and checks the hub's configuration. Errors have CodeConfig.
func ReadHubFile(path string) (HubFile, error) {
	c, err := hub.ReadConfig[CacheTable, notify.Config](path)
	if err != nil {
		return c, err
	}
	c.Cache.Name = orElse(c.Cache.Name, "fleet")
	return c, errors.Join(c.Cache.check(path), c.Notify.Check(path))
}

// runHub wires cache, hub and CI together and serves them until ctx ends.
func (a *app) runHub(ctx context.Context, c HubFile) (err error) {
	log := a.logger()
	logDir := filepath.Join(c.DataDir, "ci")
	if err := os.MkdirAll(logDir, 0o750); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot make the hub's folder %s", c.DataDir).WithCause(err)
	}
	own := rand.Text() // CI's token for the cache beside it; nobody else ever knows it
	tokens := (&durable.Watched[hub.Tokens]{Path: c.Tokens, Read: func(path string) (hub.Tokens, error) {
		t, err := hub.ReadTokens(path)
		return t.With(hub.Token{Name: "ci", SHA256: hub.HashToken(own), Scopes: []string{hub.ScopePush}}), err
	}}).Get
	if _, err := tokens(); err != nil {
		return err
	}
	store, err := openHubStore(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	h := hub.New(hub.Options{Store: store, Tokens: tokens, Silent: time.Duration(c.Follow.Silent), LogDir: logDir, Log: log})
	caches, closeCaches, err := openCache(ctx, c.Cache, c.DataDir, cache.Options{Tokens: grantOf(tokens, c.Cache.Name), Roots: h.InUse, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeCaches()) }()
	h.Cache = caches.Handler()
	if err := openPage(c, h, caches, log); err != nil {
		return err
	}
	listener, err := listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	work, stopWork := context.WithCancel(ctx)
	defer stopWork()
	watch, err := newWatchers(ctx, c, h, caches, log)
	if err == nil && c.CI.Remote != "" {
		watch.ci, err = a.newCI(ctx, c, h, watch, logDir, listener.Addr(), own, log)
	}
	var keeper *notify.Keeper
	if err == nil {
		keeper, err = newKeeper(c, h, store, watch, log)
	}
	var measure func(context.Context)
	if err == nil {
		measure, err = measureHub(ctx, c, h, caches, watch, log)
	}
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	var working sync.WaitGroup
	working.Go(func() { keeper.Run(work) })
	working.Go(func() { caches.Run(work) })
	working.Go(func() { measure(work) })
	working.Go(func() { pruneHub(work, c.Keep.Keep(), store, logDir, log) })
	working.Go(func() { watch.run(work) })
	defer working.Wait()
	defer stopWork()
	srv := newServer(h.Handler(), log)
	srv.RegisterOnShutdown(h.CloseStreams)
	log.Info("hub serves", "address", listener.Addr(), "cache", c.Cache.Name, "ci", git.Redact(c.CI.Remote), "follows", git.Redact(c.Follow.Remote))
	tellSystemd(daemon.SdNotifyReady)
	return serveUntil(ctx, srv, listener)
}

// grantOf is what tokens of the hub's file allow on the cache of that name.
func grantOf(tokens func() (hub.Tokens, error), name string) func(string) (cache.Grant, error) {
	return func(token string) (cache.Grant, error) {
		t, err := tokens()
		if err != nil {
			return cache.Grant{}, err
		}
		scopes, known := t.Scopes(token)
		if !known {
			return cache.Grant{}, cache.ErrBadToken
		}
		id := "hub-" + hub.HashToken(token)
		var may cache.Permission
		for _, s := range scopes {
			switch kind, _, _ := strings.Cut(s, ":"); kind {
			case hub.ScopePush:
				may |= cache.Pull | cache.Push
			case hub.ScopeCache:
				return cache.Grant{ID: id, Caches: cache.CacheGrants{{Pattern: "*", May: cache.Everything}}}, nil
			case hub.ScopeRead, hub.ScopeReport:
				may |= cache.Pull
			}
		}
		return cache.Grant{ID: id, Caches: cache.CacheGrants{{Pattern: name, May: may}}}, nil
	}
}

// newCI wires the built-in CI: the same release.Run as the command.
func (a *app) newCI(ctx context.Context, c HubFile, h *hub.Hub, w *watchers, logDir string, addr net.Addr, token string, log *slog.Logger) (*hub.CI, error) {
	n, err := nix.Find(ctx)
	if err != nil {
		return nil, err
	}
	if err := release.CheckKey(ctx, c.CI.SigningKey); err != nil {
		return nil, err
	}
	cl, err := client.New(ciCache(c, addr, token))
	if err != nil {
		return nil, err
	}
	r := &releaser{nix: *n, config: c, options: release.Options{
		Repo: w.follower.Repo, Remote: c.CI.Remote, SigningKey: c.CI.SigningKey, AllowedSigners: c.CI.AllowedSigners, SourceSigners: c.CI.SourceSigners,
		Identities: identities(c.CI.Identity), Cache: func(release.Config) (release.Cache, error) { return cl, nil }, Log: log, NoFetch: true, OnlyNewest: true, Published: func() { w.follower.Hint(time.Now()) },
	}}
	w.mirrors = r.ringsMoved
	return hub.NewCI(hub.CIOptions{Releaser: r, Hub: h, Released: w.follower.Moved, Forge: w.forge, Poll: time.Duration(c.CI.Poll), LogDir: logDir, Log: log}), nil
}

// ciCache is where the built-in CI pushes to: the cache that the hub's file names, else the one beside it, with the token for that.
func ciCache(c HubFile, addr net.Addr, own string) client.Config {
	if c.CI.Cache != "" {
		return client.Config{URL: c.CI.Cache, Token: tokenFrom(c.CI.CacheTokenFile)}
	}
	_, port, _ := net.SplitHostPort(addr.String())
	host, _, _ := net.SplitHostPort(c.Listen)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return client.Config{URL: "http://" + net.JoinHostPort(host, port) + "/" + c.Cache.Name, Token: func() (string, error) { return own, nil }}
}
