package cache

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// Bounds of a query for missing paths: a whole system's closure has a few thousand.
const (
	maxQueryHashes = 100_000
	maxQueryBytes  = 8 << 20
)

// postMissingPaths answers which of the hash parts are to be pushed: those that
// neither the cache has, content and all, nor an upstream. (Attic's API.) Who sends their NarHashes along, in the same
// order, learns which archives of those paths are stored already, from an upload that broke off.
func (s *Server) postMissingPaths(w http.ResponseWriter, r *http.Request) error {
	var query struct {
		Cache  string   `json:"cache"`
		Hashes []string `json:"store_path_hashes"`
		Nars   []string `json:"nar_hashes"`
	}
	body, err := readBody(w, r, maxQueryBytes)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, &query); err != nil {
		return badRequest("the query is not JSON of the form expected: %v", err)
	}
	c, err := s.open(r, query.Cache, Push)
	if err != nil {
		return err
	}
	if len(query.Hashes) > maxQueryHashes {
		return badRequest("%d hashes in one query, at most %d are allowed", len(query.Hashes), maxQueryHashes)
	}
	for _, h := range query.Hashes {
		if !nar.ValidHashPart(h) {
			return badRequest("%s is not the hash of a store path", quoted(h))
		}
	}
	have, err := s.Index.Lookup(r.Context(), c.Name, query.Hashes)
	if err != nil {
		return err
	}
	if err := s.touch(r.Context(), c.Name, have); err != nil {
		return err
	}
	if len(query.Nars) > 0 && len(query.Nars) != len(query.Hashes) {
		return badRequest("%d NarHashes for %d paths", len(query.Nars), len(query.Hashes))
	}
	missing, stored := []string{}, []string{}
	for i, h := range query.Hashes {
		record, ok := have[h]
		if ok {
			ok, err = s.isThere(r.Context(), record)
		}
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		missing = append(missing, h)
		if len(query.Nars) > 0 {
			if stored, err = s.addStored(r.Context(), stored, query.Nars[i]); err != nil {
				return err
			}
		}
	}
	answer := map[string][]string{"missing_paths": missing}
	if len(query.Nars) > 0 {
		answer["stored_nars"] = stored
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// touch keeps what a push found here from being collected before that push refers to it.
func (s *Server) touch(ctx context.Context, cache string, have map[string]Record) error {
	now, old := time.Now(), []string{}
	for hashPart, r := range have {
		if now.Sub(r.UsedAt) > TouchGrain {
			old = append(old, hashPart)
		}
	}
	if len(old) == 0 {
		return nil
	}
	return s.Index.Touch(ctx, cache, old, now)
}

func (s *Server) addStored(ctx context.Context, to []string, narHash string) ([]string, error) {
	hash, err := nar.ParseHash(narHash)
	if err != nil {
		return to, badRequest("%v", err)
	}
	ok, err := s.stored(ctx, hash)
	if err != nil || !ok {
		return to, err
	}
	return append(to, narHash), s.Index.TouchNar(ctx, hash, time.Now())
}

// getCacheConfig tells Attic's client what it needs to use the cache.
func (s *Server) getCacheConfig(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Pull)
	if err != nil {
		return err
	}
	base, names := s.baseURL(r), []string{}
	for _, k := range s.Upstreams {
		names = append(names, k.Name)
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"substituter_endpoint":     base + "/" + c.Name,
		"api_endpoint":             base + "/",
		"public_key":               c.Keys[0].String(),
		"is_public":                s.isPublic(r, c),
		"store_dir":                s.StoreDir,
		"priority":                 s.Priority,
		"upstream_cache_key_names": names,
		"retention_period":         "Global",
	})
	return nil
}

func (s *Server) baseURL(r *http.Request) string {
	if s.BaseURL != "" {
		return s.BaseURL
	}
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

func (s *Server) isPublic(r *http.Request, c *Cache) bool {
	anonymous := r.Clone(r.Context())
	anonymous.Header.Del("Authorization")
	return s.Authorize(anonymous, c.Name, Pull) == nil
}

// Info describes a cache: the answer to GET /api/v1/caches/{cache}.
type Info struct {
	Schema      int      `json:"schema"` // 1
	Name        string   `json:"name"`
	PublicKey   string   `json:"publicKey"`
	Upstreams   []string `json:"upstreams"` // public keys: archives of what they signed need not be pushed
	Paths       int64    `json:"paths"`
	NarBytes    int64    `json:"narBytes"`    // uncompressed, sum over paths
	StoredBytes int64    `json:"storedBytes"` // compressed, sum over distinct archives
	Priority    int      `json:"priority"`
	StoreDir    string   `json:"storeDir"`
}

func (s *Server) getInfo(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Pull)
	if err != nil {
		return err
	}
	stats, err := s.Index.Stats(r.Context(), c.Name)
	if err != nil {
		return err
	}
	upstreams := []string{}
	for _, k := range s.Upstreams {
		upstreams = append(upstreams, k.String())
	}
	writeJSON(w, http.StatusOK, Info{
		Schema: 1, Name: c.Name, PublicKey: c.Keys[0].String(), Upstreams: upstreams,
		Paths: stats.Paths, NarBytes: stats.NarBytes, StoredBytes: stats.StoredBytes,
		Priority: s.Priority, StoreDir: s.StoreDir,
	})
	return nil
}
