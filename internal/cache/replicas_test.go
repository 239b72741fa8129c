package cache_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/s3"
	"github.com/garrison-nix/garrison/internal/nar"
)

// replicas are two servers that share nothing but a database and a bucket.
func replicas(t *testing.T) (servers [2]*cachetest.Server, indexes [2]cache.Index) {
	t.Helper()
	url, bucket := lab.PostgresURL(t), lab.Bucket(t)
	key, err := nar.GenerateKey("c")
	check(t, err)
	var all sync.WaitGroup
	for i := range servers { // they start at once, as after a deployment
		all.Go(func() {
			blobs, err := s3.Open(t.Context(), bucket)
			if err != nil {
				t.Error(err)
				return
			}
			indexes[i] = postgresAt(t, url)
			server := cache.New(cache.Options{Blobs: blobs, Index: indexes[i], MaxNarBytes: 1 << 20, Tokens: cachetest.Tokens})
			if err := server.EnsureCache(t.Context(), "c", key); err != nil {
				t.Error(err)
			}
			servers[i] = &cachetest.Server{Server: httptest.NewServer(server.Handler()), Cache: server, Key: key.Public()}
			t.Cleanup(servers[i].Close)
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

// TestReplicasHearOfChanges: a key that is added on one signs what the other serves, and a token that is revoked on one is known to the other.
func TestReplicasHearOfChanges(t *testing.T) {
	t.Parallel()
	s, indexes := replicas(t)
	o := newObject(t, "p", "content")
	o.put(t, s[0])
	for _, server := range s {
		call(t, server, "GET", "/c/"+o.hash+".narinfo", nil).want(t, 200, "Sig: c:")
	}
	key, err := nar.GenerateKey("c-2")
	check(t, err)
	check(t, indexes[0].UpdateCache(t.Context(), "c", func(c *cache.Cache) error {
		c.Keys = append(c.Keys, cache.KeyOf(key))
		return nil
	}))
	began := time.Now()
	for !strings.Contains(call(t, s[1], "GET", "/c/"+o.hash+".narinfo", nil).body, "Sig: c-2:") {
		if time.Since(began) > 20*time.Second {
			t.Fatal("the other replica does not sign with a key that was added")
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("a new key signs on the other replica after %v", time.Since(began))
	check(t, indexes[0].Revoke(t.Context(), "token", time.Now().Add(time.Hour)))
	if revoked, err := indexes[1].Revoked(t.Context()); err != nil || len(revoked) != 1 {
		t.Errorf("%q, %v", revoked, err)
	}
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
