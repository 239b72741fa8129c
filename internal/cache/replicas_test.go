package cache_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/postgres"
	"github.com/garrison-nix/garrison/internal/cache/s3"
	"github.com/garrison-nix/garrison/internal/nar"
	pg "github.com/garrison-nix/garrison/internal/postgres"
)

// replicas are two servers that share nothing but a database and a bucket.
func replicas(t *testing.T) (servers [2]*cachetest.Server, indexes [2]cache.Index) {
	t.Helper()
	storage := lab.SharedStorage(t)
	var all sync.WaitGroup
	for i := range servers { // they start at once, as after a deployment
		all.Go(func() {
			servers[i] = storage.Start(t, 1, cache.Options{MaxNarBytes: 1 << 20})
			indexes[i] = servers[i].Cache.Index
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return servers, indexes
}

// TestReplicasServeAtOnce: what one has taken the other serves, although it has just said that it is not there.
func TestReplicasServeAtOnce(t *testing.T) {
	t.Parallel()
	s, _ := replicas(t)
	var before []string
	for n := range 20 {
		from, to := s[n%2], s[(n+1)%2]
		o := newObject(t, fmt.Sprintf("p-%d", n), fmt.Sprint("content ", n), before...)
		for _, server := range s {
			call(t, server, "GET", "/c/"+o.hash+".narinfo", nil).want(t, 404, "")
			call(t, server, "GET", "/c/"+o.info.URL, nil).want(t, 404, "")
		}
		o.put(t, from)
		call(t, to, "GET", "/c/"+o.hash+".narinfo", nil).want(t, 200, o.info.NarHash.String())
		call(t, to, "GET", "/c/"+o.info.URL, nil).want(t, 200, string(o.file))
		before = []string{o.info.StorePath} // the next, on the other, refers to it
	}
}

// TestReplicasTakeTheFirst: of two archives of a path that come at the same time, one wins on both.
func TestReplicasTakeTheFirst(t *testing.T) {
	t.Parallel()
	s, _ := replicas(t)
	for n := range 20 {
		var made [2]object
		var got [2]answer
		for i := range s {
			made[i] = newObject(t, fmt.Sprintf("p-%d", n), fmt.Sprint("content ", n, " of ", i))
			call(t, s[i], "PUT", "/c/"+made[i].info.URL, made[i].file).want(t, 200, "")
		}
		var all sync.WaitGroup
		for i := range s {
			all.Go(func() { got[i] = call(t, s[i], "PUT", "/c/"+made[i].hash+".narinfo", made[i].info.Encode()) })
		}
		all.Wait()
		winner := 0
		if got[1].status == http.StatusOK {
			winner = 1
		}
		got[winner].want(t, 200, "")
		got[1-winner].want(t, 409, made[winner].info.NarHash.String())
		for i := range s {
			call(t, s[i], "GET", "/c/"+made[0].hash+".narinfo", nil).want(t, 200, made[winner].info.NarHash.String())
		}
	}
}

// TestReplicasTakeTheSame: the same push to both at the same time succeeds on both.
func TestReplicasTakeTheSame(t *testing.T) {
	t.Parallel()
	s, indexes := replicas(t)
	for n := range 20 {
		o := newObject(t, fmt.Sprintf("p-%d", n), fmt.Sprint("content ", n))
		var all sync.WaitGroup
		for i := range s {
			all.Go(func() { o.put(t, s[i]) })
		}
		all.Wait()
		for i := range s {
			info := call(t, s[i], "GET", "/c/"+o.hash+".narinfo", nil)
			info.want(t, 200, o.info.NarHash.String())
			call(t, s[i], "GET", "/c/"+o.info.URL, nil).want(t, 200, string(o.file))
		}
	}
	stats, err := indexes[0].Stats(t.Context(), "c")
	if err != nil || stats.Paths != 20 {
		t.Errorf("%+v, %v", stats, err)
	}
}

// TestReplicasHearOfChanges: what is changed on one takes effect on the other: a key that is added, a cache that is made private, a
// token that is revoked.
func TestReplicasHearOfChanges(t *testing.T) {
	t.Parallel()
	s, indexes := replicas(t)
	o := newObject(t, "p", "content")
	o.put(t, s[0])
	anonymous := func() int {
		res, err := http.Get(s[1].URL + "/c/nix-cache-info")
		check(t, err)
		check(t, res.Body.Close())
		return res.StatusCode
	}
	text := func() string { return call(t, s[1], "GET", "/c/"+o.hash+".narinfo", nil).body }
	if status := anonymous(); status != 200 || strings.Contains(text(), "Sig: c-2:") {
		t.Fatalf("before any change: %d", status)
	}
	key, err := nar.GenerateKey("c-2")
	check(t, err)
	change := func(f func(*cache.Cache)) error {
		return indexes[0].UpdateCache(t.Context(), "c", func(c *cache.Cache) error { f(c); return nil })
	}
	check(t, change(func(c *cache.Cache) { c.Keys = append(c.Keys, cache.KeyOf(key)) }))
	soon(t, "a new key signs", func() bool { return strings.Contains(text(), "Sig: c-2:") })
	check(t, change(func(c *cache.Cache) { c.Public = false }))
	soon(t, "strangers are kept out", func() bool { return anonymous() == 401 })
	call(t, s[1], "GET", "/c/nix-cache-info", nil).want(t, 200, "")
	check(t, indexes[0].Revoke(t.Context(), "push", time.Now().Add(time.Hour)))
	soon(t, "the token is refused", func() bool { return call(t, s[1], "GET", "/c/nix-cache-info", nil).status == 401 })
}

// soon waits until what happens, and says how long it took: two seconds is what is promised.
func soon(t *testing.T, what string, happens func() bool) {
	t.Helper()
	began := time.Now()
	for ; !happens(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("%s: not on the other replica", what)
		}
	}
	t.Logf("%s on the other replica after %v", what, time.Since(began))
}

// TestReplicaLosesItsStorage: while the database or the bucket cannot be reached nothing is said to be absent, and afterwards all is as before.
func TestReplicaLosesItsStorage(t *testing.T) {
	t.Parallel()
	url, bucket := lab.PostgresURL(t), lab.Bucket(t)
	address := url[strings.Index(url, "@")+1:]
	address = address[:strings.Index(address, "/")]
	database := cachetest.NewProxy(t, address)
	storage := cachetest.NewProxy(t, strings.TrimPrefix(bucket.Endpoint, "http://"))
	bucket.Endpoint = "http://" + storage.Address
	blobs, err := s3.Open(t.Context(), bucket)
	check(t, err)
	s := cachetest.Start(t, cache.Options{Blobs: blobs, Index: postgresAt(t, strings.Replace(url, address, database.Address, 1)), MaxNarBytes: 1 << 20}, nil)
	o, other := newObject(t, "p", "content"), newObject(t, "other", "other")
	o.put(t, s)
	for name, proxy := range map[string]*cachetest.Proxy{"database": database, "bucket": storage} {
		proxy.Set(cachetest.Refusing)
		if a := call(t, s, "PUT", "/c/"+other.info.URL, other.file); a.status < 500 {
			t.Errorf("without the %s an upload is answered with %d %s", name, a.status, a.body)
		}
		if name == "database" {
			if a := call(t, s, "GET", "/c/"+other.hash+".narinfo", nil); a.status < 500 {
				t.Errorf("without the %s an absence is answered with %d %s", name, a.status, a.body)
			}
		} else if a := call(t, s, "GET", "/c/"+o.info.URL, nil); a.status < 500 || bytes.Contains([]byte(a.body), []byte(bucket.Bucket)) {
			t.Errorf("without the %s an archive is answered with %d %s", name, a.status, a.body)
		}
		proxy.Set(cachetest.Passing)
	}
	other.put(t, s)
	call(t, s, "GET", "/c/"+o.info.URL, nil).want(t, 200, string(o.file))
}

// TestSlowClientsHoldNoConnection: uploads and downloads that stand still leave the two connections to the database to others.
func TestSlowClientsHoldNoConnection(t *testing.T) {
	t.Parallel()
	blobs, err := s3.Open(t.Context(), lab.Bucket(t))
	check(t, err)
	index, err := postgres.Open(t.Context(), pg.Config{URL: lab.PostgresURL(t), MaxConnections: 2})
	check(t, err)
	t.Cleanup(func() { check(t, index.Close()) })
	s := cachetest.Start(t, cache.Options{Blobs: blobs, Index: index, MaxNarBytes: 64 << 20}, nil)
	random := make([]byte, 12<<20) // more than sockets hold
	_, err = rand.Read(random)
	check(t, err)
	large := newObject(t, "large", string(random))
	large.put(t, s)
	for i := range 6 {
		res, err := http.Get(s.URL + "/c/" + large.info.URL)
		check(t, err)
		t.Cleanup(func() { _ = res.Body.Close() })
		if _, err := io.ReadFull(res.Body, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		o := newObject(t, fmt.Sprint("slow-", i), strings.Repeat("slow", i+1000))
		body, half := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL+"/c/"+o.info.URL, body)
		check(t, err)
		req.Header.Set("Authorization", "bearer "+cachetest.PushToken)
		go func() {
			if res, err := http.DefaultClient.Do(req); err == nil {
				_ = res.Body.Close()
			}
		}()
		t.Cleanup(func() { _ = half.CloseWithError(io.ErrUnexpectedEOF) })
		if _, err := half.Write(o.file[:len(o.file)/2]); err != nil {
			t.Fatal(err)
		}
	}
	o := newObject(t, "quick", "content")
	o.put(t, s)
	call(t, s, "GET", "/c/"+o.info.URL, nil).want(t, 200, string(o.file))
}
