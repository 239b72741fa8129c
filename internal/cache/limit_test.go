package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
)

func TestRequestsPerSecond(t *testing.T) {
	s := newTenants(t, func(o *cache.Options) {
		o.Limits.RequestsPerSecond = 1
		o.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	from := func(address, token string) answer {
		t.Helper()
		return call(t, &cachetest.Server{Server: s.at()}, "GET", "/c/nix-cache-info", nil, "X-Forwarded-For", address, "Authorization", token)
	}
	good := "bearer " + s.token(t, cache.CacheGrant{Pattern: "c", May: cache.Pull})
	until := func(address, token string) answer {
		t.Helper()
		for range 1000 {
			if a := from(address, token); a.status != 200 {
				return a
			}
		}
		t.Fatal("there is no limit")
		return answer{}
	}
	a := until("192.0.2.1", "")
	a.want(t, 429, "TooManyRequests")
	if n, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || n < 1 {
		t.Errorf("Retry-After: %v", a.header)
	}
	// Others, and who has a token, are not kept from anything; whoever makes addresses up, is.
	from("192.0.2.2", "").want(t, 200, "")
	from("192.0.2.1", good).want(t, 200, "")
	from("203.0.113.1, 192.0.2.1", "bearer made-up").want(t, 429, "")
	until("2001:db8:0:1::1", "")
	from("2001:db8:0:1::2", "").want(t, 429, "")
	from("2001:db8:0:2::1", "").want(t, 200, "")
	call(t, &cachetest.Server{Server: s.at()}, "GET", "/healthz", nil, "X-Forwarded-For", "192.0.2.1").want(t, 200, "ok")
	// A client that waits as long as it was told comes in again.
	time.Sleep(1100 * time.Millisecond)
	from("192.0.2.1", "").want(t, 200, "")
}

func TestUploadsAtTheSameTime(t *testing.T) {
	s := newTenants(t, func(o *cache.Options) { o.Limits.Uploads = 1 })
	token := s.create(t, "c1", "")
	o, p := newObject(t, "hello", "hello"), newObject(t, "other", "other")
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "PUT", s.url+"/c1/"+o.info.URL, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "bearer "+token)
	req.Header.Set("Expect", "100-continue") // so that the request is there before its body
	done := make(chan error, 1)
	go func() {
		res, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode != 200 {
				err = fmt.Errorf("the first upload: %s", res.Status)
			}
		}
		done <- err
	}()
	if _, err := w.Write(o.file[:10]); err != nil { // returns when it is on its way
		t.Fatal(err)
	}
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		a := s.ask(t, token, "PUT", "/c1/"+p.info.URL, string(p.file))
		if a.status == 429 {
			if a.header.Get("Retry-After") == "" {
				t.Errorf("%v", a.header)
			}
			break
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("a second upload: %d %s", a.status, a.body)
		}
	}
	other := s.token(t, cache.CacheGrant{Pattern: "c1", May: cache.Push})
	s.ask(t, other, "PUT", "/c1/"+p.info.URL, string(p.file)).want(t, 200, "")
	if _, err := w.Write(o.file[10:]); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.ask(t, token, "PUT", "/c1/"+p.info.URL, string(p.file)).want(t, 200, "")
}

func TestQuota(t *testing.T) {
	s := newTenants(t, nil)
	objects := make([]object, 4)
	for i := range objects {
		objects[i] = newObject(t, fmt.Sprint("o", i), strings.Repeat(fmt.Sprint(i), 1000))
	}
	size := len(objects[0].file)
	token := s.create(t, "small", fmt.Sprintf(`,"max_bytes":%d`, 2*size+size/2))
	other := s.create(t, "other", "")
	s.push(t, token, "small", objects[0])
	// An archive counts as soon as it is here, and once.
	s.ask(t, token, "PUT", "/small/"+objects[1].info.URL, string(objects[1].file)).want(t, 200, "")
	s.ask(t, token, "PUT", "/small/"+objects[2].info.URL, string(objects[2].file)).want(t, 507, "QuotaExceeded")
	s.ask(t, token, "PUT", "/small/"+objects[1].hash+".narinfo", string(objects[1].info.Encode())).want(t, 200, "")
	s.push(t, token, "small", objects[0])
	// Nor does what another cache has come in for nothing.
	s.push(t, other, "other", objects[2])
	s.ask(t, token, "PUT", "/small/"+objects[2].info.URL, string(objects[2].file)).want(t, 200, "")
	s.ask(t, token, "PUT", "/small/"+objects[2].hash+".narinfo", string(objects[2].info.Encode())).want(t, 507, "QuotaExceeded")
	s.ask(t, token, "GET", "/small/"+objects[2].hash+".narinfo", "").want(t, 404, "")
	// Without a Content-Length, what came is thrown away.
	before := blobs(t, s)
	req, err := http.NewRequestWithContext(t.Context(), "PUT", s.url+"/small/"+objects[3].info.URL, io.MultiReader(strings.NewReader(string(objects[3].file))))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "bearer "+token)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 507 || blobs(t, s) != before {
		t.Errorf("%s, %d blobs of %d", res.Status, blobs(t, s), before)
	}
	// What is deleted makes room at once.
	s.ask(t, token, "DELETE", "/api/v1/caches/small/paths/"+objects[0].hash, "").want(t, 200, "")
	s.push(t, token, "small", objects[3])
	s.ask(t, token, "PUT", "/small/"+objects[2].hash+".narinfo", string(objects[2].info.Encode())).want(t, 507, "QuotaExceeded")
	s.ask(t, token, "PATCH", "/_api/v1/cache-config/small", `{"max_bytes":0}`).want(t, 200, "")
	s.push(t, token, "small", objects[0])
}

func blobs(t *testing.T, s *tenants) (n int) {
	t.Helper()
	if err := s.Blobs.List(t.Context(), "", func(cache.Blob) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSettings(t *testing.T) {
	s := newTenants(t, nil)
	token := s.create(t, "c1", `,"is_public":true,"retention_period":{"Period":86400}`)
	s.ask(t, token, "POST", "/_api/v1/cache-config/c1", `{"keypair":"Generate"}`).want(t, 400, "CacheAlreadyExists")
	config := s.ask(t, token, "GET", "/_api/v1/cache-config/c1", "")
	for _, want := range []string{`"is_public":true`, `"store_dir":"/nix/store"`, `"priority":40`, `"upstream_cache_key_names":[]`, `"retention_period":{"Period":86400}`,
		`"substituter_endpoint":"` + s.url + `/c1"`, `"api_endpoint":"` + s.url + `/"`, `"public_key":"c1:`} {
		config.want(t, 200, want)
	}
	pull := `{"url":"https://cache.example.org","keys":["cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="]}`
	for body, want := range map[string]string{
		`{}`: "nothing was given", `{"store_dir":"/gnu/store"}`: "/nix/store only", `{"keypair":"generate"}`: "keypair", `{"keypair":{"Keypair":"c1:AAAA"}}`: "bytes",
		`{"retention_period":{"Period":-1}}`: "retention", `{"retention_period":{}}`: "retention", `{"retention_period":{"Period":60}}`: "24h0m0s is the least", `{"priority":-1}`: "negative", `{"max_bytes":-1}`: "negative", `x`: "JSON",
		`{"pull_through":[{"url":"ftp://x","keys":[]}]}`: "URL", `{"pull_through":[{"url":"https://x","keys":[]}]}`: "public keys", `{"pull_through":[{"url":"https://u:p@x","keys":["x"]}]}`: "is not the URL",
	} {
		s.ask(t, token, "PATCH", "/_api/v1/cache-config/c1", body).want(t, 400, want)
	}
	s.ask(t, token, "GET", "/_api/v1/cache-config/c1", "").want(t, 200, config.body)
	s.ask(t, token, "PATCH", "/_api/v1/cache-config/c1", `{"is_public":false,"priority":20,"retention_period":"Global","pull_through":[`+pull+`],"upstream_cache_key_names":["x","cache.nixos.org-1"]}`).want(t, 200, "")
	config = s.ask(t, token, "GET", "/_api/v1/cache-config/c1", "")
	for _, want := range []string{`"is_public":false`, `"priority":20`, `"retention_period":"Global"`, `"pull_through":[` + pull + `]`, `["cache.nixos.org-1"]`} {
		config.want(t, 200, want)
	}
	s.ask(t, token, "GET", "/c1/nix-cache-info", "").want(t, 200, "Priority: 20\n")
	// None is less than all that are pulled through: Attic's client then pushes everything.
	s.ask(t, token, "PATCH", "/_api/v1/cache-config/c1", `{"upstream_cache_key_names":[]}`).want(t, 200, "")
	s.ask(t, token, "GET", "/_api/v1/cache-config/c1", "").want(t, 200, `"upstream_cache_key_names":[]`)
	s.ask(t, token, "PATCH", "/_api/v1/cache-config/c1", `{"priority":21}`).want(t, 200, "")
	s.ask(t, token, "GET", "/_api/v1/cache-config/c1", "").want(t, 200, `"upstream_cache_key_names":[]`)
	s.ask(t, token, "DELETE", "/_api/v1/cache-config/c1", "").want(t, 200, "")
	s.ask(t, token, "PATCH", "/_api/v1/cache-config/c1", `{"priority":1}`).want(t, 404, "NoSuchCache")
	s.ask(t, s.token(t, cache.CacheGrant{Pattern: "*", May: cache.Everything}), "POST", "/_api/v1/cache-config/api", `{}`).want(t, 400, "reserved")
}
