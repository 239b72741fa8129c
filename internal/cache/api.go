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
			ok, err = s.isThere(r.Context(), c, record)
		}
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		missing = append(missing, h)
		if len(query.Nars) > 0 {
			if stored, err = s.addStored(r.Context(), c, stored, query.Nars[i]); err != nil {
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

func (s *Server) addStored(ctx context.Context, c *Cache, to []string, narHash string) ([]string, error) {
	hash, err := nar.ParseHash(narHash)
	if err != nil {
		return to, badRequest("%v", err)
	}
	ok, err := s.stored(ctx, hash)
	if ok {
		ok, err = s.mayHave(ctx, c, hash)
	}
	if err != nil || !ok {
		return to, err
	}
	return append(to, narHash), s.Index.TouchNar(ctx, hash, time.Now())
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
