package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// expiryHeader is how a server says that the token ends soon.
const expiryHeader = "X-Garrison-Token-Expires"

// noteExpiry tells once that the token ends soon.
func (c *Client) noteExpiry(res *http.Response) {
	at, err := time.Parse(time.RFC3339, res.Header.Get(expiryHeader))
	if err == nil && c.cfg.TokenEnds != nil {
		c.told.Do(func() { c.cfg.TokenEnds(at) })
	}
}

// Settings are what can be changed of a cache. nil leaves a setting as it is.
type Settings struct {
	Keypair       any            `json:"keypair,omitempty"` // "Generate", or map[string]string{"Keypair": "name:base64"}
	Public        *bool          `json:"is_public,omitempty"`
	Priority      *int           `json:"priority,omitempty"`
	UpstreamNames *[]string      `json:"upstream_cache_key_names,omitempty"`
	Retention     any            `json:"retention_period,omitempty"` // "Global", or map[string]int64{"Period": seconds}
	MaxBytes      *int64         `json:"max_bytes,omitempty"`
	PullThrough   *[]PullThrough `json:"pull_through,omitempty"`
}

// PullThrough is another cache that a cache fetches from what it does not have.
type PullThrough struct {
	URL    string   `json:"url"`
	Keys   []string `json:"keys"` // its public keys
	Resign bool     `json:"resign,omitempty"`
}

// Create makes the cache.
func (c *Client) Create(ctx context.Context, s Settings) error {
	return c.send(ctx, "create the cache", http.MethodPost, c.config(), s, nil)
}

// Configure changes settings of the cache.
func (c *Client) Configure(ctx context.Context, s Settings) error {
	return c.send(ctx, "configure the cache", http.MethodPatch, c.config(), s, nil)
}

// Destroy removes the cache, with all that it has.
func (c *Client) Destroy(ctx context.Context) error {
	return c.send(ctx, "destroy the cache", http.MethodDelete, c.config(), nil, nil)
}

// AddKey has the cache sign with one more key, and returns its public half. keypair is as in Settings.
func (c *Client) AddKey(ctx context.Context, keypair any) (publicKey string, err error) {
	var answer struct{ PublicKey string }
	err = c.send(ctx, "add a key", http.MethodPost, c.api("/keys"), Settings{Keypair: keypair}, &answer)
	return answer.PublicKey, err
}

// RemoveKey ends that the cache signs with the key of that name.
func (c *Client) RemoveKey(ctx context.Context, name string) error {
	return c.send(ctx, "remove the key "+name, http.MethodDelete, c.api("/keys/"+url.PathEscape(name)), nil, nil)
}

// Listed is a cache in a list.
type Listed struct {
	Name      string    `json:"name"`
	Public    bool      `json:"public"`
	PublicKey string    `json:"publicKey"`
	CreatedAt time.Time `json:"createdAt"`
}

// Caches lists those caches of the server that the token allows anything with. Which cache the client is for does not matter.
func (c *Client) Caches(ctx context.Context) ([]Listed, error) {
	var answer struct{ Caches []Listed }
	err := c.getJSON(ctx, request{what: "list the caches", method: http.MethodGet, url: c.base + "/api/v1/caches", maxAnswer: 16 << 20}, &answer)
	return answer.Caches, err
}

// Revoke ends the validity of the token with that id; the server may forget it after until. Which cache the client is for does not matter.
func (c *Client) Revoke(ctx context.Context, id string, until time.Time) error {
	query := struct {
		ID    string    `json:"id"`
		Until time.Time `json:"until,omitzero"`
	}{id, until}
	return c.send(ctx, "revoke the token", http.MethodPost, c.base+"/api/v1/tokens/revoke", query, nil)
}

func (c *Client) config() string { return c.base + "/_api/v1/cache-config/" + c.name }

// send makes a request with v as JSON, and reads the answer into into, both if not nil.
func (c *Client) send(ctx context.Context, what, method, url string, v, into any) error {
	r := request{what: what, method: method, url: url}
	if v != nil {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		r.contentType, r.body = "application/json", fixedBody(b)
	}
	if into != nil {
		return c.getJSON(ctx, r, into)
	}
	_, err := c.do(ctx, r)
	return err
}
