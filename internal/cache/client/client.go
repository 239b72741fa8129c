// Package client pushes store paths to a cache and asks it what it has: to Garrison's, to a server that speaks Attic's API, and to
// a plain Nix cache behind HTTP, in an S3 bucket or in a folder. Config.URL says which.
//
// What it guarantees: Push uploads archives before the paths that they belong to,
// and paths after those they refer to, so that whatever it was interrupted at, the
// cache holds only whole closures; an archive is checked against its NarHash
// while it is read, or while a Garrison server receives it, so that a damaged local store is found and not spread;
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
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// Config says which cache, and how it is reached.
type Config struct {
	// URL of the cache, of one of these forms:
	//
	//	https://host/name            a Garrison or Attic server, or a plain Nix cache: the first request finds out
	//	attic+https://host/name      an Attic server
	//	nix+https://host/folder      a plain Nix cache, which takes PUT; it may be empty
	//	s3://bucket?endpoint=…       a bucket with a Nix cache
	//	file:///folder               a folder with a Nix cache
	//
	// What is pushed to a plain Nix cache is signed by the key in the file that the parameter secret-key names, as Nix does.
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
	cfg   Config
	shown string          // the URL without secrets
	base  string          // over HTTP: without the cache's name and a "/" at the end
	name  string          // over HTTP: of the cache
	user  *url.Userinfo   // over HTTP: from the URL; nil without
	files files           // what Nix would read, and, of a plain Nix cache, write
	key   *nar.PrivateKey // signs what is pushed to a plain Nix cache; may be nil

	told sync.Once // that the token ends

	mu       sync.Mutex
	protocol protocol
}

// protocol is how a cache is pushed to.
type protocol int

const (
	unknown  protocol = iota // of a server; the first answer says which
	garrison                 // decisions/0002 and 0014
	attic                    // Attic's API
	plain                    // Nix's own: files
)

func (c *Client) speaks() protocol {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.protocol
}

func (c *Client) found(p protocol) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.protocol = p
}

// New checks the configuration; it makes no request. Its errors have fleet.CodeConfig, or fleet.CodeKey for a secret-key that cannot be read.
func New(cfg Config) (*Client, error) {
	kind, rest, prefixed := strings.Cut(cfg.URL, "+")
	protocols := map[string]protocol{"garrison": garrison, "attic": attic, "nix": plain}
	if _, known := protocols[kind]; !prefixed || !known {
		kind, rest = "", cfg.URL
	}
	u, err := url.Parse(rest)
	if err != nil {
		return nil, badURL("").WithCause(errors.Unwrap(err)) // which names the URL, and what is secret in it
	}
	if cfg.HTTP == nil {
		cfg.HTTP = newHTTP()
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = 5
	}
	c := &Client{cfg: cfg, protocol: protocols[kind]}
	switch {
	case kind == "" && u.Scheme == "s3":
		err = c.openS3(u)
	case kind == "" && u.Scheme == "file":
		err = c.openFolder(u)
	case u.Scheme == "http" || u.Scheme == "https":
		err = c.openHTTP(u)
	default:
		err = badURL(u.Redacted())
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Client) openHTTP(u *url.URL) error {
	if u.Host == "" || u.Fragment != "" {
		return badURL(u.Redacted())
	}
	if err := c.parameters(u, nil); err != nil {
		return err
	}
	if u.User != nil {
		c.user, u.User = u.User, nil
	}
	u.RawQuery, u.Path = "", strings.TrimSuffix(u.Path, "/")
	c.shown = u.String()
	c.files = httpFiles{c}
	if c.key != nil && c.protocol == unknown {
		c.protocol = plain
	}
	if c.protocol == plain {
		return nil
	}
	if c.key != nil || u.Path == "" {
		return badURL(u.Redacted())
	}
	c.base, c.name = strings.TrimSuffix(strings.TrimSuffix(c.shown, path.Base(u.Path)), "/"), path.Base(u.Path)
	return nil
}

// parameters reads those of a URL's parameters that every plain Nix cache has, and refuses what is neither one of those nor of others.
func (c *Client) parameters(u *url.URL, others []string) error {
	given, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return badURL(u.Redacted()).WithCause(err)
	}
	for name := range given {
		if !slices.Contains(append(others, "secret-key", "compression"), name) {
			return badURL(u.Redacted()).WithHint("there is no parameter %q; there are: %s", name, strings.Join(append(others, "secret-key", "compression"), ", "))
		}
	}
	if z := given.Get("compression"); z != "" && z != "zstd" {
		return badURL(u.Redacted()).WithHint("what is pushed is compressed by zstd; leave the parameter compression out")
	}
	file := given.Get("secret-key")
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err == nil {
		c.key, err = nar.ParsePrivateKey(string(text))
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeKey, "the secret-key of cache %s cannot be read", u.Redacted()).WithCause(err).
			WithHint("it names a file that `nix-store --generate-binary-cache-key` made")
	}
	return nil
}

func badURL(s string) *fleet.Error {
	return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%q is not the URL of a cache", s).
		WithHint(`it has the form "https://host/name", with the cache's name at the end; for a plain Nix cache, "nix+https://host", "s3://bucket?endpoint=…" or "file:///folder"`)
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
func (c *Client) URL() string { return c.shown }

// maxQuery is how many paths are asked for in one query: the server takes 8 MiB.
const maxQuery = 50_000

// Missing returns those of the 32-character hash parts that neither the cache has nor, as far as it knows, an upstream.
func (c *Client) Missing(ctx context.Context, hashes []string) ([]string, error) {
	missing, _, err := c.missing(ctx, hashes, nil)
	return missing, err
}

// missing is Missing, and says which of the NarHashes (one for each path, or none) belong to a missing path whose archive is stored.
func (c *Client) missing(ctx context.Context, hashes, nars []string) (missing, stored []string, err error) {
	if c.speaks() == plain {
		missing, err = c.missingFiles(ctx, hashes)
		return missing, nil, err
	}
	for part := range slices.Chunk(hashes, maxQuery) {
		n := min(len(part), len(nars))
		query, err := json.Marshal(map[string]any{"cache": c.name, "store_path_hashes": part, "nar_hashes": nars[:n]})
		if err != nil {
			return nil, nil, err
		}
		nars = nars[n:]
		var answer struct {
			Missing []string  `json:"missing_paths"`
			Stored  *[]string `json:"stored_nars"`
		}
		err = c.getJSON(ctx, request{
			what: "ask what is missing", method: http.MethodPost, url: c.base + "/_api/v1/get-missing-paths",
			contentType: "application/json", body: fixedBody(query), maxAnswer: 8 << 20,
		}, &answer)
		if c.speaks() == unknown && foreign(err) {
			if c.isPlain(ctx) {
				c.found(plain)
				return c.missing(ctx, hashes, nil)
			}
		}
		if err != nil {
			return nil, nil, err
		}
		missing = append(missing, answer.Missing...)
		switch {
		case c.speaks() == attic: // named so; even Garrison's own server is then pushed to as Attic's is
		case answer.Stored != nil:
			c.found(garrison)
			stored = append(stored, *answer.Stored...)
		case n > 0: // only Garrison knows the question
			c.found(attic)
		}
	}
	return missing, stored, nil
}

// foreign says whether an answer shows that its server knows nothing of the request, and is neither Garrison's nor Attic's.
func foreign(err error) bool {
	var status *statusError
	if !errors.As(err, &status) || status.kind != "" {
		return false
	}
	switch status.status {
	case http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return false
}

// isPlain says whether Nix finds a cache at the URL.
func (c *Client) isPlain(ctx context.Context) bool {
	_, err := c.files.get(ctx, cacheInfo, maxNarInfo)
	return err == nil
}

// Reach asks for what Nix asks a cache first. Errors: as others', CodeUnauthorized where it wants a token.
func (c *Client) Reach(ctx context.Context) error {
	_, err := c.files.get(ctx, cacheInfo, maxNarInfo)
	if err != nil {
		return c.explain("read "+cacheInfo, err)
	}
	return nil
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
func (c *Client) Info(ctx context.Context) (Info, error) { return c.info(ctx, "") }

// info is Info; with query "?settings" nothing is counted, which takes seconds in a large cache.
func (c *Client) info(ctx context.Context, query string) (info Info, err error) {
	err = c.getJSON(ctx, request{what: "ask about the cache", method: http.MethodGet, url: c.base + "/api/v1/caches/" + c.name + query}, &info)
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
