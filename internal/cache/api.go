package cache

import (
	"context"
	"maps"
	"net/http"
	"slices"
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
	missing, nars := []string{}, []string{}
	for i, h := range query.Hashes {
		if there[i] {
			continue
		}
		missing = append(missing, h)
		if len(query.Nars) > 0 {
			nars = append(nars, query.Nars[i])
		}
	}
	answer := map[string][]string{"missing_paths": missing}
	if len(query.Nars) > 0 {
		if answer["stored_nars"], err = s.areStored(r.Context(), c, nars); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// areStored returns those of the archives that need not be sent for paths of c, and keeps them from being collected before those come.
func (s *Server) areStored(ctx context.Context, c *Cache, narHashes []string) ([]string, error) {
	hashes := make([]nar.Hash, len(narHashes))
	for i, h := range narHashes {
		var err error
		if hashes[i], err = nar.ParseHash(h); err != nil {
			return nil, badRequest("%v", err)
		}
	}
	list := []string{}
	stored, err := s.storedFor(ctx, c, hashes)
	if err != nil || len(stored) == 0 {
		return list, err
	}
	for i, h := range hashes {
		if _, ok := stored[h]; ok {
			list = append(list, narHashes[i])
		}
	}
	return list, s.Index.TouchNars(ctx, slices.Collect(maps.Keys(stored)), time.Now())
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
