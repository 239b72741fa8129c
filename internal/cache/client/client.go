// Package client pushes store paths to a Garrison cache and asks it what it has.
//
// What it guarantees: Push uploads archives before the paths that they belong to,
// and paths after those they refer to, so that whatever it was interrupted at, the
// cache holds only whole closures; an archive is checked against its NarHash
// while it is read, so that a damaged local store is found and not spread;
// memory is bounded, whatever the size of a path. Of a path that an upstream cache signed, whose key
// the cache trusts, only the description is pushed.
//
// Failures that may pass (the network, 5xx, 429) are retried with backoff; then
// they are fleet.Transient. Every error is a *fleet.Error, or the context's own.
//
// Start at Client.Push.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Config says which cache, and how it is reached.
type Config struct {
	// URL of the cache: scheme, host and the cache's name, "https://cache.example.org/fleet".
	URL string

	// Token returns the token to present, and is asked for each request, so that
	// a token that was changed is used. nil means none.
	Token func() (string, error)

	// TokenEnds is called, once, when the server says that the token ends soon; nil: nobody is told.
	TokenEnds func(at time.Time)

	// HTTP is used for requests; nil means a client of our own.
	HTTP *http.Client

	// Attempts is how often a request is tried; 0 means 5, over about two seconds.
	Attempts int
}

// Client talks to one cache. It may be used from any number of goroutines.
type Client struct {
	cfg  Config
	base string // without the cache's name and a "/" at the end
	name string // of the cache
	told sync.Once
}

// New checks the configuration; it makes no request. Its errors have fleet.CodeConfig.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, badURL(cfg.URL).WithCause(err)
	}
	name := path.Base(u.Path)
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || name == "." || name == "/" || u.RawQuery != "" {
		return nil, badURL(u.Redacted())
	}
	if cfg.HTTP == nil {
		cfg.HTTP = newHTTP()
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = 5
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), name)
	return &Client{cfg: cfg, base: strings.TrimSuffix(u.String(), "/"), name: name}, nil
}

func badURL(s string) *fleet.Error {
	return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%q is not the URL of a cache", s).
		WithHint(`it has the form "https://host/name", with the cache's name at the end`)
}

// newHTTP keeps as many connections as a push uses, and never waits forever for
// an answer. A body takes as long as it moves (see watchdog).
func newHTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute,
		WriteBufferSize:       64 << 10,
	}}
}

// URL is the cache's, as in nix.conf's substituters.
func (c *Client) URL() string { return c.base + "/" + c.name }

// maxQuery is how many paths are asked for in one query: the server takes 8 MiB.
const maxQuery = 50_000

// Missing returns those of the 32-character hash parts that neither the cache has nor, as far as it knows, an upstream.
func (c *Client) Missing(ctx context.Context, hashes []string) ([]string, error) {
	missing, _, err := c.missing(ctx, hashes, nil)
	return missing, err
}

// missing is Missing, and says which of the NarHashes (one for each path, or none) belong to a missing path whose archive is stored.
func (c *Client) missing(ctx context.Context, hashes, nars []string) (missing, stored []string, err error) {
	for part := range slices.Chunk(hashes, maxQuery) {
		n := min(len(part), len(nars))
		query, err := json.Marshal(map[string]any{"cache": c.name, "store_path_hashes": part, "nar_hashes": nars[:n]})
		if err != nil {
			return nil, nil, err
		}
		nars = nars[n:]
		var answer struct {
			Missing []string `json:"missing_paths"`
			Stored  []string `json:"stored_nars"`
		}
		err = c.getJSON(ctx, request{
			what: "ask what is missing", method: http.MethodPost, url: c.base + "/_api/v1/get-missing-paths",
			contentType: "application/json", body: fixedBody(query), maxAnswer: 8 << 20,
		}, &answer)
		if err != nil {
			return nil, nil, err
		}
		missing, stored = append(missing, answer.Missing...), append(stored, answer.Stored...)
	}
	return missing, stored, nil
}

// Info describes a cache.
type Info struct {
	Schema      int       `json:"schema"`
	Name        string    `json:"name"`
	PublicKey   string    `json:"publicKey"`  // for trusted-public-keys
	PublicKeys  []string  `json:"publicKeys"` // all that sign now
	Public      bool      `json:"public"`
	Upstreams   []string  `json:"upstreams"` // public keys of caches that hosts are to have besides
	Paths       int64     `json:"paths"`
	NarBytes    int64     `json:"narBytes"`    // uncompressed
	StoredBytes int64     `json:"storedBytes"` // compressed, each archive once
	MaxBytes    int64     `json:"maxBytes"`    // 0 = any number
	Retention   int64     `json:"retention"`   // seconds since its last use that a path is kept for; 0 = for ever
	LastPush    time.Time `json:"lastPush,omitzero"`
	Reads       struct {
		Hits   int64 `json:"hits"`
		Misses int64 `json:"misses"`
	} `json:"reads"` // of narinfos, since the server started
	Priority int    `json:"priority"`
	StoreDir string `json:"storeDir"`
}

// Info asks what the cache is and holds.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var info Info
	err := c.getJSON(ctx, request{what: "ask about the cache", method: http.MethodGet, url: c.base + "/api/v1/caches/" + c.name}, &info)
	return info, err
}

func (c *Client) getJSON(ctx context.Context, r request, into any) error {
	b, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(into); err != nil {
		return c.nonsense(r.what, err)
	}
	return nil
}

func (c *Client) nonsense(what string, err error) error {
	return fleet.Errorf(fleet.Transient, fleet.CodeCache, "cannot %s: %s answered what a cache does not answer", what, c.URL()).WithCause(err).
		WithHint("check that the URL is that of a Garrison cache, and that no proxy answers in its place")
}
