package cache_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/nar"
)

// TestRotation goes from one key to the next: a host that knows either finds a signature of it, until the old one is removed.
func TestRotation(t *testing.T) {
	s := newTenants(t, nil)
	given, err := nar.GenerateKey("given")
	if err != nil {
		t.Fatal(err)
	}
	token := s.token(t, cache.CacheGrant{Pattern: "c1", May: cache.Everything})
	s.ask(t, token, "POST", "/_api/v1/cache-config/c1", `{"keypair":{"Keypair":"`+given.Encode()+`"}}`).want(t, 200, "")
	o := newObject(t, "hello", "hello")
	s.push(t, token, "c1", o)
	signers := func(want ...string) {
		t.Helper()
		info, err := nar.ParseNarInfo([]byte(s.ask(t, token, "GET", "/c1/"+o.hash+".narinfo", "").body))
		if err != nil {
			t.Fatal(err)
		}
		for i, sig := range info.Sigs {
			info.Sigs[i], _, _ = strings.Cut(sig, ":")
		}
		if strings.Join(info.Sigs, " ") != strings.Join(want, " ") {
			t.Errorf("signed by %q, not %q", info.Sigs, want)
		}
	}
	public := func() (keys []string) {
		t.Helper()
		a := s.ask(t, token, "GET", "/api/v1/caches/c1", "")
		var info cache.Info
		if err := json.Unmarshal([]byte(a.body), &info); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(a.body+s.ask(t, token, "GET", "/_api/v1/cache-config/c1", "").body+s.ask(t, token, "GET", "/api/v1/caches", "").body, given.Encode()) {
			t.Error("the private key is given away")
		}
		if info.PublicKey != info.PublicKeys[0] {
			t.Errorf("%+v", info)
		}
		return info.PublicKeys
	}
	signers("given")
	s.ask(t, token, "DELETE", "/api/v1/caches/c1/keys/given", "").want(t, 400, "only key")
	s.ask(t, token, "POST", "/api/v1/caches/c1/keys", `{"keypair":{"Keypair":"`+given.Encode()+`"}}`).want(t, 400, "another name")
	s.ask(t, token, "POST", "/api/v1/caches/c1/keys", `{}`).want(t, 400, "missing")
	added := s.ask(t, token, "POST", "/api/v1/caches/c1/keys", `{"keypair":"Generate"}`)
	added.want(t, 200, `"publicKey":"c1:`)
	signers("given", "c1")
	if keys := public(); len(keys) != 2 || keys[0] != given.Public().String() || !strings.Contains(added.body, keys[1]) {
		t.Errorf("%q", keys)
	}
	s.ask(t, token, "DELETE", "/api/v1/caches/c1/keys/none", "").want(t, 404, "none")
	s.ask(t, token, "DELETE", "/api/v1/caches/c1/keys/given", "").want(t, 200, "")
	signers("c1")
	if keys := public(); len(keys) != 1 {
		t.Errorf("%q", keys)
	}
	s.ask(t, token, "POST", "/api/v1/caches/c1/keys", `{"keypair":"Generate"}`).want(t, 200, `"publicKey":"c1-2:`)
	s.ask(t, token, "POST", "/api/v1/caches/c1/keys", `{"keypair":"Generate"}`).want(t, 200, `"publicKey":"c1-3:`)
	s.ask(t, token, "POST", "/api/v1/caches/c1/keys", `{"keypair":"Generate"}`).want(t, 200, `"publicKey":"c1-4:`)
	s.ask(t, token, "POST", "/api/v1/caches/c1/keys", `{"keypair":"Generate"}`).want(t, 400, "remove one first")
	signers("c1", "c1-2", "c1-3", "c1-4")
}

func TestList(t *testing.T) {
	s := newTenants(t, nil)
	a := s.create(t, "a", "")
	s.create(t, "b", "")
	names := func(token string, want string) {
		t.Helper()
		var list struct{ Caches []cache.Listed }
		if err := json.Unmarshal([]byte(s.ask(t, token, "GET", "/api/v1/caches", "").body), &list); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range list.Caches {
			got = append(got, c.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	names("", "c") // which is public
	names(a, "a c")
	names(s.token(t, cache.CacheGrant{Pattern: "*", May: cache.Push}), "a b c")
}

func TestReadiness(t *testing.T) {
	s := newTenants(t, nil)
	s.ask(t, "", "GET", "/healthz", "").want(t, 200, "ok")
	s.ask(t, "", "GET", "/readyz", "").want(t, 200, "ok")
	if err := s.Index.Close(); err != nil {
		t.Fatal(err)
	}
	s.ask(t, "", "GET", "/healthz", "").want(t, 200, "ok")
	s.ask(t, "", "GET", "/readyz", "").want(t, 503, "not ready")
}

func TestCounts(t *testing.T) {
	s := newTenants(t, nil)
	token := s.create(t, "c1", "")
	o, p := newObject(t, "hello", "hello"), newObject(t, "other", "other")
	s.push(t, token, "c1", o)
	for _, x := range []object{o, o, p} {
		s.ask(t, token, "GET", "/c1/"+x.hash+".narinfo", "")
		s.ask(t, "", "GET", "/c1/"+x.hash+".narinfo", "")
	}
	s.ask(t, token, "GET", "/"+strings.Repeat("x", 10)+"/"+o.hash+".narinfo", "")
	s.ask(t, token, "GET", "/c1/"+o.info.URL, "").want(t, 200, string(o.file))
	page := s.own.Metrics()
	for _, want := range []string{
		`garrison_cache_narinfo_total{cache="c1",result="hit"} 2`, `garrison_cache_narinfo_total{cache="c1",result="miss"} 1`,
		`garrison_cache_requests_total{route="GET /{cache}/{hash}.narinfo",status="200"} 2`, `garrison_cache_requests_total{route="GET /{cache}/{hash}.narinfo",status="401"} 4`,
		`garrison_cache_requests_total{route="PUT /{cache}/nar/{file}",status="200"} 1`, `garrison_cache_refused_total{reason="access"} 4`,
		`garrison_cache_request_duration_seconds_count{route="GET /{cache}/nar/{file}"} 1`, "garrison_cache_uploads_in_progress 0",
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("%s is not in\n%s", want, page)
		}
	}
	if strings.Contains(page, `cache=""`) {
		t.Errorf("who was not let in is counted:\n%s", page)
	}
	var info cache.Info
	if err := json.Unmarshal([]byte(s.ask(t, token, "GET", "/api/v1/caches/c1", "").body), &info); err != nil || info.Reads != (cache.Reads{Hits: 2, Misses: 1}) {
		t.Errorf("%+v, %v", info, err)
	}
}
