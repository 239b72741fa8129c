package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// Config is what Attic's API says of a cache, and takes to make or change one; nil is what is not said. MaxBytes and PullThrough are ours.
type Config struct {
	SubstituterEndpoint string           `json:"substituter_endpoint,omitempty"` // only said
	APIEndpoint         string           `json:"api_endpoint,omitempty"`         // only said
	PublicKey           string           `json:"public_key,omitempty"`           // only said
	Keypair             *Keypair         `json:"keypair,omitempty"`              // only taken
	IsPublic            *bool            `json:"is_public,omitempty"`
	StoreDir            *string          `json:"store_dir,omitempty"`
	Priority            *int             `json:"priority,omitempty"`
	UpstreamNames       *[]string        `json:"upstream_cache_key_names,omitempty"`
	Retention           *RetentionPeriod `json:"retention_period,omitempty"`
	MaxBytes            *int64           `json:"max_bytes,omitempty"`
	PullThrough         *[]PullThrough   `json:"pull_through,omitempty"`
}

// Keypair is "Generate", or {"Keypair": "name:base64"}.
type Keypair struct {
	Key *nar.PrivateKey // nil: to be generated
}

// UnmarshalJSON reads what Attic's client sends.
func (k *Keypair) UnmarshalJSON(b []byte) error {
	var word string
	if json.Unmarshal(b, &word) == nil && word == "Generate" {
		return nil
	}
	var given struct{ Keypair *string }
	if err := json.Unmarshal(b, &given); err != nil || given.Keypair == nil {
		return errors.New(`a keypair is "Generate" or {"Keypair": "name:base64"}`)
	}
	key, err := nar.ParsePrivateKey(*given.Keypair)
	k.Key = key
	return err
}

// RetentionPeriod is "Global", or {"Period": seconds}; of 0 seconds: for ever.
type RetentionPeriod struct {
	Seconds *int64 // nil: the server's
}

// MarshalJSON writes what Attic's client reads.
func (r RetentionPeriod) MarshalJSON() ([]byte, error) {
	if r.Seconds == nil {
		return []byte(`"Global"`), nil
	}
	return fmt.Appendf(nil, `{"Period":%d}`, *r.Seconds), nil
}

// UnmarshalJSON reads what Attic's client sends.
func (r *RetentionPeriod) UnmarshalJSON(b []byte) error {
	var word string
	if json.Unmarshal(b, &word) == nil && word == "Global" {
		return nil
	}
	var given struct{ Period *uint32 }
	if err := json.Unmarshal(b, &given); err != nil || given.Period == nil {
		return errors.New(`a retention period is "Global" or {"Period": seconds}`)
	}
	seconds := int64(*given.Period)
	r.Seconds = &seconds
	return nil
}

const maxConfigBytes = 1 << 20

func (s *Server) readConfig(w http.ResponseWriter, r *http.Request) (c Config, err error) {
	body, err := s.readBody(w, r, maxConfigBytes)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return c, badRequest("the configuration is not JSON of the form expected: %v", err)
	}
	return c, nil
}

// getCacheConfig tells Attic's client what it needs to use the cache.
func (s *Server) getCacheConfig(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Pull)
	if err != nil {
		return err
	}
	base, priority, names := s.baseURL(r), s.priority(c), s.upstreamNames(c)
	pull := c.PullThrough
	if pull == nil {
		pull = []PullThrough{}
	}
	writeJSON(w, http.StatusOK, Config{
		SubstituterEndpoint: base + "/" + c.Name, APIEndpoint: base + "/", PublicKey: c.Keys[0].String(),
		IsPublic: &c.Public, StoreDir: &s.StoreDir, Priority: &priority, UpstreamNames: &names, Retention: &RetentionPeriod{c.Retention},
		MaxBytes: &c.MaxBytes, PullThrough: &pull,
	})
	return nil
}

func (s *Server) priority(c *Cache) int {
	if c.Priority != 0 {
		return c.Priority
	}
	return s.Priority
}

// upstreamNames are the names of keys whose paths Attic's client is told not to push: of those that are wanted, or of all,
// the ones that this cache pulls through. What it was not sent and cannot look for it could never serve on.
func (s *Server) upstreamNames(c *Cache) []string {
	names := []string{}
	for _, p := range c.PullThrough {
		for _, k := range p.Keys {
			name, _, _ := strings.Cut(k, ":")
			if c.UpstreamNames == nil || slices.Contains(c.UpstreamNames, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// postCacheConfig makes a cache.
func (s *Server) postCacheConfig(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("cache")
	if err := s.needs(r, name, Create); err != nil {
		return err
	}
	if err := CheckName(name); err != nil {
		return err
	}
	config, err := s.readConfig(w, r)
	if err != nil {
		return err
	}
	if config.Keypair == nil {
		config.Keypair = &Keypair{}
	}
	c := Cache{Name: name, CreatedAt: time.Now()}
	if err := s.change(r, &c, config); err != nil {
		return err
	}
	err = s.Index.CreateCache(r.Context(), c)
	if errors.Is(err, ErrConflict) {
		return &httpError{status: http.StatusBadRequest, kind: "CacheAlreadyExists", message: "there is a cache " + quoted(name) + " already"}
	}
	s.forget()
	return err
}

// patchCacheConfig changes what it is given of a cache's settings.
func (s *Server) patchCacheConfig(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("cache")
	if _, err := s.open(r, name, Configure); err != nil {
		return err
	}
	config, err := s.readConfig(w, r)
	if err != nil {
		return err
	}
	if config.Keypair == nil && config.IsPublic == nil && config.StoreDir == nil && config.Priority == nil && config.UpstreamNames == nil &&
		config.Retention == nil && config.MaxBytes == nil && config.PullThrough == nil {
		return badRequest("nothing was given that could be changed")
	}
	err = s.update(r.Context(), name, func(c *Cache) error { return s.change(r, c, config) })
	if err == nil && config.PullThrough != nil {
		s.ForgetPulls()
	}
	return err
}

// update changes a cache that was there a moment ago.
func (s *Server) update(ctx context.Context, name string, change func(*Cache) error) error {
	err := s.Index.UpdateCache(ctx, name, change)
	if errors.Is(err, ErrNotFound) {
		return noSuchCache(name)
	}
	s.forget()
	return err
}

// change puts what config says into c, as far as whoever makes the request may.
func (s *Server) change(r *http.Request, c *Cache, config Config) error {
	if config.Keypair != nil {
		key := config.Keypair.Key
		if key == nil {
			var err error
			if key, err = nar.GenerateKey(c.Name); err != nil {
				return err
			}
		}
		c.Keys = []Key{KeyOf(key)}
	}
	if config.StoreDir != nil && *config.StoreDir != s.StoreDir {
		return badRequest("this server has caches of %s only", s.StoreDir)
	}
	if config.IsPublic != nil {
		c.Public = *config.IsPublic
	}
	if config.Priority != nil {
		if *config.Priority < 0 {
			return badRequest("a priority is not negative")
		}
		c.Priority = *config.Priority
	}
	if config.UpstreamNames != nil {
		c.UpstreamNames = *config.UpstreamNames
	}
	return s.changeCosts(r, c, config)
}

// changeCosts puts in what costs whoever runs the server. Attic's client sends "Global" with whatever it changes: what is so already needs no permission.
func (s *Server) changeCosts(r *http.Request, c *Cache, config Config) error {
	before := c.Settings
	if config.Retention != nil {
		c.Retention = config.Retention.Seconds
		if err := checkRetention(s.retention(c)); err != nil {
			return err
		}
	}
	if config.MaxBytes != nil {
		if c.MaxBytes = *config.MaxBytes; c.MaxBytes < 0 {
			return badRequest("a quota is not negative; 0 is none")
		}
	}
	if config.PullThrough != nil {
		c.PullThrough = *config.PullThrough
		if err := checkPullThrough(c.PullThrough); err != nil {
			return err
		}
	}
	if equal(before.Retention, c.Retention) && before.MaxBytes == c.MaxBytes && slices.EqualFunc(before.PullThrough, c.PullThrough, PullThrough.equal) {
		return nil
	}
	return s.needs(r, c.Name, ConfigureRetention)
}

func equal(a, b *int64) bool { return a == b || a != nil && b != nil && *a == *b }

func (p PullThrough) equal(q PullThrough) bool {
	return p.URL == q.URL && p.Resign == q.Resign && slices.Equal(p.Keys, q.Keys)
}

// maxPullThrough bounds how many caches are asked for what is not here.
const maxPullThrough = 10

func checkPullThrough(all []PullThrough) error {
	if len(all) > maxPullThrough {
		return badRequest("a cache can pull through %d others at most", maxPullThrough)
	}
	for _, p := range all {
		if err := CheckPullThrough(p); err != nil {
			return err
		}
	}
	return nil
}

// deleteCache destroys a cache. Content that no other cache has goes later, as what is collected does.
func (s *Server) deleteCache(_ http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("cache")
	if _, err := s.open(r, name, Destroy); err != nil {
		return err
	}
	err := s.Index.DeleteCache(r.Context(), name)
	if errors.Is(err, ErrNotFound) {
		return noSuchCache(name)
	}
	s.forget()
	s.memory.forgetAll()
	s.quotas.recount(name)
	return err
}
