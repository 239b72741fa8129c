package cache_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/nar"
)

// anArchive is an archive of one file, and its compressed bytes.
func anArchive(t *testing.T, content string) (nar.Hash, []byte) {
	t.Helper()
	var plain, packed bytes.Buffer
	w := nar.NewWriter(&plain)
	w.Regular(false, int64(len(content)), strings.NewReader(content))
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z.Write(plain.Bytes())
	z.Close()
	return sha256.Sum256(plain.Bytes()), packed.Bytes()
}

// inParts is an upload in parts to a test's server.
type inParts struct {
	t     *testing.T
	s     *cachetest.Server
	url   string
	token string
}

func newUpload(t *testing.T, s *cachetest.Server, cacheName string, h nar.Hash, name string) inParts {
	return inParts{t, s, s.URL + "/api/v1/caches/" + cacheName + "/uploads/" + h.Nix32() + "/" + name, cachetest.PushToken}
}

func (u inParts) do(method, path string, body []byte) (status int, answer string) {
	u.t.Helper()
	req, err := http.NewRequestWithContext(u.t.Context(), method, u.url+path, bytes.NewReader(body))
	if err != nil {
		u.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+u.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		u.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func (u inParts) want(status int, method, path string, body []byte) string {
	u.t.Helper()
	got, answer := u.do(method, path, body)
	if got != status {
		u.t.Fatalf("%s %s: %d, not %d: %s", method, path, got, status, answer)
	}
	return answer
}

// wantParts wants those parts to be there, by number and size.
func (u inParts) wantParts(sizes map[int]int64) {
	u.t.Helper()
	var got cache.Parts
	if err := json.Unmarshal([]byte(u.want(200, "GET", "", nil)), &got); err != nil {
		u.t.Fatal(err)
	}
	if got.Schema != 1 || got.MaxPartBytes != 32<<20 || len(got.Parts) != len(sizes) {
		u.t.Fatalf("%+v", got)
	}
	for i, p := range got.Parts {
		if sizes[p.Number] != p.Size || i > 0 && got.Parts[i-1].Number >= p.Number {
			u.t.Fatalf("%+v", got)
		}
	}
}

func TestUploadInParts(t *testing.T) {
	t.Parallel()
	s := cachetest.NewServer(t, nil)
	h, packed := anArchive(t, "content of an archive that comes in parts")
	u := newUpload(t, s, "c", h, "one")
	u.wantParts(nil)
	u.want(200, "PUT", "/1", packed[10:20])
	u.want(200, "PUT", "/2", packed[20:])
	u.want(200, "PUT", "/0", []byte("what is replaced"))
	u.want(200, "PUT", "/0", packed[:10])
	u.wantParts(map[int]int64{0: 10, 1: 10, 2: int64(len(packed) - 20)})
	newUpload(t, s, "c", h, "two").wantParts(nil)
	u.want(200, "POST", "", []byte(`{"parts":3}`))
	u.wantParts(nil)
	if n, ok, err := s.Index.Nar(t.Context(), h); err != nil || !ok || n.FileSize != int64(len(packed)) || n.FileHash != sha256.Sum256(packed) {
		t.Fatalf("%+v, %v, %v", n, ok, err)
	}
	wantNoParts(t, s)
	u.want(200, "POST", "", []byte(`{"parts":3}`)) // the answer may have been lost
	u.want(200, "PUT", "/0", packed[:10])
	u.want(200, "DELETE", "", nil)
	u.want(200, "DELETE", "", nil)
	u.wantParts(nil)
}

// wantNoParts wants no part of any upload to be stored.
func wantNoParts(t *testing.T, s *cachetest.Server) {
	t.Helper()
	err := s.Blobs.List(t.Context(), "part-", func(b cache.Blob) error { return fmt.Errorf("%s is left", b.Key) })
	if err != nil {
		t.Error(err)
	}
}

func TestBadParts(t *testing.T) {
	t.Parallel()
	s := cachetest.Start(t, cache.Options{MaxNarBytes: 100 << 20}, nil)
	h, packed := anArchive(t, "content")
	other, _ := anArchive(t, "other content")
	u := newUpload(t, s, "c", h, "one")

	u.want(400, "POST", "", []byte(`{"parts":0}`))
	u.want(400, "POST", "", []byte(`{"parts":1000}`))
	u.want(400, "POST", "", []byte(`x`))
	u.want(409, "POST", "", []byte(`{"parts":1}`))
	for _, n := range []string{"-1", "5", "x", "99999999999999999999"} {
		u.want(400, "PUT", "/"+n, packed)
	}
	u.want(400, "PUT", "/0", nil)
	u.want(413, "PUT", "/0", make([]byte, 32<<20+1))
	for _, name := range []string{"A", "a-b", "a.b", strings.Repeat("a", 65)} {
		newUpload(t, s, "c", h, name).want(400, "GET", "", nil)
	}
	wantNoParts(t, s)

	u.want(200, "PUT", "/1", packed[3:])
	u.want(409, "POST", "", []byte(`{"parts":2}`)) // the first is missing
	u.wantParts(map[int]int64{1: int64(len(packed) - 3)})
	u.want(200, "PUT", "/0", packed[:3])

	wrong := newUpload(t, s, "c", other, "one") // another archive's name
	wrong.want(200, "PUT", "/0", packed)
	wrong.want(400, "POST", "", []byte(`{"parts":1}`))
	wrong.wantParts(nil)
	cut := newUpload(t, s, "c", h, "cut")
	cut.want(200, "PUT", "/0", packed[:len(packed)-1])
	cut.want(400, "POST", "", []byte(`{"parts":1}`))
	if _, ok, err := s.Index.Nar(t.Context(), h); ok || err != nil {
		t.Errorf("a bad archive is stored: %v, %v", ok, err)
	}
	u.want(200, "POST", "", []byte(`{"parts":2}`))
	wantNoParts(t, s)
	s.WantClean(t)
}

// TestPartsOfOthers: neither names nor tokens lead to what is uploaded to another cache; parts count for a cache's quota.
func TestPartsOfOthers(t *testing.T) {
	t.Parallel()
	s := cachetest.Start(t, cache.Options{Tokens: func(token string) (cache.Grant, error) { // each is named like the one cache that it is good for
		return cache.Grant{ID: token, Subject: token, Caches: cache.CacheGrants{{Pattern: token, May: cache.Pull | cache.Push}}}, nil
	}}, nil)
	key, err := nar.GenerateKey("d")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Cache.EnsureCache(t.Context(), "d", key); err != nil {
		t.Fatal(err)
	}
	h, packed := anArchive(t, "secret")
	err = s.Index.UpdateCache(t.Context(), "d", func(c *cache.Cache) error {
		c.MaxBytes = int64(len(packed)) - 1
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c, d := newUpload(t, s, "c", h, "one"), newUpload(t, s, "d", h, "one")
	c.token, d.token = "c", "d"
	c.want(200, "PUT", "/0", packed)
	d.wantParts(nil)
	d.want(409, "POST", "", []byte(`{"parts":1}`))
	d.want(200, "DELETE", "", nil)
	c.wantParts(map[int]int64{0: int64(len(packed))})
	c.token = "d"
	for _, method := range []string{"GET", "POST", "DELETE"} {
		c.want(403, method, "", []byte(`{"parts":1}`))
	}
	c.want(403, "PUT", "/0", packed)
	d.want(507, "PUT", "/0", packed)
	c.token = "c"
	c.want(200, "POST", "", []byte(`{"parts":1}`))
	c.want(200, "POST", "", []byte(`{"parts":1}`))
	d.want(409, "POST", "", []byte(`{"parts":1}`)) // what another cache was sent
}

// TestOldPartsAreSwept, those of uploads that go on are not, and a cache's unfinished uploads are bounded.
func TestOldPartsAreSwept(t *testing.T) {
	t.Parallel()
	s := cachetest.Start(t, cache.Options{MaxNarBytes: 40 << 20}, nil) // two of them with what compression may add: 83 MB
	h, packed := anArchive(t, "content")
	old, running := newUpload(t, s, "c", h, "old"), newUpload(t, s, "c", h, "running")
	big := make([]byte, 32<<20)
	old.want(200, "PUT", "/0", big)
	old.want(200, "PUT", "/1", packed)
	running.want(200, "PUT", "/0", packed)
	yesterday := time.Now().Add(-25 * time.Hour)
	err := filepath.WalkDir(filepath.Join(s.Dir, "nar"), func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			err = os.Chtimes(path, yesterday, yesterday)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	running.want(200, "PUT", "/1", big)
	if status, answer := running.do("PUT", "/2", big); status != 400 {
		t.Fatalf("a part beyond the largest archive: %d, %s", status, answer)
	}
	if status, answer := newUpload(t, s, "c", h, "more").do("PUT", "/0", big); status != 429 {
		t.Fatalf("parts without bound: %d, %s", status, answer)
	}
	running.want(200, "PUT", "/1", packed) // in its own place there is room
	if _, err := s.Cache.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	old.wantParts(nil)
	running.wantParts(map[int]int64{1: int64(len(packed))})
	newUpload(t, s, "c", h, "more").want(200, "PUT", "/0", big)
}
