package cache_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/local"
	"github.com/garrison-nix/garrison/internal/cache/sqlite"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

// call makes a request with the token that may push.
func call(t *testing.T, s *cachetest.Server, method, path string, body []byte, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "bearer "+cachetest.PushToken)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

func (a answer) want(t *testing.T, status int, text string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.body, text) {
		t.Errorf("got %d %s, not %d with %q", a.status, a.body, status, text)
	}
}

// object is a path of one file, ready to upload.
type object struct {
	info nar.NarInfo
	nar  []byte
	file []byte // compressed
	hash string
}

func newObject(t *testing.T, name, content string, references ...string) object {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	w.Regular(false, int64(len(content)), strings.NewReader(content))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return objectOf(t, name, b.Bytes(), references...)
}

func objectOf(t *testing.T, name string, archive []byte, references ...string) object {
	t.Helper()
	checked, err := nar.Check(bytes.NewReader(archive), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	hash := (strings.Repeat("0", 32) + strings.Map(func(r rune) rune { return '0' + (r % 10) }, name))[len(name):]
	return object{
		nar: archive, file: compress(t, archive), hash: hash,
		info: nar.NarInfo{
			PathInfo: nar.PathInfo{StorePath: "/nix/store/" + hash + "-" + name, NarHash: checked.Hash, NarSize: checked.Size, References: references},
			URL:      "nar/" + checked.Hash.Nix32() + ".nar.zst", Compression: "zstd",
		},
	}
}

func compress(t *testing.T, b []byte, options ...zstd.EOption) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(b, nil)
}

func (o object) put(t *testing.T, s *cachetest.Server) {
	t.Helper()
	call(t, s, "PUT", "/c/"+o.info.URL, o.file).want(t, 200, "")
	call(t, s, "PUT", "/c/"+o.hash+".narinfo", o.info.Encode()).want(t, 200, "")
}

func TestReadingWhatWasWritten(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o := newObject(t, "hello", strings.Repeat("hello ", 1000))
	o.info.References = []string{o.info.StorePath}
	o.info.Sigs = []string{"other:" + strings.Repeat("A", 86) + "==", "c:" + strings.Repeat("A", 86) + "==", "junk"}
	o.put(t, s)

	call(t, s, "GET", "/c/nix-cache-info", nil).want(t, 200, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 41\n")
	a := call(t, s, "GET", "/c/"+o.hash+".narinfo", nil)
	a.want(t, 200, "StorePath: "+o.info.StorePath+"\n")
	info, err := nar.ParseNarInfo([]byte(a.body))
	if err != nil {
		t.Fatal(err)
	}
	if !info.SignedBy(s.Key) || len(info.Sigs) != 2 {
		t.Errorf("signatures: %q", info.Sigs)
	}
	if info.FileSize != int64(len(o.file)) || info.FileHash.IsZero() || info.Compression != "zstd" {
		t.Errorf("%+v", info)
	}
	call(t, s, "HEAD", "/c/"+o.hash+".narinfo", nil).want(t, 200, "")

	whole := call(t, s, "GET", "/c/"+info.URL, nil)
	whole.want(t, 200, string(o.file))
	if got := whole.header.Get("Cache-Control"); !strings.Contains(got, "immutable") {
		t.Errorf("Cache-Control: %q", got)
	}
	if whole.header.Get("Accept-Ranges") != "bytes" || whole.header.Get("Content-Encoding") != "" {
		t.Errorf("Nix cannot resume: %v", whole.header)
	}
	call(t, s, "HEAD", "/c/"+info.URL, nil).want(t, 200, "")
	part := call(t, s, "GET", "/c/"+info.URL, nil, "Range", "bytes=5-", "If-Range", whole.header.Get("ETag"))
	part.want(t, 206, string(o.file[5:]))
}

func TestAbsence(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o := newObject(t, "hello", "hello")
	for path, kind := range map[string]string{
		"/c/" + o.hash + ".narinfo":  "NoSuchObject",
		"/c/" + o.info.URL:           "NoSuchObject",
		"/c/x.narinfo":               "NoSuchObject",
		"/c/nar/x":                   "NoSuchObject",
		"/c/nar/..%2fkeys%2fc":       "NoSuchObject",
		"/c/index.sqlite":            "NoSuchObject",
		"/":                          "NoSuchObject",
		"/d/nix-cache-info":          "NoSuchCache",
		"/_api/v1/cache-config/d":    "NoSuchCache",
		"/d/" + o.hash + ".narinfo":  "NoSuchCache",
		"/api/v1/caches/d":           "NoSuchCache",
		"/_api/v1/get-missing-paths": "NoSuchObject",
	} {
		a := call(t, s, "GET", path, nil)
		if path == "/_api/v1/get-missing-paths" {
			continue // any refusal will do
		}
		a.want(t, 404, kind)
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: absence may be cached: %v", path, a.header)
		}
	}
}

// TestArchiveWithoutPathIsNotServed: what was not claimed by a path may be another cache's secret.
func TestArchiveWithoutPathIsNotServed(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o := newObject(t, "hello", "hello")
	call(t, s, "PUT", "/c/"+o.info.URL, o.file).want(t, 200, "")
	call(t, s, "GET", "/c/"+o.info.URL, nil).want(t, 404, "NoSuchObject")
}

func TestPushNeedsPermission(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o := newObject(t, "hello", "hello")
	for _, token := range []string{"", "bearer wrong", "Basic d3Jvbmc="} {
		for path, method := range map[string]string{"/c/" + o.info.URL: "PUT", "/c/" + o.hash + ".narinfo": "PUT", "/_api/v1/get-missing-paths": "POST"} {
			a := call(t, s, method, path, []byte(`{"cache":"c","store_path_hashes":[]}`), "Authorization", token)
			a.want(t, 401, `{"code":401,"error":"Unauthorized"`)
		}
	}
	basic := "Basic OnB1c2gtdG9rZW4=" // ":push-token"
	call(t, s, "PUT", "/c/"+o.info.URL, o.file, "Authorization", basic).want(t, 200, "")
}

func TestBadArchivesLeaveNothing(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o := newObject(t, "hello", strings.Repeat("hello ", 50_000))
	flipped := bytes.Clone(o.nar)
	flipped[200] ^= 1
	large := make([]byte, 70<<20)
	wide := compress(t, make([]byte, 20<<20), zstd.WithWindowSize(16<<20), zstd.WithSingleSegment(false))
	for name, c := range map[string]struct {
		body   []byte
		status int
		text   string
	}{
		"empty":             {nil, 400, "refused"},
		"not compressed":    {[]byte(strings.Repeat("hello", 100)), 400, "refused"},
		"cut":               {o.file[:len(o.file)/2], 400, "upload"},
		"one byte short":    {o.file[:len(o.file)-1], 400, "upload"},
		"garbage after it":  {append(bytes.Clone(o.file), "garbage"...), 400, "refused"},
		"not a NAR":         {compress(t, []byte("hello")), 400, "well-formed"},
		"two archives":      {append(bytes.Clone(o.file), o.file...), 400, "well-formed"},
		"another archive":   {compress(t, flipped), 400, "NarHash"},
		"a bomb":            {compress(t, append(bytes.Clone(bombHead(1<<40)), large...)), 413, "larger"},
		"too wide a window": {wide, 400, "window"},
	} {
		a := call(t, s, "PUT", "/c/"+o.info.URL, c.body)
		a.want(t, c.status, c.text)
		s.WantClean(t)
		s.WantEmpty(t)
		if t.Failed() {
			t.Fatalf("in case %q", name)
		}
	}
	o.put(t, s)
}

// bombHead starts an archive of a file with that many bytes.
func bombHead(size int64) []byte {
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	w.Regular(false, 0, strings.NewReader(""))
	w.Close()
	head := b.Bytes()[:b.Len()-24] // without the length and the last ")"
	return append(head, byte(size), byte(size>>8), byte(size>>16), byte(size>>24), byte(size>>32), byte(size>>40), 0, 0)
}

func TestBrokenConnectionLeavesNothing(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o := newObject(t, "hello", "hello")
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PUT /c/%s HTTP/1.1\r\nHost: c\r\nAuthorization: bearer %s\r\nContent-Length: %d\r\n\r\n%s",
		o.info.URL, cachetest.PushToken, len(o.file), o.file[:20])
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	s.Close() // waits for the handler
	s.WantClean(t)
	s.WantEmpty(t)
}

func TestBadPathsAreRefused(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o, p := newObject(t, "hello", "hello"), newObject(t, "other", "other")
	put := func(name string, change func(*nar.NarInfo), status int, text string) {
		t.Helper()
		info := o.info
		if change != nil {
			change(&info)
		}
		call(t, s, "PUT", "/c/"+name+".narinfo", info.Encode()).want(t, status, text)
	}
	put(o.hash, nil, 400, "upload it as nar/")
	call(t, s, "PUT", "/c/"+o.info.URL, o.file).want(t, 200, "")
	put(p.hash, nil, 400, "was uploaded as")
	put("x", nil, 400, "narinfo")
	put(o.hash, func(i *nar.NarInfo) { i.NarSize++ }, 400, "bytes, not")
	put(o.hash, func(i *nar.NarInfo) { i.NarHash = p.info.NarHash }, 400, "is not here")
	put(o.hash, func(i *nar.NarInfo) { i.References = []string{p.info.StorePath} }, 400, p.info.StorePath)
	put(o.hash, func(i *nar.NarInfo) { i.StorePath = strings.Replace(i.StorePath, "/nix", "/gnu", 1) }, 400, "/gnu/store")
	call(t, s, "PUT", "/c/"+o.hash+".narinfo", []byte("nonsense")).want(t, 400, "newline")
	call(t, s, "PUT", "/c/"+o.hash+".narinfo", make([]byte, 2<<20)).want(t, 413, "bytes")
	call(t, s, "GET", "/c/"+o.hash+".narinfo", nil).want(t, 404, "NoSuchObject")
	put(o.hash, nil, 200, "")
}

func TestFirstUploadWins(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	first, second := newObject(t, "hello", "first"), newObject(t, "hello", "second")
	first.put(t, s)
	before := call(t, s, "GET", "/c/"+first.hash+".narinfo", nil)
	stored, err := os.Stat(s.BlobFile(t, first.info.NarHash))
	if err != nil {
		t.Fatal(err)
	}
	first.put(t, s)
	call(t, s, "PUT", "/c/"+second.info.URL, second.file).want(t, 200, "")
	call(t, s, "PUT", "/c/"+second.hash+".narinfo", second.info.Encode()).want(t, 409, "the first upload wins")
	call(t, s, "GET", "/c/"+first.hash+".narinfo", nil).want(t, 200, before.body)
	again, err := os.Stat(s.BlobFile(t, first.info.NarHash))
	if err != nil || !os.SameFile(stored, again) {
		t.Error("the archive was rewritten", err)
	}
}

func TestLostArchiveDoesNotBlockAnotherBuild(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	first, second := newObject(t, "hello", "first"), newObject(t, "hello", "second")
	first.put(t, s)
	if err := os.Remove(s.BlobFile(t, first.info.NarHash)); err != nil {
		t.Fatal(err)
	}
	call(t, s, "GET", "/c/"+first.hash+".narinfo", nil).want(t, 404, "NoSuchObject")
	call(t, s, "GET", "/c/"+first.info.URL, nil).want(t, 404, "NoSuchObject")
	second.put(t, s)
	call(t, s, "GET", "/c/"+first.hash+".narinfo", nil).want(t, 200, second.info.NarHash.String())
}

func TestStoredAgainWithAnotherCompression(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o := newObject(t, "hello", strings.Repeat("hello world ", 5000))
	o.put(t, s)
	if err := os.Remove(s.BlobFile(t, o.info.NarHash)); err != nil {
		t.Fatal(err)
	}
	o.file = compress(t, o.nar, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderCRC(false))
	o.put(t, s)
	info, err := nar.ParseNarInfo([]byte(call(t, s, "GET", "/c/"+o.hash+".narinfo", nil).body))
	if err != nil || info.FileSize != int64(len(o.file)) {
		t.Errorf("%d bytes are announced, %d were stored, %v", info.FileSize, len(o.file), err)
	}
}

func TestMissingPaths(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o, p := newObject(t, "hello", "hello"), newObject(t, "other", "other")
	o.put(t, s)
	ask := func(cacheName string, hashes ...string) answer {
		b, err := json.Marshal(map[string]any{"cache": cacheName, "store_path_hashes": hashes})
		if err != nil {
			t.Fatal(err)
		}
		return call(t, s, "POST", "/_api/v1/get-missing-paths", b)
	}
	ask("c", o.hash, p.hash).want(t, 200, `{"missing_paths":["`+p.hash+`"]}`)
	ask("c").want(t, 200, `{"missing_paths":[]}`)
	call(t, s, "PUT", "/c/"+p.info.URL, p.file).want(t, 200, "")
	withNars := func(nars ...string) answer {
		b, err := json.Marshal(map[string]any{"cache": "c", "store_path_hashes": []string{o.hash, p.hash}, "nar_hashes": nars})
		if err != nil {
			t.Fatal(err)
		}
		return call(t, s, "POST", "/_api/v1/get-missing-paths", b)
	}
	withNars(o.info.NarHash.String(), p.info.NarHash.String()).want(t, 200, `{"missing_paths":["`+p.hash+`"],"stored_nars":["`+p.info.NarHash.String()+`"]}`)
	withNars(p.info.NarHash.String(), strings.Replace(p.info.NarHash.String(), ":", ":0", 1)).want(t, 400, "RequestError")
	withNars(p.info.NarHash.String()).want(t, 400, "1 NarHashes for 2 paths")
	ask("d").want(t, 404, "NoSuchCache")
	ask("c", "x").want(t, 400, "RequestError")
	ask("c", make([]string, 100_001)...).want(t, 400, "at most 100000")
	call(t, s, "POST", "/_api/v1/get-missing-paths", []byte("{")).want(t, 400, "JSON")
	call(t, s, "POST", "/_api/v1/get-missing-paths", make([]byte, 9<<20)).want(t, 413, "RequestError")
}

func TestInfoAndConfig(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o := newObject(t, "hello", "hello")
	o.put(t, s)
	var info map[string]any
	if err := json.Unmarshal([]byte(call(t, s, "GET", "/api/v1/caches/c", nil).body), &info); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]any{"schema": 1.0, "name": "c", "publicKey": s.Key.String(), "paths": 1.0, "narBytes": float64(len(o.nar)), "storedBytes": float64(len(o.file)), "priority": 41.0, "public": true} {
		if info[k] != want {
			t.Errorf("%s is %v, not %v", k, info[k], want)
		}
	}
	var config map[string]any
	if err := json.Unmarshal([]byte(call(t, s, "GET", "/_api/v1/cache-config/c", nil).body), &config); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]any{"substituter_endpoint": s.URL + "/c", "api_endpoint": s.URL + "/", "public_key": s.Key.String(), "is_public": true, "store_dir": "/nix/store"} {
		if config[k] != want {
			t.Errorf("%s is %v, not %v", k, config[k], want)
		}
	}
}

func TestConcurrentUploads(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	same := newObject(t, "same", strings.Repeat("same", 10_000))
	var all sync.WaitGroup
	for i := range 8 {
		own := newObject(t, fmt.Sprint("own", i), fmt.Sprint("own", i))
		mine := same
		mine.file = compress(t, same.nar, zstd.WithEncoderLevel(zstd.EncoderLevel(1+i%4)))
		all.Go(func() {
			mine.put(t, s)
			own.put(t, s)
		})
	}
	all.Wait()
	s.WantClean(t)
	info, err := nar.ParseNarInfo([]byte(call(t, s, "GET", "/c/"+same.hash+".narinfo", nil).body))
	if err != nil {
		t.Fatal(err)
	}
	if got := call(t, s, "GET", "/c/"+info.URL, nil); int64(len(got.body)) != info.FileSize {
		t.Errorf("%d bytes are announced, %d served", info.FileSize, len(got.body))
	}
}

// brokenDisk fails to store.
type brokenDisk struct{ cache.Blobs }

func (brokenDisk) Put(context.Context, string, func(io.Writer) error) error {
	return errors.New("the disk is on fire at /secret/place")
}

func TestFailuresInsideAreNotTold(t *testing.T) {
	dir := t.TempDir()
	store, err := local.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	index, err := sqlite.Open(t.Context(), filepath.Join(dir, "index.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close()
	all := func(string) (cache.Grant, error) {
		return cache.Grant{ID: "all", Caches: cache.CacheGrants{{Pattern: "*", May: cache.Everything}}}, nil
	}
	srv := cache.New(cache.Options{Blobs: brokenDisk{store}, Index: index, Tokens: all})
	key, err := nar.GenerateKey("c")
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.EnsureCache(t.Context(), "c", key); err != nil {
		t.Fatal(err)
	}
	if err := srv.EnsureCache(t.Context(), "../c", key); fleet.CodeOf(err) != fleet.CodeInvalid {
		t.Error(err)
	}
	o := newObject(t, "hello", "hello")
	w := httptest.NewRecorder()
	req := httptest.NewRequest("PUT", "/c/"+o.info.URL, bytes.NewReader(o.file))
	req.SetBasicAuth("", "any")
	srv.Handler().ServeHTTP(w, req)
	if w.Code != 500 || strings.Contains(w.Body.String(), "secret") {
		t.Error(w.Code, w.Body)
	}
	other, err := nar.GenerateKey("c")
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.EnsureCache(t.Context(), "c", other); err != nil {
		t.Errorf("the index has the key that counts, and another file is no reason to stop: %v", err)
	}
	half := cache.Cache{Name: "half", Keys: []cache.Key{{Public: key.Public()}}}
	if err := index.CreateCache(t.Context(), half); err != nil {
		t.Fatal(err)
	}
	if err := srv.EnsureCache(t.Context(), "half", other); fleet.CodeOf(err) != fleet.CodeKey {
		t.Errorf("another key: %v", err)
	}
	if err := srv.EnsureCache(t.Context(), "half", key); err != nil {
		t.Error(err)
	}
}
