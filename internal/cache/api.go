package cache

import (
	"context"
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
	if err := s.readJSON(w, r, maxQueryBytes, &query); err != nil {
		return err
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
	if len(query.Nars) > 0 && len(query.Nars) != len(query.Hashes) {
		return badRequest("%d NarHashes for %d paths", len(query.Nars), len(query.Hashes))
	}
	there, err := s.areThere(r.Context(), c, query.Hashes)
	if err != nil {
		return err
	}
	missing, stored := []string{}, []string{}
	for i, h := range query.Hashes {
		if there[i] {
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

func (s *Server) addStored(ctx context.Context, c *Cache, to []string, narHash string) ([]string, error) {
	hash, err := nar.ParseHash(narHash)
	if err != nil {
		return to, badRequest("%v", err)
	}
	_, ok, err := s.stored(ctx, hash)
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
