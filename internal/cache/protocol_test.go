package cache_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/nar"
)

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func testdata(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fileHash is what Nix would call a file.
func fileHash(b []byte) string {
	return nar.Hash(sha256.Sum256(b)).Nix32()
}

// TestArchivesOfAnyCompression: each arrives under the hash of the file or that of what is inside, is served as zstd, and leaves nothing when it is bad.
func TestArchivesOfAnyCompression(t *testing.T) {
	o := newObject(t, "hello", strings.Repeat("hello ", 10_000)) // testdata has it, too
	for suffix, file := range map[string][]byte{
		"": o.nar, ".zst": o.file, ".gz": gzipped(t, o.nar), ".xz": testdata(t, "hello.nar.xz"), ".bz2": testdata(t, "hello.nar.bz2"),
	} {
		t.Run("compression"+suffix, func(t *testing.T) {
			s := cachetest.NewServer(t, nil)
			url := "/c/nar/" + fileHash(file) + ".nar" + suffix
			for name, bad := range map[string][]byte{
				"cut":          file[:len(file)-3],
				"half":         file[:len(file)/2],
				"garbage":      append(bytes.Clone(file), "garbage"...),
				"twice":        append(bytes.Clone(file), file...),
				"a single bit": flip(file, len(file)/2),
			} {
				a := call(t, s, "PUT", url, bad)
				if name == "garbage" && suffix == ".xz" || name == "a single bit" && suffix == "" {
					a.want(t, 400, "") // whatever is said of it
				} else {
					a.want(t, 400, "upload is refused")
				}
				s.WantClean(t)
				s.WantEmpty(t)
				if t.Failed() {
					t.Fatalf("in case %q", name)
				}
			}
			call(t, s, "PUT", "/c/nar/"+strings.Repeat("0", 52)+".nar"+suffix, file).want(t, 400, "neither is")
			s.WantEmpty(t)
			call(t, s, "HEAD", url, nil).want(t, 404, "")
			call(t, s, "PUT", url, file).want(t, 200, "")
			call(t, s, "PUT", url, file).want(t, 200, "")
			call(t, s, "PUT", "/c/nar/"+o.info.NarHash.Nix32()+".nar"+suffix, file).want(t, 200, "")
			info := o.info
			info.URL, info.Compression = url[3:], map[string]string{"": "none", ".zst": "zstd", ".gz": "gzip", ".xz": "xz", ".bz2": "bzip2"}[suffix]
			call(t, s, "PUT", "/c/"+o.hash+".narinfo", info.Encode()).want(t, 200, "")
			got, err := nar.ParseNarInfo([]byte(call(t, s, "GET", "/c/"+o.hash+".narinfo", nil).body))
			if err != nil || got.URL != o.info.URL || got.Compression != "zstd" {
				t.Fatalf("%+v, %v", got, err)
			}
			if a := call(t, s, "GET", "/c/"+got.URL, nil); fileHash([]byte(a.body)) != got.FileHash.Nix32() || int64(len(a.body)) != got.FileSize {
				t.Errorf("what is served is not what is announced: %+v", got)
			}
			count := 0
			if err := s.Blobs.List(t.Context(), "", func(cache.Blob) error { count++; return nil }); err != nil || count != 1 {
				t.Errorf("%d are stored, %v", count, err)
			}
		})
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

func TestUnknownArchivesAreRefused(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	wide := testdata(t, "wide.nar.xz")
	call(t, s, "PUT", "/c/nar/"+fileHash(wide)+".nar.xz", wide).want(t, 400, "window above 8 MiB")
	for _, name := range []string{"x", strings.Repeat("0", 52), strings.Repeat("0", 52) + ".nar.br", strings.Repeat("e", 52) + ".nar.zst"} {
		call(t, s, "PUT", "/c/nar/"+name, []byte("x")).want(t, 400, "other compressions are not taken")
	}
	call(t, s, "PUT", "/c/debuginfo/0123.debug", []byte("x")).want(t, 404, "NoSuchObject")
	s.WantEmpty(t)
}

// TestRefusedNarInfoIsForgotten: what was uploaded for a path whose description does not fit is served to nobody.
func TestRefusedNarInfoIsForgotten(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o, p := newObject(t, "hello", "hello"), newObject(t, "other", "other")
	url := "nar/" + fileHash(o.file) + ".nar.zst"
	call(t, s, "PUT", "/c/"+url, o.file).want(t, 200, "")
	info := p.info
	info.URL = url
	call(t, s, "PUT", "/c/"+p.hash+".narinfo", info.Encode()).want(t, 400, "is not here")
	for _, path := range []string{p.hash + ".narinfo", url, o.info.URL, p.info.URL} {
		call(t, s, "GET", "/c/"+path, nil).want(t, 404, "NoSuchObject")
	}
}

func TestCacheInfoCanBeWritten(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	call(t, s, "PUT", "/c/nix-cache-info", []byte("StoreDir: /nix/store\n")).want(t, 200, "")
	call(t, s, "PUT", "/c/nix-cache-info", []byte("StoreDir: /gnu/store\n")).want(t, 400, "of the store /nix/store")
	call(t, s, "PUT", "/c/nix-cache-info", nil, "Authorization", "").want(t, 401, "")
	call(t, s, "GET", "/c/nix-cache-info", nil).want(t, 200, "Priority: 41\n")
}

// TestContentEncoding: small files may come compressed, but not to any size.
func TestContentEncoding(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o := newObject(t, "hello", "hello")
	call(t, s, "PUT", "/c/"+o.info.URL, o.file).want(t, 200, "")
	var br bytes.Buffer
	w := brotli.NewWriter(&br)
	_, err := w.Write(o.info.Encode())
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	url := "/c/" + o.hash + ".narinfo"
	bomb := compress(t, append(o.info.Encode(), make([]byte, 50<<20)...))
	call(t, s, "PUT", url, bomb, "Content-Encoding", "zstd").want(t, 413, "too large")
	call(t, s, "PUT", url, o.info.Encode(), "Content-Encoding", "gzip").want(t, 400, "cannot be decompressed")
	call(t, s, "PUT", url, o.info.Encode(), "Content-Encoding", "rot13").want(t, 415, "is not taken")
	call(t, s, "GET", url, nil).want(t, 404, "")
	for encoding, body := range map[string][]byte{"gzip": gzipped(t, o.info.Encode()), "br": br.Bytes(), "zstd": compress(t, o.info.Encode()), "": o.info.Encode()} {
		call(t, s, "PUT", url, body, "Content-Encoding", encoding).want(t, 200, "")
		call(t, s, "GET", url, nil).want(t, 200, o.info.StorePath)
	}
}

func TestLogsAreKept(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	log, url := strings.Repeat("building\n", 1000), "/c/log/"+strings.Repeat("0", 32)+"-hello.drv"
	call(t, s, "GET", url, nil).want(t, 404, "NoSuchObject")
	call(t, s, "PUT", url, []byte("first")).want(t, 200, "")
	call(t, s, "PUT", url, gzipped(t, []byte(log)), "Content-Encoding", "gzip").want(t, 200, "")
	plain := call(t, s, "GET", url, nil, "Accept-Encoding", "gzip, zstd;q=0")
	if plain.want(t, 200, ""); plain.body != log || plain.header.Get("Content-Encoding") != "" {
		t.Errorf("%d bytes, %v", len(plain.body), plain.header)
	}
	packed := call(t, s, "GET", url, nil, "Accept-Encoding", "deflate, gzip, br, zstd")
	if packed.header.Get("Content-Encoding") != "zstd" || packed.header.Get("Content-Length") != fmt.Sprint(len(packed.body)) || len(packed.body) > 200 {
		t.Errorf("%d bytes, %v", len(packed.body), packed.header)
	}
	head := call(t, s, "HEAD", url, nil)
	if head.want(t, 200, ""); head.header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%v", head.header)
	}
	call(t, s, "PUT", url, gzipped(t, []byte(log))[:50], "Content-Encoding", "gzip").want(t, 400, "cannot be decompressed")
	call(t, s, "PUT", url, []byte("x"), "Authorization", "").want(t, 401, "")
	call(t, s, "GET", url, nil, "Accept-Encoding", "identity").want(t, 200, log)
	for _, name := range []string{"x", "..%2fnar", strings.Repeat("0", 32) + "-hello", strings.Repeat("0", 32) + "-a%2fb.drv"} {
		call(t, s, "PUT", "/c/log/"+name, []byte("x")).want(t, 404, "NoSuchObject")
	}
	s.WantClean(t)
}

func TestNoListingOfStrangeNames(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	w.Directory()
	w.Entry("a")
	w.Symlink("\xff")
	w.EndEntry()
	w.EndDirectory()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	o := objectOf(t, "strange", b.Bytes())
	o.put(t, s)
	call(t, s, "GET", "/c/"+o.hash+".ls", nil).want(t, 404, "NoSuchObject")
	call(t, s, "GET", "/c/"+strings.Repeat("1", 32)+".ls", nil).want(t, 404, "NoSuchObject")
	s.WantClean(t)
}

const (
	anID  = "sha256:90abc0e15b03a2ae1ddd9cbd841e24fe4e7d58484229ced92cdabb57c45ac56a!out"
	aDrv  = "00000000000000000000000000000000-hello.drv"
	older = "/c/realisations/sha256:90abc0e15b03a2ae1ddd9cbd841e24fe4e7d58484229ced92cdabb57c45ac56a%21out.doi"
	newer = "/c/build-trace-v2/" + aDrv + "/out.doi"
)

// TestRealisations: both kinds are kept when their path is here, and come back signed as Nix signs them.
func TestRealisations(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o, p := newObject(t, "hello", "hello"), newObject(t, "other", "other")
	out := strings.TrimPrefix(o.info.StorePath, "/nix/store/")
	foreign := "other:" + strings.Repeat("A", 86) + "=="
	ofOlder := fmt.Sprintf(`{"dependentRealisations":{"%s":"%s"},"id":"%s","outPath":"%s","signatures":["%s","junk"]}`, anID, out, anID, out, foreign)
	ofNewer := fmt.Sprintf(`{"outPath":"%s","signatures":[{"keyName":"other","sig":"%s=="}]}`, out, strings.Repeat("A", 86))
	for _, c := range []struct{ url, text, signed string }{
		{older, ofOlder, fmt.Sprintf(`{"dependentRealisations":{"%s":"%s"},"id":"%s","outPath":"%s"}`, anID, out, anID, out)},
		{newer, ofNewer, fmt.Sprintf(`{"key":{"drvPath":"%s","outputName":"out"},"value":{"outPath":"%s"}}`, aDrv, out)},
	} {
		call(t, s, "GET", c.url, nil).want(t, 404, "NoSuchObject")
		call(t, s, "PUT", c.url, []byte(c.text), "Authorization", "").want(t, 401, "")
		if c.url == older {
			call(t, s, "PUT", c.url, []byte(c.text)).want(t, 400, "is not here")
			o.put(t, s)
			p.put(t, s)
		}
		for _, bad := range []string{
			"", "[]", "{}", strings.Replace(c.text, out, "../x", 1), strings.ReplaceAll(c.text, out, aDrv+"/x"), strings.Replace(c.text, out, "hello", 1), c.text[1:],
		} {
			call(t, s, "PUT", c.url, []byte(bad)).want(t, 400, "RequestError")
		}
		call(t, s, "PUT", c.url, make([]byte, 1<<20)).want(t, 413, "")
		call(t, s, "GET", c.url, nil).want(t, 404, "NoSuchObject")
		call(t, s, "PUT", c.url, []byte(c.text)).want(t, 200, "")
		call(t, s, "PUT", c.url, []byte(c.text)).want(t, 200, "")
		call(t, s, "HEAD", c.url, nil).want(t, 200, "")
		call(t, s, "PUT", c.url, []byte(strings.ReplaceAll(c.text, out, strings.TrimPrefix(p.info.StorePath, "/nix/store/")))).want(t, 409, "the first one counts")
		got := call(t, s, "GET", c.url, nil)
		var answer struct {
			OutPath    string `json:"outPath"`
			Signatures []any  `json:"signatures"`
		}
		if err := json.Unmarshal([]byte(got.body), &answer); err != nil || answer.OutPath != out || len(answer.Signatures) != 2 {
			t.Fatalf("%s, %v", got.body, err)
		}
		sig, ok := answer.Signatures[0].(string)
		if both, isNew := answer.Signatures[0].(map[string]any); isNew {
			sig, ok = fmt.Sprintf("%s:%s", both["keyName"], both["sig"]), c.url == newer
		}
		if !ok || !s.Key.Verify([]byte(c.signed), sig) {
			t.Errorf("signed: %s", got.body)
		}
	}
	for _, name := range []string{"realisations/x.doi", "realisations/" + anID, "build-trace-v2/x/out.doi", "build-trace-v2/" + aDrv + "/a%2fb.doi", "build-trace-v2/" + aDrv + "/out"} {
		call(t, s, "GET", "/c/"+name, nil).want(t, 404, "NoSuchObject")
		call(t, s, "PUT", "/c/"+name, []byte(ofNewer)).want(t, 400, "RequestError")
	}
	if err := os.Remove(s.BlobFile(t, o.info.NarHash)); err != nil {
		t.Fatal(err)
	}
	call(t, s, "GET", older, nil).want(t, 404, "NoSuchObject")
	call(t, s, "GET", newer, nil).want(t, 404, "NoSuchObject")
}

// TestTextsAreSwept: listings go with their archives, realisations with their paths, logs when they are old, and all with their cache.
func TestTextsAreSwept(t *testing.T) {
	s := cachetest.Start(t, cache.Options{Retention: cache.Retention{Unused: 20 * 24 * time.Hour}, Grace: -time.Hour}, nil)
	o := newObject(t, "hello", "hello")
	o.put(t, s)
	out := strings.TrimPrefix(o.info.StorePath, "/nix/store/")
	call(t, s, "PUT", newer, []byte(`{"outPath":"`+out+`"}`)).want(t, 200, "")
	call(t, s, "PUT", "/c/log/"+aDrv, []byte("log")).want(t, 200, "")
	call(t, s, "GET", "/c/"+o.hash+".ls", nil).want(t, 200, "narOffset")
	sweep := func(age time.Duration, want ...string) {
		t.Helper()
		var left []string
		err := s.Blobs.List(t.Context(), "", func(b cache.Blob) error {
			at := time.Now().Add(-age)
			return os.Chtimes(filepath.Join(s.Dir, "nar", b.Key[:2], b.Key), at, at)
		})
		if _, err := s.Cache.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		err = errors.Join(err, s.Blobs.List(t.Context(), "", func(b cache.Blob) error { left = append(left, filepath.Ext(b.Key)); return nil }))
		for _, suffix := range want {
			if !strings.Contains(strings.Join(left, " "), suffix) {
				t.Errorf("%s is gone", suffix)
			}
		}
		if err != nil || len(left) != len(want) {
			t.Errorf("left: %q, %v", left, err)
		}
	}
	sweep(2*24*time.Hour, ".zst", ".ls", ".doi", ".log")
	sweep(30*24*time.Hour, ".zst", ".ls", ".doi")
	call(t, s, "PUT", "/c/log/"+aDrv, []byte("log")).want(t, 200, "")
	if err := s.Index.DeleteCache(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	sweep(2 * 24 * time.Hour)
}
