package cache

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// Listed is a cache in the answer to GET /api/v1/caches.
type Listed struct {
	Name      string    `json:"name"`
	Public    bool      `json:"public"`
	PublicKey string    `json:"publicKey"`
	CreatedAt time.Time `json:"createdAt"`
}

// getCaches lists the caches that whoever asks may do anything with.
func (s *Server) getCaches(w http.ResponseWriter, r *http.Request) error {
	k, err := s.known(r.Context())
	if err != nil {
		return err
	}
	grant, list := callerOf(r.Context()).grant, []Listed{}
	for _, name := range slices.Sorted(maps.Keys(k.caches)) {
		if c := k.caches[name]; c.Public || grant.On(name) != 0 {
			list = append(list, Listed{Name: name, Public: c.Public, PublicKey: c.Keys[0].String(), CreatedAt: c.CreatedAt.UTC()})
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"schema": 1, "caches": list})
	return nil
}

// Info describes a cache: the answer to GET /api/v1/caches/{cache}.
type Info struct {
	Schema      int       `json:"schema"` // 1
	Name        string    `json:"name"`
	PublicKey   string    `json:"publicKey"`
	PublicKeys  []string  `json:"publicKeys"` // all that sign, PublicKey first
	Public      bool      `json:"public"`
	Upstreams   []string  `json:"upstreams"` // public keys: archives of what they signed need not be pushed
	Paths       int64     `json:"paths"`
	NarBytes    int64     `json:"narBytes"`    // uncompressed, sum over paths
	StoredBytes int64     `json:"storedBytes"` // compressed, sum over distinct archives
	MaxBytes    int64     `json:"maxBytes"`    // that may be stored; 0 = any number
	Retention   int64     `json:"retention"`   // seconds since its last use that a path is kept for; 0 = for ever
	LastPush    time.Time `json:"lastPush,omitzero"`
	Reads       Reads     `json:"reads"` // of the server that was asked
	Priority    int       `json:"priority"`
	StoreDir    string    `json:"storeDir"`
}

func (s *Server) getInfo(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Pull)
	if err != nil {
		return err
	}
	var stats Stats
	if !r.URL.Query().Has("settings") {
		if stats, err = s.Index.Stats(r.Context(), c.Name); err != nil {
			return err
		}
	}
	info := Info{
		Schema: 1, Name: c.Name, PublicKey: c.Keys[0].String(), Public: c.Public, Upstreams: []string{},
		Paths: stats.Paths, NarBytes: stats.NarBytes, StoredBytes: stats.StoredBytes, MaxBytes: c.MaxBytes, Retention: int64(s.retention(c).Unused.Seconds()),
		LastPush: stats.LastPush.UTC(), Reads: s.counts.readsOf(c.Name), Priority: s.priority(c), StoreDir: s.StoreDir,
	}
	for _, k := range c.Keys {
		info.PublicKeys = append(info.PublicKeys, k.String())
	}
	for _, k := range s.Upstreams {
		info.Upstreams = append(info.Upstreams, k.String())
	}
	writeJSON(w, http.StatusOK, info)
	return nil
}

// maxKeys bounds how often each path is signed.
const maxKeys = 4

// postKey adds a signing key, and answers with its public half. From now on it signs beside the others.
func (s *Server) postKey(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("cache")
	if _, err := s.open(r, name, Configure); err != nil {
		return err
	}
	config, err := s.readConfig(w, r)
	if err != nil {
		return err
	}
	if config.Keypair == nil {
		return badRequest(`the keypair is missing: "Generate" or {"Keypair": "name:base64"}`)
	}
	var added *nar.PrivateKey
	err = s.update(r.Context(), name, func(c *Cache) (err error) {
		added, err = c.addKey(config.Keypair.Key)
		return err
	})
	if err == nil {
		writeJSON(w, http.StatusOK, map[string]any{"schema": 1, "publicKey": added.Public().String()})
	}
	return err
}

// addKey adds key, or a new one. Keys have names of their own: whoever verifies looks for the key by its name.
func (c *Cache) addKey(key *nar.PrivateKey) (*nar.PrivateKey, error) {
	named := func(name string) bool {
		return slices.ContainsFunc(c.Keys, func(k Key) bool { return k.Public.Name == name })
	}
	if len(c.Keys) >= maxKeys {
		return nil, badRequest("the cache has %d keys: remove one first", len(c.Keys))
	}
	if key == nil {
		name := c.Name
		for n := 2; named(name); n++ {
			name = fmt.Sprintf("%s-%d", c.Name, n)
		}
		var err error
		if key, err = nar.GenerateKey(name); err != nil {
			return nil, err
		}
	}
	if named(key.Name) {
		return nil, badRequest("the cache has a key %s already: give the new one another name", quoted(key.Name))
	}
	c.Keys = append(c.Keys, KeyOf(key))
	return key, nil
}

// deleteKey removes a signing key. The last one stays.
func (s *Server) deleteKey(_ http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("cache")
	if _, err := s.open(r, name, Configure); err != nil {
		return err
	}
	return s.update(r.Context(), name, func(c *Cache) error {
		i := slices.IndexFunc(c.Keys, func(k Key) bool { return k.Public.Name == r.PathValue("key") })
		switch {
		case i < 0:
			return noSuchObject("the key " + r.PathValue("key"))
		case len(c.Keys) == 1:
			return badRequest("it is the cache's only key: add another first")
		}
		c.Keys = slices.Delete(c.Keys, i, i+1)
		return nil
	})
}

// postRevoke ends the validity of a token: of any by a token that may do everything with every cache, else of the one that it comes with.
func (s *Server) postRevoke(w http.ResponseWriter, r *http.Request) error {
	who := callerOf(r.Context())
	if who.grant.ID == "" {
		return unauthorized(who)
	}
	body, err := s.readBody(w, r, maxConfigBytes)
	if err != nil {
		return err
	}
	ask := struct {
		ID    string    `json:"id"`
		Until time.Time `json:"until"`
	}{who.grant.ID, who.grant.ExpiresAt}
	if err := json.Unmarshal(body, &ask); err != nil || ask.ID == "" {
		return badRequest(`the query is not {"id": "…", "until": "…"}`)
	}
	if ask.ID != who.grant.ID && !who.grant.OnAll() {
		return &httpError{status: http.StatusForbidden, kind: "AccessError", message: `only a token that allows everything on "*" can revoke another`}
	}
	if ask.Until.IsZero() {
		ask.Until = time.Now().AddDate(1000, 0, 0)
	}
	if err := s.Index.Revoke(r.Context(), ask.ID, ask.Until.Add(2*tokenLeeway)); err != nil {
		return err
	}
	s.forget()
	return nil
}
