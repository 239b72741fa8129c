package cache_test

import (
	"bytes"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/nar"
)

// TestFullCacheIsCollected: an upload that is refused because the cache is full has a collection begin, though its time has not come, but not one
// right after another. What was freed has room for the upload.
func TestFullCacheIsCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock is the test's: nothing here waits
		blobs, index, end := cachetest.LocalStorage(t).Open(t)
		t.Cleanup(end)
		s := cache.New(cache.Options{Blobs: blobs, Index: index, Alone: true, Tokens: cachetest.Tokens, MaxNarBytes: 1 << 20,
			Retention: cache.Retention{Unused: 30 * 24 * time.Hour}, CollectEvery: 10_000 * time.Hour})
		key, err := nar.GenerateKey("c")
		must(t, err)
		must(t, s.EnsureCache(t.Context(), "c", key))
		put := func(path string, body []byte) int {
			r := httptest.NewRequest("PUT", "/c/"+path, bytes.NewReader(body))
			r.Header.Set("Authorization", "bearer "+cachetest.PushToken)
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			return w.Code
		}
		// unused puts in a path that nobody needs any more.
		unused := func(o object) {
			t.Helper()
			n := cache.Nar{NarHash: o.info.NarHash, NarSize: o.info.NarSize, FileSize: int64(len(o.file)), Blob: o.hash + "-blob"}
			must(t, blobs.Put(t.Context(), n.Blob, func(w io.Writer) error { _, err := w.Write(o.file); return err }))
			must(t, index.PutNar(t.Context(), n, ""))
			path := cache.Path{Cache: "c", StorePath: o.info.StorePath, NarHash: o.info.NarHash, NarInfo: o.info.Encode()}
			_, err := index.PutPaths(t.Context(), []cache.NewPath{{Path: path}}, time.Now().Add(-50*24*time.Hour))
			must(t, err)
		}
		there := func(o object) bool { _, ok := live(t, index)[o.info.StorePath]; return ok }
		var o [3]object
		for i := range o {
			o[i] = newObject(t, "path", strings.Repeat(string(rune('a'+i)), 1000))
		}
		must(t, index.UpdateCache(t.Context(), "c", func(c *cache.Cache) error { c.MaxBytes = int64(len(o[0].file)) * 3 / 2; return nil }))
		go s.Run(t.Context())

		unused(o[0])
		time.Sleep(time.Hour)
		if synctest.Wait(); !there(o[0]) {
			t.Fatal("collected before anything was refused")
		}
		if status := put(o[1].info.URL, o[1].file); status != 507 {
			t.Fatalf("a full cache answers %d", status)
		}
		if synctest.Wait(); there(o[0]) {
			t.Fatal("no collection began")
		}
		time.Sleep(time.Minute)
		unused(o[1])
		time.Sleep(time.Minute)
		if status := put(o[2].info.URL, o[2].file); status != 507 {
			t.Fatalf("a full cache answers %d", status)
		}
		if synctest.Wait(); !there(o[1]) {
			t.Error("collected two minutes after the last time")
		}
		time.Sleep(time.Hour)
		if status := put(o[2].info.URL, o[2].file); status != 507 {
			t.Fatalf("a full cache answers %d", status)
		}
		if synctest.Wait(); there(o[1]) {
			t.Error("no second collection began")
		}
		time.Sleep(time.Minute)
		if status := put(o[2].info.URL, o[2].file); status != 200 {
			t.Errorf("there is room, and the cache answers %d", status)
		}
	})
}
