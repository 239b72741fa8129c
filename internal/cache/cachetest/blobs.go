// Package cachetest holds the suites that every implementation of cache.Blobs
// and cache.Index passes, and what tests of a whole cache need: a server on
// loopback, and store paths made by the Nix that is installed.
package cachetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
)

// Blobs runs the suite of cache.Blobs; open returns an empty one.
func Blobs(t *testing.T, open func(t *testing.T) cache.Blobs) {
	for name, f := range map[string]func(*testing.T, cache.Blobs){
		"put then open":          testPutOpen,
		"absent":                 testAbsent,
		"bad keys":               testBadKeys,
		"failed put":             testFailedPut,
		"invisible until done":   testInvisible,
		"replaced at once":       testReplaced,
		"canceled":               testCanceledPut,
		"concurrent, same key":   testConcurrentPut,
		"seek":                   testSeek,
		"nothing and many bytes": testSizes,
		"delete":                 testDelete,
		"list":                   testList,
		"all at once":            testAllAtOnce,
	} {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
}

const key = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73.nar.zst"

// PutBlob stores content or fails the test.
func PutBlob(t *testing.T, b cache.Blobs, key, content string) {
	t.Helper()
	if err := b.Put(t.Context(), key, writing(content)); err != nil {
		t.Fatal(err)
	}
}

func writing(content string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, content)
		return err
	}
}

func wantContent(t *testing.T, b cache.Blobs, key, want string) {
	t.Helper()
	r, err := b.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != want {
		t.Fatalf("got %.40q, %v, not %.40q", got, err, want)
	}
	size, ok, err := b.Stat(t.Context(), key)
	if err != nil || !ok || size != int64(len(want)) {
		t.Fatalf("stat says %d, %v, %v", size, ok, err)
	}
}

func wantAbsent(t *testing.T, b cache.Blobs, key string) {
	t.Helper()
	if _, ok, err := b.Stat(t.Context(), key); ok || err != nil {
		t.Fatalf("stat says %v, %v", ok, err)
	}
	if _, err := b.Open(t.Context(), key); !errors.Is(err, cache.ErrNotFound) {
		t.Fatalf("open says %v", err)
	}
}

func testPutOpen(t *testing.T, b cache.Blobs) {
	PutBlob(t, b, key, "content")
	wantContent(t, b, key, "content")
	PutBlob(t, b, "zz9.x-y", "other")
	wantContent(t, b, "zz9.x-y", "other")
	wantContent(t, b, key, "content")
}

func testAbsent(t *testing.T, b cache.Blobs) { wantAbsent(t, b, key) }

func testBadKeys(t *testing.T, b cache.Blobs) {
	for _, k := range []string{"", "a", "ab", "../../x", "a/b", ".ab", "-ab", "ABC", "a b", "abc\n", "abc\x00", strings.Repeat("a", 129)} {
		if err := b.Put(t.Context(), k, writing("x")); err == nil {
			t.Errorf("put of %q succeeded", k)
		}
		if _, err := b.Open(t.Context(), k); err == nil || errors.Is(err, cache.ErrNotFound) {
			t.Errorf("open of %q: %v", k, err)
		}
		if _, _, err := b.Stat(t.Context(), k); err == nil {
			t.Errorf("stat of %q succeeded", k)
		}
		if err := b.Delete(t.Context(), k); err == nil {
			t.Errorf("delete of %q succeeded", k)
		}
	}
}

func testFailedPut(t *testing.T, b cache.Blobs) {
	broken := errors.New("broken")
	fail := func(w io.Writer) error {
		if _, err := io.WriteString(w, "half"); err != nil {
			return err
		}
		return broken
	}
	if err := b.Put(t.Context(), key, fail); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	wantAbsent(t, b, key)
	PutBlob(t, b, key, "whole")
	if err := b.Put(t.Context(), key, fail); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	wantContent(t, b, key, "whole")
}

func testInvisible(t *testing.T, b cache.Blobs) {
	err := b.Put(t.Context(), key, func(w io.Writer) error {
		if _, err := io.WriteString(w, "content"); err != nil {
			return err
		}
		wantAbsent(t, b, key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, key, "content")
}

func testReplaced(t *testing.T, b cache.Blobs) {
	PutBlob(t, b, key, "old")
	r, err := b.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	PutBlob(t, b, key, "newer")
	wantContent(t, b, key, "newer")
	if got, err := io.ReadAll(r); err != nil || string(got) != "old" {
		t.Errorf("a reader from before got %q, %v", got, err)
	}
}

func testCanceledPut(t *testing.T, b cache.Blobs) {
	ctx, cancel := context.WithCancel(t.Context())
	err := b.Put(ctx, key, func(w io.Writer) error {
		_, err := io.WriteString(w, "content")
		cancel()
		return err
	})
	switch {
	case err == nil: // it was quicker
		wantContent(t, b, key, "content")
	case errors.Is(err, context.Canceled):
		wantAbsent(t, b, key)
	default:
		t.Fatal(err)
	}
}

func testConcurrentPut(t *testing.T, b cache.Blobs) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			content := strings.Repeat(fmt.Sprint(i), 100_000)
			if err := b.Put(t.Context(), key, writing(content)); err != nil {
				t.Error(err)
			}
			if err := b.Put(t.Context(), fmt.Sprintf("key-%d", i), writing(content)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	r, err := b.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || len(got) != 100_000 || bytes.Count(got, got[:1]) != len(got) {
		t.Fatalf("%d bytes of several uploads, %v", len(got), err)
	}
	for i := range 8 {
		wantContent(t, b, fmt.Sprintf("key-%d", i), strings.Repeat(fmt.Sprint(i), 100_000))
	}
}

func testSeek(t *testing.T, b cache.Blobs) {
	PutBlob(t, b, key, "0123456789")
	r, err := b.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := r.Seek(0, io.SeekEnd); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := r.Seek(-4, io.SeekCurrent); n != 6 || err != nil {
		t.Fatal(n, err)
	}
	if got, err := io.ReadAll(r); string(got) != "6789" || err != nil {
		t.Fatal(string(got), err)
	}
}

func testSizes(t *testing.T, b cache.Blobs) {
	PutBlob(t, b, key, "")
	wantContent(t, b, key, "")
	large := strings.Repeat("0123456789abcdef", 1<<18)
	PutBlob(t, b, key, large)
	wantContent(t, b, key, large)
}

func testDelete(t *testing.T, b cache.Blobs) {
	must(t, b.Delete(t.Context(), key))
	content := strings.Repeat("0123456789abcdef", 1<<18)
	PutBlob(t, b, key, content)
	PutBlob(t, b, "other", "other")
	r, err := b.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	must(t, b.Delete(t.Context(), key))
	wantAbsent(t, b, key)
	wantContent(t, b, "other", "other")
	wantKeys(t, b, "", "other")
	if got, err := io.ReadAll(r); err != nil || string(got) != content[16:] {
		t.Errorf("a reader from before got %d bytes, %v", len(got), err)
	}
	PutBlob(t, b, key, "again")
	wantContent(t, b, key, "again")
}

// keysOf lists the keys with that prefix, in order.
func keysOf(t *testing.T, b cache.Blobs, prefix string) []string {
	t.Helper()
	keys := []string{}
	must(t, b.List(t.Context(), prefix, func(blob cache.Blob) error {
		keys = append(keys, blob.Key)
		return nil
	}))
	slices.Sort(keys)
	return keys
}

func wantKeys(t *testing.T, b cache.Blobs, prefix string, want ...string) {
	t.Helper()
	if got := keysOf(t, b, prefix); !slices.Equal(got, want) {
		t.Errorf("with %q there are %q, not %q", prefix, got, want)
	}
}

func testList(t *testing.T, b cache.Blobs) {
	wantKeys(t, b, "")
	began := time.Now()
	for i := range 5 {
		PutBlob(t, b, fmt.Sprintf("part-%d", i), strings.Repeat("x", i))
	}
	PutBlob(t, b, key, "content")
	err := b.Put(t.Context(), "part-9", func(w io.Writer) error {
		if _, err := io.WriteString(w, strings.Repeat("x", 1<<20)); err != nil {
			return err
		}
		wantKeys(t, b, "part-9")
		return io.ErrUnexpectedEOF
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	wantKeys(t, b, "", key, "part-0", "part-1", "part-2", "part-3", "part-4")
	wantKeys(t, b, "0", key)
	wantKeys(t, b, "pa", "part-0", "part-1", "part-2", "part-3", "part-4")
	wantKeys(t, b, "part-3", "part-3")
	for _, prefix := range []string{"part-33", "part-3/", "../", "zz", "*", "Part"} {
		wantKeys(t, b, prefix)
	}
	must(t, b.List(t.Context(), "part-4", func(blob cache.Blob) error {
		if age := blob.StoredAt.Sub(began).Abs(); blob.Size != 4 || age > time.Hour {
			t.Errorf("%+v, %v after it was stored", blob, age)
		}
		return nil
	}))
	broken, calls := errors.New("broken"), 0
	err = b.List(t.Context(), "", func(cache.Blob) error { calls++; return broken })
	if !errors.Is(err, broken) || calls != 1 {
		t.Errorf("after an error it went on: %d calls, %v", calls, err)
	}
	must(t, b.List(t.Context(), "part-", func(blob cache.Blob) error { return b.Delete(t.Context(), blob.Key) }))
	wantKeys(t, b, "", key)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.List(ctx, "", func(cache.Blob) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// testAllAtOnce puts, reads, lists and deletes at the same time: what is read or listed is whole.
func testAllAtOnce(t *testing.T, b cache.Blobs) {
	content := func(i int) string { return strings.Repeat(fmt.Sprint(i), 10_000) }
	var all sync.WaitGroup
	for i := range 6 {
		k := fmt.Sprintf("key-%d", i%3) // two at each
		all.Go(func() {
			for range 5 {
				if err := b.Put(t.Context(), k, writing(content(i%3))); err != nil {
					t.Error(err)
				}
				if err := b.Delete(t.Context(), k); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			for range 5 {
				if r, err := b.Open(t.Context(), k); err == nil {
					got, err := io.ReadAll(r)
					if string(got) != content(i%3) || r.Close() != nil {
						t.Errorf("read %d bytes, %v", len(got), err)
					}
				} else if !errors.Is(err, cache.ErrNotFound) {
					t.Error(err)
				}
				err := b.List(t.Context(), "key-", func(blob cache.Blob) error {
					if blob.Size != 10_000 {
						t.Errorf("%+v is listed", blob)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	wantKeys(t, b, "")
}
