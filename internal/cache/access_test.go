package cache_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
)

// tenants is a server whose tokens are keyed by a secret in a file.
type tenants struct {
	*cachetest.Server
	key *cache.TokenKey
	own *cache.Server
	url string
}

func (s *tenants) at() *httptest.Server { return &httptest.Server{URL: s.url} }

const attic = "https://jwt.attic.rs/v1"

func newTenants(t *testing.T, change func(*cache.Options)) *tenants {
	t.Helper()
	s := cachetest.NewServer(t, nil)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("Z2Fycmlzb24gZ2Fycmlzb24gZ2Fycmlzb24gZ2Fycmlzb24=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := cache.OpenTokenKeys([]string{file})
	if err != nil {
		t.Fatal(err)
	}
	key, err := cache.ReadTokenKey(file)
	if err != nil {
		t.Fatal(err)
	}
	o := cache.Options{Blobs: s.Blobs, Index: s.Index, Tokens: keys.Grant, MaxNarBytes: 64 << 20}
	if change != nil {
		change(&o)
	}
	own := cache.New(o)
	h := httptest.NewServer(own.Handler())
	t.Cleanup(h.Close)
	return &tenants{Server: s, key: key, own: own, url: h.URL}
}

// token makes one that ends in an hour, with those permissions on patterns: "secret*" to Pull.
func (s *tenants) token(t *testing.T, grants ...cache.CacheGrant) string {
	t.Helper()
	return s.sign(t, cache.Grant{Subject: "tester", ExpiresAt: time.Now().Add(time.Hour), Caches: grants})
}

func (s *tenants) sign(t *testing.T, g cache.Grant) string {
	t.Helper()
	token, err := s.key.Sign(&g, time.Now().Add(-2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// ask makes a request; token may be "".
func (s *tenants) ask(t *testing.T, token, method, path, body string) answer {
	t.Helper()
	of := &cachetest.Server{Server: s.at()}
	header := ""
	if token != "" {
		header = "Bearer " + token
	}
	return call(t, of, method, path, []byte(body), "Authorization", header)
}

// create makes a private cache, and returns a token that may do everything with it.
func (s *tenants) create(t *testing.T, name, settings string) string {
	t.Helper()
	token := s.token(t, cache.CacheGrant{Pattern: name, May: cache.Everything})
	s.ask(t, token, "POST", "/_api/v1/cache-config/"+name,
		`{"keypair":"Generate","store_dir":"/nix/store","priority":40,"upstream_cache_key_names":[]`+settings+`}`).want(t, 200, "")
	return token
}

func (s *tenants) push(t *testing.T, token, name string, o object) {
	t.Helper()
	s.ask(t, token, "PUT", "/"+name+"/"+o.info.URL, string(o.file)).want(t, 200, "")
	s.ask(t, token, "PUT", "/"+name+"/"+o.hash+".narinfo", string(o.info.Encode())).want(t, 200, "")
}

// routes are those of the server, as its source has them.
func routes(t *testing.T) [][2]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all [][2]string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`handle\("([A-Z]+) (/[^"]*)"`).FindAllStringSubmatch(string(b), -1) {
			all = append(all, [2]string{m[1], m[2]})
		}
	}
	if len(all) < 15 {
		t.Fatalf("only %d routes are found", len(all))
	}
	return all
}

// TestStrangersLearnNothing walks all routes: who may do nothing with a private cache gets the same answer whether it, and what it asks for, is
// there or not; and the index is not even asked, so that time tells nothing either.
func TestStrangersLearnNothing(t *testing.T) {
	s := newTenants(t, nil)
	there, absent := newObject(t, "there", "there"), newObject(t, "absent", "absent")
	owner := s.create(t, "secret", "")
	s.push(t, owner, "secret", there)
	s.ask(t, owner, "PUT", "/secret/log/"+drvOf(there), "log").want(t, 200, "")
	s.create(t, "other", "")

	// From here on only strangers come.
	strangers := newTenants(t, func(o *cache.Options) {
		o.Blobs, o.Index = nil, &guarded{t: t, real: s.Index}
	})
	ended := s.sign(t, cache.Grant{ExpiresAt: time.Now().Add(-time.Hour), Caches: cache.CacheGrants{{Pattern: "*", May: cache.Everything}}})
	elsewhere := s.token(t, cache.CacheGrant{Pattern: "other", May: cache.Everything})
	all := routes(t)
	for _, route := range all {
		if route[0] == "GET" {
			all = append(all, [2]string{"HEAD", route[1]})
		}
	}
	for _, route := range all {
		method, pattern := route[0], route[1]
		for who, token := range map[string]string{"nobody": "", "nonsense": "x.y.z", "ended": ended, "elsewhere": elsewhere} {
			var first answer
			for i, c := range []struct {
				name string
				o    object
			}{{"secret", there}, {"secret", absent}, {"nothing", there}, {"nothing", absent}} {
				body := fmt.Sprintf(`{"cache":%q,"store_path_hashes":[%q],"storePaths":[%q],"nar_hashes":[%q],"id":"another","keypair":"Generate","is_public":true,
					"store_path_hash":%[2]q,"store_path":%[3]q,"nar_hash":"sha256:%[5]x","nar_size":%[6]d}`,
					c.name, c.o.hash, c.o.info.StorePath, c.o.info.NarHash, c.o.info.NarHash[:], c.o.info.NarSize)
				a := call(t, &cachetest.Server{Server: strangers.at()}, method, fill(pattern, c.name, c.o), []byte(body),
					"Authorization", "bearer "+token, "X-Attic-Nar-Info", strings.ReplaceAll(body, "\n", " "))
				a.header.Del("Date")
				if strings.Contains(a.body, "secret") || (strings.Contains(pattern, "{cache}") || strings.HasSuffix(pattern, "/upload-path")) && a.status != 401 {
					t.Errorf("%s asks %s %s: %d %s", who, method, pattern, a.status, a.body)
				}
				if i == 0 {
					first = a
				} else if a.status != first.status || a.body != first.body || !maps.EqualFunc(a.header, first.header, func(a, b []string) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
					t.Errorf("%s asks %s %s: %d %s %v, but %d %s %v of what is there", who, method, pattern, a.status, a.body, a.header, first.status, first.body, first.header)
				}
			}
		}
	}
}

func drvOf(o object) string { return o.hash + "-hello.drv" }

// fill puts values in the place of a pattern's names.
func fill(pattern, name string, o object) string {
	file := o.hash + ".narinfo"
	if strings.Contains(pattern, "/nar/") {
		file = strings.TrimPrefix(o.info.URL, "nar/")
	}
	path := strings.NewReplacer("{cache}", name, "{file}", file, "{drv}", drvOf(o), "{$}", "", "...}", "}").Replace(pattern)
	return regexp.MustCompile(`\{[a-zA-Z]+\}`).ReplaceAllString(path, o.info.NarHash.Nix32())
}

// guarded fails the test when it is asked for anything but caches and revoked tokens.
type guarded struct {
	cache.Index // nil: whatever is not below ends the request
	t           *testing.T
	real        cache.Index
}

func TestPermissions(t *testing.T) {
	s := newTenants(t, nil)
	o := newObject(t, "hello", "hello")
	all := s.create(t, "team-a", "")
	s.push(t, all, "team-a", o)
	query := fmt.Sprintf(`{"cache":"team-a","store_path_hashes":[%q]}`, o.hash)
	calls := []struct {
		needs              cache.Permission
		method, path, body string
	}{
		{cache.Pull, "GET", "/team-a/nix-cache-info", ""},
		{cache.Pull, "GET", "/team-a/" + o.hash + ".narinfo", ""},
		{cache.Pull, "GET", "/team-a/" + o.info.URL, ""},
		{cache.Pull, "GET", "/_api/v1/cache-config/team-a", ""},
		{cache.Pull, "GET", "/api/v1/caches/team-a", ""},
		{cache.Pull, "POST", "/api/v1/caches/team-a/closure", `{"storePaths":["` + o.info.StorePath + `"]}`},
		{cache.Push, "PUT", "/team-a/" + o.info.URL, string(o.file)},
		{cache.Push, "PUT", "/team-a/" + o.hash + ".narinfo", string(o.info.Encode())},
		{cache.Push, "POST", "/_api/v1/get-missing-paths", query},
		{cache.Configure, "PATCH", "/_api/v1/cache-config/team-a", `{"priority":30}`},
		{cache.Configure, "PATCH", "/_api/v1/cache-config/team-a", `{"priority":31,"retention_period":"Global"}`},
		{cache.Configure | cache.ConfigureRetention, "PATCH", "/_api/v1/cache-config/team-a", `{"retention_period":{"Period":90000}}`},
		{cache.Configure | cache.ConfigureRetention, "PATCH", "/_api/v1/cache-config/team-a", `{"retention_period":"Global"}`},
		{cache.Configure | cache.ConfigureRetention, "PATCH", "/_api/v1/cache-config/team-a", `{"max_bytes":1000000}`},
		{cache.Configure | cache.ConfigureRetention, "PATCH", "/_api/v1/cache-config/team-a", `{"max_bytes":0}`},
		{cache.Configure, "POST", "/api/v1/caches/team-a/keys", `{"keypair":"Generate"}`},
		{cache.Configure, "DELETE", "/api/v1/caches/team-a/keys/team-a-2", ""},
	}
	for _, c := range calls {
		try := func(may cache.Permission, status int) {
			t.Helper()
			a := s.ask(t, s.token(t, cache.CacheGrant{Pattern: "team-*", May: may}), c.method, c.path, c.body)
			if a.status != status {
				t.Errorf("%s %s %s with %q: %d %s", c.method, c.path, c.body, may, a.status, a.body)
			}
		}
		try(0, 401)
		for bit := cache.Pull; bit < cache.Everything; bit <<= 1 {
			if c.needs&bit != 0 {
				try(cache.Everything&^bit, 403)
			}
		}
		try(c.needs, 200)
	}
	s.ask(t, s.token(t, cache.CacheGrant{Pattern: "*", May: cache.Everything &^ cache.Destroy}), "DELETE", "/_api/v1/cache-config/team-a", "").want(t, 403, "destroy")
	s.ask(t, s.token(t, cache.CacheGrant{Pattern: "*", May: cache.Pull}), "GET", "/team-b/nix-cache-info", "").want(t, 404, "NoSuchCache")
	s.ask(t, s.token(t, cache.CacheGrant{Pattern: "*", May: cache.Everything &^ cache.Create}), "POST", "/_api/v1/cache-config/team-b", "{}").want(t, 403, "create")
	// The very name wins over patterns, and the first pattern over the others.
	s.ask(t, s.token(t, cache.CacheGrant{Pattern: "*", May: cache.Everything}, cache.CacheGrant{Pattern: "team-a", May: cache.Push}), "GET", "/team-a/nix-cache-info", "").want(t, 403, "AccessError")
	s.ask(t, s.token(t, cache.CacheGrant{Pattern: "t*a", May: cache.Pull}, cache.CacheGrant{Pattern: "*", May: cache.Push}), "GET", "/team-a/nix-cache-info", "").want(t, 200, "StoreDir")
	// Public caches are read by anybody, and no more than that.
	s.ask(t, all, "PATCH", "/_api/v1/cache-config/team-a", `{"is_public":true}`).want(t, 200, "")
	a := s.ask(t, "", "GET", "/team-a/"+o.hash+".narinfo", "")
	if a.want(t, 200, o.info.StorePath); a.header.Get("X-Attic-Cache-Visibility") != "public" {
		t.Errorf("%v", a.header)
	}
	s.ask(t, "", "PUT", "/team-a/"+o.info.URL, string(o.file)).want(t, 401, "needs a token")
	s.ask(t, all, "DELETE", "/_api/v1/cache-config/team-a", "").want(t, 200, "")
	s.ask(t, all, "GET", "/team-a/nix-cache-info", "").want(t, 404, "NoSuchCache")
}

// TestAHashIsNotEnough: who knows the NarHash of what another cache has cannot have it, nor learn that it is there, without sending it.
func TestAHashIsNotEnough(t *testing.T) {
	s := newTenants(t, nil)
	owner, stranger := s.create(t, "secret", ""), s.create(t, "mine", "")
	o := newObject(t, "hello", "the secret")
	s.push(t, owner, "secret", o)
	query := fmt.Sprintf(`{"cache":"mine","store_path_hashes":[%q],"nar_hashes":[%q]}`, o.hash, o.info.NarHash)
	s.ask(t, stranger, "POST", "/_api/v1/get-missing-paths", query).want(t, 200, `"stored_nars":[]`)
	s.ask(t, stranger, "PUT", "/mine/"+o.hash+".narinfo", string(o.info.Encode())).want(t, 400, "is not here")
	s.ask(t, stranger, "GET", "/mine/"+o.info.URL, "").want(t, 404, "")
	s.ask(t, stranger, "PUT", "/mine/"+o.info.URL, string(o.file[:len(o.file)-1])).want(t, 400, "")
	s.ask(t, stranger, "PUT", "/mine/"+o.hash+".narinfo", string(o.info.Encode())).want(t, 400, "is not here")
	// Who sends it has it, and it is stored once.
	before := blobs(t, s)
	s.ask(t, stranger, "PUT", "/mine/"+o.info.URL, string(o.file)).want(t, 200, "")
	s.ask(t, stranger, "POST", "/_api/v1/get-missing-paths", query).want(t, 200, fmt.Sprintf(`"stored_nars":[%q]`, o.info.NarHash))
	s.ask(t, stranger, "PUT", "/mine/"+o.hash+".narinfo", string(o.info.Encode())).want(t, 200, "")
	s.ask(t, stranger, "GET", "/mine/"+o.info.URL, "").want(t, 200, string(o.file))
	if blobs(t, s) != before {
		t.Error("it is stored twice")
	}
}

func TestTokensThatEnd(t *testing.T) {
	s := newTenants(t, nil)
	s.create(t, "c1", "")
	may := cache.CacheGrants{{Pattern: "c1", May: cache.Pull}}
	for name, c := range map[string]struct {
		ends   time.Duration // 0: never
		status int
		told   bool
	}{"long": {15 * 24 * time.Hour, 200, false}, "soon": {13 * 24 * time.Hour, 200, true}, "for ever": {0, 200, false}, "past": {-2 * time.Minute, 401, false}} {
		g := cache.Grant{Subject: name, Caches: may}
		if c.ends != 0 {
			g.ExpiresAt = time.Now().Add(c.ends)
		}
		a := s.ask(t, s.sign(t, g), "GET", "/c1/nix-cache-info", "")
		if a.status != c.status || (a.header.Get(cache.ExpiryHeader) != "") != c.told {
			t.Errorf("%s: %d %s %v", name, a.status, a.body, a.header)
		}
	}
	s.ask(t, s.sign(t, cache.Grant{Caches: may, ExpiresAt: time.Now().Add(-time.Hour)}), "GET", "/c1/nix-cache-info", "").want(t, 401, "it ended on")
	// One that was good a moment ago ends like any other. (A minute is allowed for.)
	ending := s.sign(t, cache.Grant{Caches: may, ExpiresAt: time.Now().Add(2*time.Second - time.Minute)})
	s.ask(t, ending, "GET", "/c1/nix-cache-info", "").want(t, 200, "")
	for begin := time.Now(); s.ask(t, ending, "GET", "/c1/nix-cache-info", "").status != 401; time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("a token does not end")
		}
	}
	later, err := s.key.Sign(&cache.Grant{Caches: may}, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	s.ask(t, later, "GET", "/c1/nix-cache-info", "").want(t, 401, "valid from")
}

func TestRevocation(t *testing.T) {
	s := newTenants(t, nil)
	s.create(t, "c1", "")
	admin := s.token(t, cache.CacheGrant{Pattern: "*", May: cache.Everything})
	own, other := s.token(t, cache.CacheGrant{Pattern: "c1", May: cache.Pull}), s.token(t, cache.CacheGrant{Pattern: "c1", May: cache.Pull})
	read := func(token string, status int) {
		t.Helper()
		s.ask(t, token, "GET", "/c1/nix-cache-info", "").want(t, status, "")
	}
	read(own, 200)
	id, err := cache.PeekToken(other)
	if err != nil {
		t.Fatal(err)
	}
	s.ask(t, own, "POST", "/api/v1/tokens/revoke", fmt.Sprintf(`{"id":%q}`, id.ID)).want(t, 403, "revoke another")
	read(other, 200)
	s.ask(t, admin, "POST", "/api/v1/tokens/revoke", fmt.Sprintf(`{"id":%q}`, id.ID)).want(t, 200, "")
	read(other, 401)
	s.ask(t, other, "GET", "/c1/nix-cache-info", "").want(t, 401, "revoked")
	s.ask(t, own, "POST", "/api/v1/tokens/revoke", `{}`).want(t, 200, "")
	read(own, 401)
	s.ask(t, "", "POST", "/api/v1/tokens/revoke", `{}`).want(t, 401, "")
	s.ask(t, admin, "POST", "/api/v1/tokens/revoke", `{"id":""}`).want(t, 400, "")

	// Another replica learns of it by itself.
	replica := newTenants(t, func(o *cache.Options) { o.Index = s.Index })
	third := s.token(t, cache.CacheGrant{Pattern: "c1", May: cache.Pull})
	replica.ask(t, third, "GET", "/c1/nix-cache-info", "").want(t, 200, "")
	s.ask(t, third, "POST", "/api/v1/tokens/revoke", `{}`).want(t, 200, "")
	for begin := time.Now(); replica.ask(t, third, "GET", "/c1/nix-cache-info", "").status != 401; time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("another replica does not notice that a token was revoked")
		}
	}
}

// TestAtticTokens has tokens as Attic's atticadm writes them: without an id, in a netrc's Basic.
func TestAtticTokens(t *testing.T) {
	s := newTenants(t, nil)
	s.create(t, "c1", "")
	claims := map[string]any{"sub": "meow", "exp": 4102324986, attic: map[string]any{"caches": map[string]any{"c*": map[string]int{"r": 1, "w": 1, "x": 1}, "d": map[string]int{"r": 1}}}}
	token := signHS256(t, claims)
	a := call(t, &cachetest.Server{Server: s.at()}, "GET", "/c1/nix-cache-info", nil, "Authorization", basic("who", token))
	a.want(t, 200, "StoreDir")
	// Another spelling of the same signature is not another token.
	last := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	at := strings.IndexByte(last, token[len(token)-1])
	for i := range 4 {
		if at&^3+i != at {
			s.ask(t, token[:len(token)-1]+string(last[at&^3+i]), "GET", "/c1/nix-cache-info", "").want(t, 401, "")
		}
	}
	g, err := cache.PeekToken(token)
	if err != nil || !strings.HasPrefix(g.ID, "sha256-") || g.Subject != "meow" {
		t.Errorf("%+v, %v", g, err)
	}
	s.ask(t, token, "POST", "/api/v1/tokens/revoke", `{}`).want(t, 200, "")
	s.ask(t, token, "GET", "/c1/nix-cache-info", "").want(t, 401, "revoked")
	for _, wrong := range []any{map[string]any{"c*": map[string]any{"r": 2}}, map[string]any{"c/": map[string]int{"r": 1}}, []string{"c1"}, map[string]any{"c1": 1}} {
		s.ask(t, signHS256(t, map[string]any{"exp": 4102324986, attic: map[string]any{"caches": wrong}}), "GET", "/c1/nix-cache-info", "").want(t, 401, "not valid")
	}
	none := strings.Split(token, ".")
	s.ask(t, "eyJhbGciOiJub25lIn0."+none[1]+".", "GET", "/c1/nix-cache-info", "").want(t, 401, "not valid")
}

func basic(user, password string) string {
	r := &http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

func FuzzGrants(f *testing.F) {
	f.Add([]byte(`{"a":{"r":1},"b*":{"cq":true,"cd":0}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var g cache.CacheGrants
		if json.Unmarshal(b, &g) != nil {
			return
		}
		text, err := json.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		var again cache.CacheGrants
		if err := json.Unmarshal(text, &again); err != nil || fmt.Sprint(again) != fmt.Sprint(g) {
			t.Errorf("%s became %s: %v", b, text, err)
		}
	})
}
