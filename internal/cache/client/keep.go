package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// Pin keeps a path and its closure in the cache.
type Pin struct {
	Name      string    `json:"name"` // unique in its cache; letters, digits and . _ + @ : - between slashes
	StorePath string    `json:"storePath"`
	CreatedAt time.Time `json:"createdAt,omitzero"` // by the server
	ExpiresAt time.Time `json:"expiresAt,omitzero"` // zero = never
	// KeepLast, when a pin is set, removes the oldest of the pins beside it (the same name up to the last "/") until so many are left; 0 = none.
	KeepLast int `json:"keepLast,omitempty"`
}

func (c *Client) api(path string) string { return c.base + "/api/v1/caches/" + c.name + path }

// Pins returns the pins of the cache, by name.
func (c *Client) Pins(ctx context.Context) ([]Pin, error) {
	var answer struct{ Pins []Pin }
	err := c.getJSON(ctx, request{what: "list the pins", method: http.MethodGet, url: c.api("/pins"), maxAnswer: 64 << 20}, &answer)
	return answer.Pins, err
}

// ErrNoPins means that a cache is of a kind that has no pins.
var ErrNoPins = errors.New("it has no pins")

// Pin sets pins, in place of those of the same names. The paths must be in the cache. A cache that is not Garrison's is ErrNoPins.
func (c *Client) Pin(ctx context.Context, pins ...Pin) error {
	noPins := fleet.Errorf(fleet.Local, fleet.CodeInvalid, "cannot pin: %s is not a cache of Garrison's", c.URL()).WithCause(ErrNoPins)
	if p := c.speaks(); p == plain || p == attic {
		return noPins
	}
	query, err := json.Marshal(map[string]any{"pins": pins})
	if err != nil {
		return err
	}
	_, err = c.do(ctx, request{what: "pin", method: http.MethodPost, url: c.api("/pins"), contentType: "application/json", body: fixedBody(query)})
	if c.speaks() == unknown && foreign(err) {
		return noPins
	}
	return err
}

// Unpin removes a pin. One that is not there is an error of code fleet.CodeNotFound.
func (c *Client) Unpin(ctx context.Context, name string) error {
	_, err := c.do(ctx, request{what: "remove the pin " + name, method: http.MethodDelete, url: c.api("/pins/" + escape(name))})
	return err
}

// escape leaves slashes.
func escape(name string) string { return strings.ReplaceAll(url.PathEscape(name), "%2F", "/") }

// Collection says what a collection deletes, or would.
type Collection struct {
	Schema      int       `json:"schema"`
	Cache       string    `json:"cache"`
	At          time.Time `json:"at"`
	Executed    bool      `json:"executed"`
	Paths       int       `json:"paths"` // before
	StoredBytes int64     `json:"storedBytes"`
	Delete      []struct {
		StorePath string    `json:"storePath"`
		FileSize  int64     `json:"fileSize"` // bytes, compressed
		UsedAt    time.Time `json:"usedAt"`
		Why       string    `json:"why"` // "unused" or "size"
	} `json:"delete"`
	FreedBytes  int64 `json:"freedBytes"` // once the grace period is over
	OverBytes   int64 `json:"overBytes"`  // that what must be kept has beyond the limit
	UsedSince   int   `json:"usedSince"`  // paths that stay, because something used them meanwhile
	KeptByRoots int   `json:"keptByRoots"`
	Archives    int   `json:"archives"` // removed for good: their grace period is over
	Orphans     int   `json:"orphans"`  // removed for good: left by uploads that broke off
}

// Retention stands in for what is configured for a cache, where not nil.
type Retention struct {
	Unused   *time.Duration // what nothing used for that long is collected; 0 = never
	MaxBytes *int64         // of stored archives; 0 = no limit
}

// Collect plans a collection, and carries it out if execute says so.
func (c *Client) Collect(ctx context.Context, r Retention, execute bool) (Collection, error) {
	var out Collection
	q := map[string]any{"execute": execute}
	if r.Unused != nil {
		q["unused"] = int64(r.Unused.Seconds())
	}
	if r.MaxBytes != nil {
		q["maxBytes"] = *r.MaxBytes
	}
	query, err := json.Marshal(q)
	if err != nil {
		return out, err
	}
	err = c.getJSON(ctx, request{
		what: "collect", method: http.MethodPost, url: c.api("/collect"), contentType: "application/json", body: fixedBody(query), maxAnswer: 1 << 30,
	}, &out)
	return out, err
}

// Check is what a cache's check of itself found.
type Check struct {
	Schema   int    `json:"schema"`
	Cache    string `json:"cache"`
	Paths    int    `json:"paths"`
	Archives int    `json:"archives"`
	Bytes    int64  `json:"bytes"` // read
	Findings []struct {
		StorePath string `json:"storePath"`
		Problem   string `json:"problem"` // missing, size, content, narinfo, reference, closure
		Detail    string `json:"detail,omitempty"`
	} `json:"findings"`
	Repaired  int `json:"repaired"`
	UsedSince int `json:"usedSince"`
}

// Fsck has the cache check itself: that every archive is there, with content also that it is what it was. With repair what
// is broken, and what needs it, counts as missing from then on. progress is called now and then.
func (c *Client) Fsck(ctx context.Context, content, repair bool, progress func(archives, of, bytes int64)) (Check, error) {
	var last struct {
		Of       int64  `json:"of"`
		Archives int64  `json:"archives"`
		Bytes    int64  `json:"bytes"`
		Error    string `json:"error"`
		Schema   int    `json:"schema"`
	}
	var out Check
	q := url.Values{}
	for name, on := range map[string]bool{"content": content, "repair": repair} {
		if on {
			q.Set(name, "1")
		}
	}
	r := request{what: "check the cache", method: http.MethodPost, url: c.api("/fsck?" + q.Encode())}
	r.line = func(line []byte) error {
		last.Error, last.Schema = "", 0
		if err := json.Unmarshal(line, &last); err != nil {
			return err
		}
		switch {
		case last.Error != "":
			return fleet.Errorf(fleet.Transient, fleet.CodeCache, "cannot check the cache: %s", last.Error).WithHint("see the log of the hub or cache")
		case last.Schema != 0:
			return json.Unmarshal(line, &out)
		}
		progress(last.Archives, last.Of, last.Bytes)
		return nil
	}
	_, err := c.do(ctx, r)
	if err == nil && out.Schema == 0 {
		err = c.nonsense(r.what, io.ErrUnexpectedEOF)
	}
	return out, err
}

// Delete deletes a path. If others refer to it, and may not be deleted with it, nothing is deleted, and they are returned.
func (c *Client) Delete(ctx context.Context, storePath string, withReferrers bool) (deleted bool, referrers []string, err error) {
	hash, err := nar.HashPart(storePath)
	if err != nil {
		return false, nil, fleet.Errorf("", fleet.CodeUsage, "%q is not a store path", storePath).WithCause(err)
	}
	r := request{what: "delete " + storePath, method: http.MethodDelete, url: c.api("/paths/" + hash), maxAnswer: 64 << 20}
	if withReferrers {
		r.url += "?referrers=1"
	}
	var answer struct {
		Deleted   bool
		Referrers []string
	}
	body, err := c.do(ctx, r)
	var status *statusError
	if errors.As(err, &status) && status.status == http.StatusConflict && json.Unmarshal(status.body, &answer) == nil && len(answer.Referrers) > 0 {
		return false, answer.Referrers, nil
	}
	if err != nil {
		return false, nil, err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return false, nil, c.nonsense(r.what, fmt.Errorf("it says neither yes nor no: %w", err))
	}
	return answer.Deleted, answer.Referrers, nil
}
