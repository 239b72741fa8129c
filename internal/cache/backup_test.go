package cache_test

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/sqlite"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestRestore goes back to a copy of the index that was made while the cache served, beside content that is newer in part and lost in part.
func TestRestore(t *testing.T) {
	s := newTenants(t, nil)
	token := s.create(t, "c1", `,"max_bytes":1000000`)
	kept, lost, later := newObject(t, "kept", "kept"), newObject(t, "lost", "lost"), newObject(t, "later", "later")
	s.push(t, token, "c1", kept)
	s.push(t, token, "c1", lost)
	before := s.ask(t, token, "GET", "/c1/"+kept.hash+".narinfo", "")

	file := filepath.Join(s.Dir, "index.sqlite")
	copied := filepath.Join(t.TempDir(), "copy.sqlite")
	if err := sqlite.Backup(t.Context(), file, copied); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(copied); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("private keys are in %v, %v", fi.Mode(), err)
	}
	if err := sqlite.Backup(t.Context(), file, copied); fleet.CodeOf(err) != fleet.CodeState {
		t.Errorf("a copy was overwritten: %v", err)
	}
	if err := sqlite.Backup(t.Context(), file+"x", copied+"x"); fleet.CodeOf(err) != fleet.CodeState {
		t.Errorf("a copy of nothing: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(copied)); err != nil || len(left) != 1 {
		t.Errorf("%v is left, %v", left, err)
	}
	s.push(t, token, "c1", later)
	if err := os.Remove(s.BlobFile(t, lost.info.NarHash)); err != nil {
		t.Fatal(err)
	}

	index, err := sqlite.Open(t.Context(), copied)
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close()
	own := cache.New(cache.Options{Blobs: s.Blobs, Index: index, Tokens: cachetest.Tokens})
	h := httptest.NewServer(own.Handler())
	defer h.Close()
	r := &tenants{Server: s.Server, own: own, url: h.URL}
	all := cachetest.PushToken
	r.ask(t, all, "GET", "/c1/"+kept.hash+".narinfo", "").want(t, 200, before.body) // signed by the same key
	r.ask(t, all, "GET", "/c1/"+kept.info.URL, "").want(t, 200, string(kept.file))
	r.ask(t, all, "GET", "/_api/v1/cache-config/c1", "").want(t, 200, `"max_bytes":1000000`)
	// What is lost is missing, and what came later was never here: either can be pushed.
	for _, o := range []object{lost, later} {
		r.ask(t, all, "GET", "/c1/"+o.hash+".narinfo", "").want(t, 404, "")
		r.ask(t, all, "POST", "/_api/v1/get-missing-paths", `{"cache":"c1","store_path_hashes":["`+o.hash+`"]}`).want(t, 200, o.hash)
		r.push(t, all, "c1", o)
		r.ask(t, all, "GET", "/c1/"+o.info.URL, "").want(t, 200, string(o.file))
	}
}
