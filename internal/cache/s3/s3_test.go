package s3_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/s3"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

var lab cachetest.Lab

func TestMain(m *testing.M) {
	defer lab.Stop()
	// Stands for a resolver: leads to loopback for all names.
	names := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", "127.0.0.1:"+r.In.URL.Port()
	}})
	defer names.Close()
	os.Setenv("HTTP_PROXY", names.URL) // loopback itself is never asked through a proxy
	defer trustTestServers()()
	m.Run()
}

// trustTestServers has this process trust the certificate of httptest's servers, and returns what ends that.
func trustTestServers() (end func()) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	file, err := os.CreateTemp("", "certificate-")
	if err == nil {
		err = errors.Join(pem.Encode(file, &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), file.Close())
	}
	if err != nil {
		panic(err)
	}
	os.Setenv("SSL_CERT_FILE", file.Name())
	return func() { _ = os.Remove(file.Name()) }
}

const (
	key  = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73-x.nar.zst"
	part = 8 << 20
)

func open(t *testing.T, c s3.Config) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), c)
	must(t, err)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// content is n bytes that repeat nowhere near the size of a part.
func content(n int) []byte {
	out := make([]byte, 0, n+sha256.Size)
	for sum := sha256.Sum256(nil); len(out) < n; sum = sha256.Sum256(sum[:]) {
		out = append(out, bytes.Repeat(sum[:], 8)...)
	}
	return out[:n]
}

func writing(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(b))
		return err
	}
}

func wantContent(t *testing.T, s *s3.Store, want []byte) {
	t.Helper()
	r, err := s.Open(t.Context(), key)
	must(t, err)
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, not the %d that were stored, %v", len(got), len(want), err)
	}
}

// wantNothing fails the test if the bucket has objects, or uploads in progress.
func wantNothing(t *testing.T, c s3.Config) {
	t.Helper()
	for o := range lab.S3(t).ListObjectsIter(t.Context(), c.Bucket, minio.ListObjectsOptions{Recursive: true}) {
		t.Errorf("%s is left, %v", o.Key, o.Err)
	}
	if n := unfinished(t, c); n > 0 {
		t.Errorf("%d unfinished uploads are left", n)
	}
	if left, err := os.ReadDir(c.SpoolDir); err != nil || len(left) > 0 {
		t.Errorf("%d files are left, %v", len(left), err)
	}
}

func unfinished(t *testing.T, c s3.Config) int {
	t.Helper()
	list, err := minio.Core{Client: lab.S3(t)}.ListMultipartUploads(t.Context(), c.Bucket, "", "", "", "", 1000)
	must(t, err)
	return len(list.Uploads)
}

// behind is c, reached through a server that calls meet with every request: what that returns false for goes on.
func behind(t *testing.T, c s3.Config, meet func(next http.Handler, w http.ResponseWriter, r *http.Request)) s3.Config {
	t.Helper()
	target, err := url.Parse(c.Endpoint)
	must(t, err)
	next := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host }}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { meet(next, w, r) }))
	t.Cleanup(server.Close)
	c.Endpoint = server.URL
	return c
}

// TestOverTLS is TestBlobs as it is in production, where requests are signed otherwise.
func TestOverTLS(t *testing.T) {
	t.Parallel()
	cachetest.Blobs(t, func(t *testing.T) cache.Blobs {
		return open(t, behind(t, lab.Bucket(t), func(next http.Handler, w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, r) }))
	})
}

func TestBlobs(t *testing.T) {
	t.Parallel()
	cachetest.Blobs(t, func(t *testing.T) cache.Blobs { return open(t, lab.Bucket(t)) })
}

func TestSizesAroundParts(t *testing.T) {
	t.Parallel()
	c := lab.Bucket(t)
	s := open(t, c)
	for _, n := range []int{part, part + 1, 2*part + 5} {
		want := content(n)
		must(t, s.Put(t.Context(), key, writing(want)))
		wantContent(t, s, want)
	}
	must(t, s.Delete(t.Context(), key))
	wantNothing(t, c)
}

func TestFailedUploadLeavesNothing(t *testing.T) {
	t.Parallel()
	c := lab.Bucket(t)
	s := open(t, c)
	broken := errors.New("broken")
	for _, n := range []int{5, part, 2*part + 5} {
		err := s.Put(t.Context(), key, func(w io.Writer) error { return errors.Join(writing(content(n))(w), broken) })
		if !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", n, err)
		}
		wantNothing(t, c)
	}
}

// TestServerBreaksDuringUpload: what could not be aborted is swept later, and the upload succeeds when tried again.
func TestServerBreaksDuringUpload(t *testing.T) {
	t.Parallel()
	c := lab.Bucket(t)
	proxy := cachetest.NewProxy(t, strings.TrimPrefix(c.Endpoint, "http://"))
	c.Endpoint, c.Timeout = "http://"+proxy.Address, tomlfile.Duration(300*time.Millisecond)
	s := open(t, c)
	for _, mode := range []cachetest.ProxyMode{cachetest.Refusing, cachetest.Silent} {
		err := s.Put(t.Context(), key, func(w io.Writer) error {
			if err := writing(content(2 * part))(w); err != nil {
				return err
			}
			proxy.Set(mode)
			return writing(content(part))(w)
		})
		if fleet.CodeOf(err) != fleet.CodeStorage || fleet.ClassOf(err) != fleet.Transient {
			t.Errorf("mode %d: %v", mode, err)
		}
		proxy.Set(cachetest.Refusing)
		if _, _, err := s.Stat(t.Context(), key); fleet.CodeOf(err) != fleet.CodeStorage {
			t.Errorf("an absence that could not be found out: %v", err)
		}
		proxy.Set(cachetest.Passing)
		if unfinished(t, c) == 0 {
			t.Error("the upload was aborted through a broken line")
		}
		if n, err := s.Sweep(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
			t.Errorf("an upload of now was swept: %d, %v", n, err)
		}
		if n, err := s.Sweep(t.Context(), time.Now().Add(time.Hour)); n != 1 || err != nil {
			t.Errorf("%d uploads were swept, %v", n, err)
		}
		wantNothing(t, c)
		must(t, s.Put(t.Context(), key, writing(content(2*part))))
		wantContent(t, s, content(2*part))
		must(t, s.Delete(t.Context(), key))
	}
}

// TestFailuresInBetween: a request that fails once is made again.
func TestFailuresInBetween(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	failed := make(map[string]bool)
	c := lab.Bucket(t)
	s := open(t, behind(t, c, func(next http.Handler, w http.ResponseWriter, r *http.Request) {
		what := r.Method + r.URL.String()
		mu.Lock()
		again := failed[what]
		failed[what] = true
		mu.Unlock()
		if again {
			next.ServeHTTP(w, r)
		} else {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	must(t, s.Put(t.Context(), key, writing(content(part+5))))
	wantContent(t, s, content(part+5))
	must(t, s.Delete(t.Context(), key))
	wantNothing(t, c)
}

// TestLostAnswers: the server did it, but its answer did not come.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]func(*http.Request) bool{
		"of the only part":     func(r *http.Request) bool { return r.Method == http.MethodPut },
		"of a complete upload": func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Query().Has("uploadId") },
	} {
		t.Run(name, func(t *testing.T) {
			c, size := lab.Bucket(t), 5
			if strings.Contains(name, "complete") {
				size = part + 5
			}
			s := open(t, behind(t, c, func(next http.Handler, w http.ResponseWriter, r *http.Request) {
				if lost(r) {
					next.ServeHTTP(httptest.NewRecorder(), r)
					panic(http.ErrAbortHandler)
				}
				next.ServeHTTP(w, r)
			}))
			must(t, s.Put(t.Context(), key, writing(content(size))))
			wantContent(t, s, content(size))
			must(t, s.Delete(t.Context(), key))
			wantNothing(t, c)
		})
	}
}

// TestDamagedOnTheWay: a part that is not what was sent is refused by the server.
func TestDamagedOnTheWay(t *testing.T) {
	t.Parallel()
	c := lab.Bucket(t)
	s := open(t, behind(t, c, func(next http.Handler, w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			body[len(body)/2] ^= 1
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		next.ServeHTTP(w, r)
	}))
	for _, n := range []int{5, part + 5} {
		if err := s.Put(t.Context(), key, writing(content(n))); err == nil {
			t.Errorf("%d damaged bytes were stored", n)
		}
		wantNothing(t, c)
	}
}

func TestReadGoesOnAfterABreak(t *testing.T) {
	t.Parallel()
	c := lab.Bucket(t)
	proxy := cachetest.NewProxy(t, strings.TrimPrefix(c.Endpoint, "http://"))
	direct := open(t, c)
	c.Endpoint, c.Timeout = "http://"+proxy.Address, tomlfile.Duration(300*time.Millisecond)
	s := open(t, c)
	want := content(12 << 20)
	must(t, direct.Put(t.Context(), key, writing(want)))
	for _, mode := range []cachetest.ProxyMode{cachetest.Refusing, cachetest.Silent} {
		r, err := s.Open(t.Context(), key)
		must(t, err)
		got := make([]byte, 1<<20)
		_, err = io.ReadFull(r, got)
		must(t, err)
		proxy.Set(mode)
		time.AfterFunc(400*time.Millisecond, func() { proxy.Set(cachetest.Passing) })
		rest, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(append(got, rest...), want) {
			t.Errorf("mode %d: %d bytes, %v", mode, len(got)+len(rest), err)
		}
		must(t, r.Close())
	}

	// What is not the same any more is not mixed.
	for name, change := range map[string]func() error{
		"replaced": func() error { return direct.Put(t.Context(), key, writing(content(4*part-1))) },
		"deleted":  func() error { return direct.Delete(t.Context(), key) },
	} {
		must(t, direct.Put(t.Context(), key, writing(want)))
		r, err := s.Open(t.Context(), key)
		must(t, err)
		_, err = io.ReadFull(r, make([]byte, 1<<20))
		must(t, err)
		must(t, change())
		proxy.Set(cachetest.Refusing)
		proxy.Set(cachetest.Passing)
		if rest, err := io.ReadAll(r); err == nil {
			t.Errorf("%s content was read to its end: %d bytes more", name, len(rest))
		}
		must(t, r.Close())
	}
}

func TestRanges(t *testing.T) {
	t.Parallel()
	s := open(t, lab.Bucket(t))
	want := content(1 << 20)
	must(t, s.Put(t.Context(), key, writing(want)))
	for header, body := range map[string][]byte{
		"": want, "bytes=0-": want, "bytes=0-9": want[:10], "bytes=1000-": want[1000:], "bytes=-10": want[len(want)-10:],
	} {
		r, err := s.Open(t.Context(), key)
		must(t, err)
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		if header != "" {
			req.Header.Set("Range", header)
		}
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, req, "", time.Time{}, r)
		must(t, r.Close())
		if !bytes.Equal(w.Body.Bytes(), body) {
			t.Errorf("%q: %d bytes, not %d", header, w.Body.Len(), len(body))
		}
	}
}

func TestURL(t *testing.T) {
	t.Parallel()
	c := lab.Bucket(t)
	if u, err := open(t, c).URL(t.Context(), key, time.Minute); u != "" || err != nil {
		t.Errorf("without a public endpoint: %s, %v", u, err)
	}
	proxy := cachetest.NewProxy(t, strings.TrimPrefix(c.Endpoint, "http://"))
	get := func(c s3.Config, change func(string) string) (int, string) {
		t.Helper()
		s := open(t, c)
		must(t, s.Put(t.Context(), key, writing([]byte("content"))))
		u, err := s.URL(t.Context(), key, time.Minute)
		must(t, err)
		if !strings.HasPrefix(u, c.PublicEndpoint) && c.PathStyle {
			t.Errorf("%s is not at %s", u, c.PublicEndpoint)
		}
		resp, err := http.Get(change(u))
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, string(body)
	}
	same := func(u string) string { return u }
	c.PublicEndpoint = "http://" + proxy.Address
	if status, body := get(c, same); status != http.StatusOK || body != "content" {
		t.Errorf("%d %s", status, body)
	}
	other := func(u string) string { return strings.Replace(u, "-x.nar", "-y.nar", 1) }
	if status, body := get(c, other); status != http.StatusForbidden {
		t.Errorf("a URL of other content: %d %s", status, body)
	}
	if _, err := open(t, c).URL(t.Context(), "../x", time.Minute); err == nil {
		t.Error("a bad key was signed")
	}
}

// TestVirtualHost has the bucket's name in the host name.
func TestVirtualHost(t *testing.T) {
	t.Parallel()
	c := lab.Bucket(t)
	must(t, open(t, c).Put(t.Context(), key, writing([]byte("content"))))
	endpoint, err := url.Parse(c.Endpoint)
	must(t, err)
	host := cachetest.S3Domain + ":" + endpoint.Port()
	c.Endpoint, c.PathStyle, c.PublicEndpoint = "http://"+host, false, "http://"+host
	s := open(t, c)
	wantContent(t, s, []byte("content"))
	u, err := s.URL(t.Context(), key, time.Minute)
	if err != nil || !strings.HasPrefix(u, "http://"+c.Bucket+"."+host+"/"+c.Prefix+key) {
		t.Errorf("%s, %v", u, err)
	}
	resp, err := http.Get(u)
	must(t, err)
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "content" || err != nil {
		t.Errorf("%s, %v", body, err)
	}
}

func TestCredentialsAreReadAgain(t *testing.T) {
	t.Parallel()
	c := lab.Bucket(t)
	good, err := os.ReadFile(c.CredentialsFile)
	must(t, err)
	c.CredentialsFile = filepath.Join(t.TempDir(), "credentials")
	write := func(text string) { must(t, os.WriteFile(c.CredentialsFile, []byte(text), 0o600)) }
	write("# keys\n[other]\naws_access_key_id = x\n" + string(good) + "\n[more]\naws_access_key_id=y\n")
	s := open(t, c)
	write("aws_access_key_id=lab-access\naws_secret_access_key=wrong")
	_, _, err = s.Stat(t.Context(), key)
	var e *fleet.Error
	if !errors.As(err, &e) || e.Code != fleet.CodeStorage || e.Class != fleet.Local || !strings.Contains(e.Hint, c.CredentialsFile) {
		t.Errorf("with wrong credentials: %v", err)
	}
	write(string(good))
	for _, text := range []string{"", "not\x00credentials", "aws_access_key_id = lab-access"} {
		must(t, s.Put(t.Context(), key, writing([]byte("content"))))
		write(text) // what was read last goes on
	}
	must(t, os.Remove(c.CredentialsFile))
	wantContent(t, s, []byte("content"))
	if _, err := s3.Open(t.Context(), c); fleet.CodeOf(err) != fleet.CodeKey {
		t.Errorf("without a file: %v", err)
	}
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*s3.Config){
		"bucket":             func(c *s3.Config) { c.Bucket = "Not A Bucket" },
		"endpoint":           func(c *s3.Config) { c.Endpoint = "s3.example.org" },
		"publicEndpoint":     func(c *s3.Config) { c.PublicEndpoint = "http://s3.example.org/path" },
		"prefix":             func(c *s3.Config) { c.Prefix = "../up/" },
		"credentialsFile":    func(c *s3.Config) { c.CredentialsFile = "" },
		"there is no bucket": func(c *s3.Config) { c.Bucket = "no-such-bucket" },
		"runs and can be":    func(c *s3.Config) { c.Endpoint = "http://127.0.0.1:1" },
	} {
		c := lab.Bucket(t)
		change(&c)
		_, err := s3.Open(t.Context(), c)
		var e *fleet.Error
		if !errors.As(err, &e) || !strings.Contains(e.What+e.Hint, want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestBucketGone: nothing is absent only because the bucket is.
func TestBucketGone(t *testing.T) {
	t.Parallel()
	c := lab.Bucket(t)
	s := open(t, c)
	must(t, lab.S3(t).RemoveBucket(t.Context(), c.Bucket))
	_, _, serr := s.Stat(t.Context(), key)
	_, oerr := s.Open(t.Context(), key)
	lerr := s.List(t.Context(), "", func(cache.Blob) error { return nil })
	perr := s.Put(t.Context(), key, writing([]byte("content")))
	for name, err := range map[string]error{"stat": serr, "open": oerr, "list": lerr, "put": perr} {
		if fleet.CodeOf(err) != fleet.CodeStorage || errors.Is(err, cache.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
