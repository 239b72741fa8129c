package cache_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/minio/minio-go/v7"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/local"
	"github.com/garrison-nix/garrison/internal/cache/postgres"
	"github.com/garrison-nix/garrison/internal/cache/s3"
	"github.com/garrison-nix/garrison/internal/cache/sqlite"
	"github.com/garrison-nix/garrison/internal/nar"
	pg "github.com/garrison-nix/garrison/internal/postgres"
)

var lab cachetest.Lab

func TestMain(m *testing.M) {
	defer lab.Stop()
	m.Run()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// storage is one of each kind, and how many uploads in progress it has.
type storage struct {
	blobs      cache.Blobs
	index      cache.Index
	unfinished func() int
}

func localBlobs(t *testing.T, s *storage) {
	dir := filepath.Join(t.TempDir(), "blobs")
	b, err := local.Open(dir)
	check(t, err)
	t.Cleanup(func() { check(t, b.Close()) })
	s.blobs, s.unfinished = b, func() int {
		left, err := filepath.Glob(filepath.Join(dir, "tmp", "*"))
		check(t, err)
		return len(left)
	}
}

func s3Blobs(t *testing.T, s *storage) {
	c := lab.Bucket(t)
	b, err := s3.Open(t.Context(), c)
	check(t, err)
	s.blobs, s.unfinished = b, func() int {
		list, err := minio.Core{Client: lab.S3(t)}.ListMultipartUploads(t.Context(), c.Bucket, "", "", "", "", 1000)
		check(t, err)
		return len(list.Uploads)
	}
}

func sqliteIndex(t *testing.T, s *storage) {
	x, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "index.sqlite"))
	check(t, err)
	t.Cleanup(func() { check(t, x.Close()) })
	s.index = x
}

func postgresIndex(t *testing.T, s *storage) { s.index = postgresAt(t, lab.PostgresURL(t)) }

func postgresAt(t *testing.T, url string) cache.Index {
	x, err := postgres.Open(t.Context(), pg.Config{URL: url})
	check(t, err)
	t.Cleanup(func() { check(t, x.Close()) })
	return x
}

// TestFaults has each call that a push and a pull make of the storage go wrong in each way, one at a time: whatever the
// server answered 200 to is true, nothing is half stored, and the same push succeeds afterwards.
func TestFaults(t *testing.T) {
	for blobs, makeBlobs := range map[string]func(*testing.T, *storage){"local": localBlobs, "s3": s3Blobs} {
		for index, makeIndex := range map[string]func(*testing.T, *storage){"sqlite": sqliteIndex, "postgres": postgresIndex} {
			t.Run(blobs+" and "+index, func(t *testing.T) {
				t.Parallel()
				w := &faultWorld{}
				makeBlobs(t, &w.storage)
				makeIndex(t, &w.storage)
				w.server = cachetest.Start(t, cache.Options{Blobs: w.injector.Blobs(w.blobs), Index: w.injector.Index(w.index), MaxNarBytes: 1 << 20}, nil)
				w.everyFault(t)
			})
		}
	}
}

type faultWorld struct {
	storage
	injector cachetest.Injector
	server   *cachetest.Server
	runs     int
}

func (w *faultWorld) everyFault(t *testing.T) {
	w.injector.Arm(0, 0)
	if got := w.run(t, w.closure(t), nil); slices.Contains(got, false) {
		t.Fatalf("without a fault: %v", got)
	}
	calls, met := w.injector.Disarm(), map[string]bool{}
	for name, fault := range cachetest.Faults {
		for n, call := range calls {
			if !fault.Meets(call) {
				continue
			}
			w.oneFault(t, fault, n)
			met[call+" "+name] = true
			if t.Failed() {
				t.Fatalf("when call %d, %s, %s", n, call, name)
			}
		}
	}
	for _, want := range []string{"Put short", "Put vanishes", "Open corrupt", "PutPaths fails after", "Stat stalls", "Lookup fails", "NarOf stalls", "PutNar fails after"} {
		if !met[want] {
			t.Errorf("%s: no call met that", want)
		}
	}
}

// closure is three paths that no run had before, each of which refers to the one before. The last is pushed as Attic's client does, the others' descriptions come together.
func (w *faultWorld) closure(t *testing.T) []object {
	w.runs++
	text := fmt.Sprint(w.runs, strings.Repeat(" content", 100))
	lib := newObject(t, fmt.Sprintf("lib-%d", w.runs), "lib "+text)
	app := newObject(t, fmt.Sprintf("app-%d", w.runs), "app "+text, lib.info.StorePath)
	attic := newObject(t, fmt.Sprintf("attic-%d", w.runs), "attic "+text, app.info.StorePath)
	attic.file = nil // the server compresses it
	return []object{lib, app, attic}
}

func (w *faultWorld) oneFault(t *testing.T, fault cachetest.Fault, n int) {
	paths := w.closure(t)
	stalled := w.injector.Arm(fault, n)
	promised := w.run(t, paths, stalled)
	w.injector.Disarm()
	for i, o := range paths {
		if promised[i] && !w.pulled(t.Context(), t, o, false) {
			t.Errorf("%s is not there, although its push was answered with 200", o.info.StorePath)
		}
	}
	w.nothingHalf(t, paths)
	if got := w.run(t, paths, nil); slices.Contains(got, false) {
		t.Errorf("pushed again: %v", got)
	}
	for _, o := range paths {
		if !w.pulled(t.Context(), t, o, false) {
			t.Errorf("%s is not there after it was pushed again", o.info.StorePath)
		}
	}
}

// run pushes and pulls as a client would that does not look back: for each path it returns whether its push was answered with 200.
// When something stalls, the request is given up.
func (w *faultWorld) run(t *testing.T, paths []object, stalled <-chan struct{}) (promised []bool) {
	t.Helper()
	request := func(f func(ctx context.Context) bool) bool {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan bool)
		go func() { done <- f(ctx) }()
		select {
		case <-stalled:
			stalled = nil // only once
			cancel()
			return <-done
		case ok := <-done:
			return ok
		}
	}
	request(func(ctx context.Context) bool { return w.missing(ctx, paths) })
	var together []object
	ok := true
	for _, o := range paths {
		if o.file != nil {
			together = append(together, o)
			ok = request(func(ctx context.Context) bool { return w.send(ctx, "/c/"+o.info.URL, o.file) }) && ok
		}
	}
	ok = request(func(ctx context.Context) bool { return w.sendInfos(ctx, together) }) && ok
	for _, o := range paths {
		if o.file != nil {
			promised = append(promised, ok)
		} else {
			promised = append(promised, request(func(ctx context.Context) bool { return w.uploadPath(ctx, t, o) }))
		}
	}
	for _, o := range paths {
		request(func(ctx context.Context) bool { return w.pulled(ctx, t, o, true) })
	}
	return promised
}

func (w *faultWorld) missing(ctx context.Context, paths []object) bool {
	query := map[string]any{"cache": "c"}
	var hashes, nars []string
	for _, o := range paths {
		hashes, nars = append(hashes, o.hash), append(nars, o.info.NarHash.String())
	}
	query["store_path_hashes"], query["nar_hashes"] = hashes, nars
	body, _ := json.Marshal(query)
	status, _, _ := w.do(ctx, http.MethodPost, "/_api/v1/get-missing-paths", body)
	return status == http.StatusOK
}

func (w *faultWorld) send(ctx context.Context, path string, body []byte) bool {
	status, _, _ := w.do(ctx, http.MethodPut, path, body)
	return status == http.StatusOK
}

func (w *faultWorld) sendInfos(ctx context.Context, paths []object) bool {
	status, _, _ := w.do(ctx, http.MethodPost, "/api/v1/caches/c/paths", narInfosOf(paths...))
	return status == http.StatusOK
}

func (w *faultWorld) uploadPath(ctx context.Context, t *testing.T, o object) bool {
	text, err := json.Marshal(o.attic())
	check(t, err)
	status, _, _ := w.do(ctx, http.MethodPut, "/_api/v1/upload-path", o.nar, "X-Attic-Nar-Info", string(text))
	if status == http.StatusOK { // it may have come before what it refers to, whose pushes failed: then it waits
		found, err := w.index.Lookup(context.WithoutCancel(ctx), "c", []string{o.hash})
		check(t, err)
		return found[o.hash].Upstream != cache.Incomplete
	}
	return false
}

// do makes a request; status is 0 if there was no answer, err says that the body ended early.
func (w *faultWorld) do(ctx context.Context, method, path string, body []byte, header ...string) (status int, got []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, w.server.URL+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "bearer "+cachetest.PushToken)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, nil
	}
	defer res.Body.Close()
	got, err = io.ReadAll(res.Body)
	return res.StatusCode, got, err
}

// pulled says whether a path can be pulled. A narinfo that is served is right. An archive that is served is right, or, while
// reading is broken, the client sees that it is not: by its length, or by its hash.
func (w *faultWorld) pulled(ctx context.Context, t *testing.T, o object, broken bool) bool {
	status, text, err := w.do(ctx, http.MethodGet, "/c/"+o.hash+".narinfo", nil)
	if status != http.StatusOK || err != nil {
		return false
	}
	info, err := nar.ParseNarInfo(text)
	if err != nil || !info.SignedBy(w.server.Key) || info.NarHash != o.info.NarHash || o.file != nil && info.FileSize != int64(len(o.file)) {
		t.Errorf("%s: a bad narinfo: %v\n%s", o.info.StorePath, err, text)
		return false
	}
	status, file, err := w.do(ctx, http.MethodGet, "/c/"+info.URL, nil)
	if status != http.StatusOK || err != nil {
		return false
	}
	right := int64(len(file)) == info.FileSize && nar.Hash(sha256.Sum256(file)) == info.FileHash
	if !right && !broken {
		t.Errorf("%s: the archive is not what its narinfo says", o.info.StorePath)
	}
	return right
}

// nothingHalf fails the test if there are unfinished uploads, or content that is not whole. A client that gave up is ahead of the server.
func (w *faultWorld) nothingHalf(t *testing.T, paths []object) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); w.unfinished() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d unfinished uploads are left", w.unfinished())
		}
	}
	for _, o := range paths {
		check(t, w.blobs.List(t.Context(), o.info.NarHash.Nix32(), func(b cache.Blob) error {
			r, err := w.blobs.Open(t.Context(), b.Key)
			if err != nil {
				return err
			}
			defer r.Close()
			z, err := zstd.NewReader(r)
			check(t, err)
			defer z.Close()
			if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, o.nar) {
				t.Errorf("%s is stored, and is not whole: %v", b.Key, err)
			}
			return nil
		}))
	}
}
