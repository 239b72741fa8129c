package cache_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
)

// TestMissingAsksOnce: however many paths are missing whose archives are stored, the index is asked twice and told once.
func TestMissingAsksOnce(t *testing.T) {
	blobs, index, end := cachetest.LocalStorage(t).Open(t)
	t.Cleanup(end)
	var injector cachetest.Injector
	s := cachetest.Start(t, cache.Options{Blobs: blobs, Index: injector.Index(index), MaxNarBytes: 1 << 20}, nil)
	var hashes, nars, stored []string
	for i := range 30 {
		o := newObject(t, fmt.Sprint("p", i), fmt.Sprint("content", i))
		hashes, nars = append(hashes, o.hash), append(nars, o.info.NarHash.String())
		if i%3 > 0 {
			call(t, s, "PUT", "/c/"+o.info.URL, o.file).want(t, 200, "")
			stored = append(stored, o.info.NarHash.String())
		}
	}
	query, err := json.Marshal(map[string]any{"cache": "c", "store_path_hashes": hashes, "nar_hashes": nars})
	must(t, err)
	injector.Arm(0, 0)
	var got struct {
		Missing []string `json:"missing_paths"`
		Stored  []string `json:"stored_nars"`
	}
	must(t, json.Unmarshal([]byte(call(t, s, "POST", "/_api/v1/get-missing-paths", query).body), &got))
	calls := injector.Disarm()
	if want := []string{"Present", "NarsFor", "TouchNars"}; !slices.Equal(slices.DeleteFunc(calls, func(c string) bool { return c == "Caches" || c == "Revoked" }), want) {
		t.Errorf("the index is called: %v", calls)
	}
	if !slices.Equal(got.Missing, hashes) || !slices.Equal(got.Stored, stored) {
		t.Errorf("%+v", got)
	}
}
