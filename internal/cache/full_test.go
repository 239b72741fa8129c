package cache_test

import (
	"bytes"
	"context"
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
// right after another, nor before hosts could say what they need: then it begins as soon as it may. What was freed has room for the upload.
func TestFullCacheIsCollected(t *testing.T) {
	t.Run("alone", func(t *testing.T) { testFull(t, nil) })
	t.Run("in a hub", func(t *testing.T) { testFull(t, func(context.Context) ([]string, error) { return nil, nil }) })
}

func testFull(t *testing.T, roots func(context.Context) ([]string, error)) {
	synctest.Test(t, func(t *testing.T) { // the clock is the test's: nothing here waits
		blobs, index, end := cachetest.LocalStorage(t).Open(t)
		t.Cleanup(end)
		s := cache.New(cache.Options{Blobs: blobs, Index: index, Alone: true, Tokens: cachetest.Tokens, MaxNarBytes: 1 << 20, Roots: roots,
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

		refused := func(o object) {
			t.Helper()
			if status := put(o.info.URL, o.file); status != 507 {
				t.Fatalf("a full cache answers %d", status)
			}
			synctest.Wait()
		}

		unused(o[0])
		time.Sleep(2 * time.Minute)
		if synctest.Wait(); !there(o[0]) {
			t.Fatal("collected before anything was refused")
		}
		refused(o[1])
		if roots != nil {
			time.Sleep(7 * time.Minute)
			if synctest.Wait(); !there(o[0]) {
				t.Fatal("collected before hosts have reported")
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
		}
		if there(o[0]) {
			t.Fatal("no collection began")
		}
		time.Sleep(time.Minute)
		unused(o[1])
		time.Sleep(time.Minute)
		if refused(o[2]); !there(o[1]) {
			t.Error("collected two minutes after the last time")
		}
		time.Sleep(10 * time.Minute)
		if synctest.Wait(); there(o[1]) {
			t.Error("no second collection began")
		}
		time.Sleep(time.Minute)
		if status := put(o[2].info.URL, o[2].file); status != 200 {
			t.Errorf("there is room, and the cache answers %d", status)
		}
	})
}
