package cache_test

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/nar"
)

func generate(t *testing.T, name string) *nar.PrivateKey {
	t.Helper()
	k, err := nar.GenerateKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (o object) signedBy(k *nar.PrivateKey) object {
	o.info.Sigs = []string{k.Sign(o.info.Fingerprint())}
	return o
}

// wantMissing asks which of the objects are missing.
func wantMissing(t *testing.T, s *cachetest.Server, objects []object, want ...object) {
	t.Helper()
	hashes := func(list []object) []string {
		out := []string{}
		for _, o := range list {
			out = append(out, o.hash)
		}
		return out
	}
	b, err := json.Marshal(map[string]any{"cache": "c", "store_path_hashes": hashes(objects)})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := json.Marshal(map[string]any{"missing_paths": hashes(want)})
	if err != nil {
		t.Fatal(err)
	}
	call(t, s, "POST", "/_api/v1/get-missing-paths", b).want(t, 200, string(answer))
}

func TestUpstreamPaths(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	up, impostor := generate(t, "up"), generate(t, "up")
	glibc := newObject(t, "glibc", "glibc")
	curl := newObject(t, "curl", "curl", glibc.info.StorePath)
	top := newObject(t, "top", "top", curl.info.StorePath)
	tell := func(o object) answer { return call(t, s, "PUT", "/c/"+o.hash+".narinfo", o.info.Encode()) }

	// While there is no upstream, nobody's signature spares an archive.
	tell(glibc.signedBy(up)).want(t, 400, "is not here")
	s.Cache.Upstreams = []nar.PublicKey{up.Public()}
	forged := glibc.signedBy(up)
	forged.info.NarSize++
	resigned := curl.signedBy(up)
	resigned.info.Sigs = glibc.signedBy(up).info.Sigs
	for name, o := range map[string]object{
		"unsigned": glibc, "a key of the same name": glibc.signedBy(impostor), "another size": forged, "another path's signature": resigned,
	} {
		a := tell(o)
		a.want(t, 400, "is not here")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	tell(curl.signedBy(up)).want(t, 400, glibc.info.StorePath+", which the cache does not have")
	all := []object{glibc, curl, top}
	wantMissing(t, s, all, all...)

	tell(glibc.signedBy(up)).want(t, 200, "")
	tell(curl.signedBy(up)).want(t, 200, "")
	wantMissing(t, s, all, top)
	call(t, s, "GET", "/c/"+curl.hash+".narinfo", nil).want(t, 404, "NoSuchObject")
	call(t, s, "GET", "/c/"+curl.info.URL, nil).want(t, 404, "NoSuchObject")
	top.put(t, s)
	wantMissing(t, s, all)
	wantClosure(t, s, top, "", up.Public().String(), up.Public().String())
	call(t, s, "GET", "/api/v1/caches/c", nil).want(t, 200, `"upstreams":["`+up.Public().String()+`"],"paths":1,`)
	call(t, s, "GET", "/_api/v1/cache-config/c", nil).want(t, 200, `"upstream_cache_key_names":["up"]`)

	// Somebody wants one here after all.
	curl.put(t, s)
	call(t, s, "GET", "/c/"+curl.hash+".narinfo", nil).want(t, 200, "Sig: c:")
	wantClosure(t, s, top, "", "", up.Public().String())
	tell(curl.signedBy(up)).want(t, 200, "")
	call(t, s, "GET", "/c/"+curl.hash+".narinfo", nil).want(t, 200, "Sig: c:")
	// Its archive is lost: the upstream has it still.
	if err := os.Remove(s.BlobFile(t, curl.info.NarHash)); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, s, all, curl)
	tell(curl.signedBy(up)).want(t, 200, "")
	wantMissing(t, s, all)

	// An upstream that is not trusted any more has nothing.
	s.Cache.Upstreams = []nar.PublicKey{impostor.Public()}
	wantMissing(t, s, all, glibc, curl)
	call(t, s, "POST", "/api/v1/caches/c/closure", []byte(`{"storePaths":["`+top.info.StorePath+`"]}`)).
		want(t, 200, `"missing":["`+curl.info.StorePath+`"]`)
}

// wantClosure wants the closure of a path to be whole, and each of its paths, from the top on, to be at an upstream or here ("").
func wantClosure(t *testing.T, s *cachetest.Server, top object, upstreams ...string) {
	t.Helper()
	a := call(t, s, "POST", "/api/v1/caches/c/closure", []byte(`{"storePaths":["`+top.info.StorePath+`"]}`))
	var got cache.Closure
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 {
		t.Fatal(a.status, a.body, err)
	}
	var at []string
	for _, p := range got.Paths {
		at = append(at, p.Upstream)
	}
	if !slices.Equal(at, upstreams) || len(got.Missing) != 0 {
		t.Errorf("%s", a.body)
	}
}

func TestClosureQuery(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o := newObject(t, "hello", "hello")
	o.info.References = []string{o.info.StorePath}
	o.put(t, s)
	ask := func(body string) answer { return call(t, s, "POST", "/api/v1/caches/c/closure", []byte(body)) }
	ask(`{"storePaths":["`+o.info.StorePath+`","`+o.info.StorePath+`"]}`).want(t, 200, `{"schema":1,"paths":[{"storePath":"`+o.info.StorePath+`","narHash":"`+o.info.NarHash.String()+`"`)
	ask(`{"storePaths":["`+o.info.StorePath+`-2"]}`).want(t, 200, `"paths":[],"missing":["`+o.info.StorePath+`-2"]`)
	ask(`{}`).want(t, 200, `{"schema":1,"paths":[],"missing":[]}`)
	ask(`{"storePaths":["/etc/passwd"]}`).want(t, 400, "/etc/passwd")
	ask(`{`).want(t, 400, "JSON")
	call(t, s, "POST", "/api/v1/caches/d/closure", []byte("{}")).want(t, 404, "NoSuchCache")
}

// TestNixFetchesFromBothCaches has a host put a system together from our cache and the upstream that part of it came from.
func TestNixFetchesFromBothCaches(t *testing.T) {
	from, builder, host := cachetest.NewStore(t), cachetest.NewStore(t), cachetest.NewStore(t)
	upstream, ours := cachetest.NewServer(t, nil), cachetest.NewServer(t, nil)
	key := generate(t, "up")
	if err := upstream.Cache.EnsureCache(t.Context(), "up", key); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{URL: upstream.URL + "/up", Token: func() (string, error) { return cachetest.PushToken, nil }})
	if err != nil {
		t.Fatal(err)
	}
	theirs := from.BuildClosure(t, t.Name())
	if _, err := c.Push(t.Context(), theirs, client.PushOptions{RealStoreDir: from.Dir()}); err != nil {
		t.Fatal(err)
	}
	lib := theirs[len(theirs)-1].StorePath
	builder.Nix(t, "copy", "--from", c.URL(), "--option", "trusted-public-keys", key.Public().String(), lib)
	paths := builder.BuildOn(t, lib)
	top := paths[len(paths)-1].StorePath

	ours.Cache.Upstreams = []nar.PublicKey{key.Public()}
	stats, err := newClient(t, ours).Push(t.Context(), paths, client.PushOptions{RealStoreDir: builder.Dir()})
	if err != nil || stats.Pushed != 1 || stats.Upstream != len(theirs) {
		t.Fatalf("%+v, %v", stats, err)
	}
	have, missing, err := newClient(t, ours).Closure(t.Context(), []string{top})
	if err != nil || len(missing) != 0 || len(have) != len(paths) {
		t.Errorf("%d of %d paths, missing %v, %v", len(have), len(paths), missing, err)
	}
	fetch := func(caches, keys string) error {
		_, err := host.TryNix(t, "build", "--no-link", "--option", "substitute", "true", "--option", "substituters", caches, "--option", "trusted-public-keys", keys, top)
		return err
	}
	both, keys := ours.CacheURL()+" "+c.URL(), ours.Key.String()+" "+key.Public().String()
	if fetch(ours.CacheURL(), keys) == nil {
		t.Error("our cache alone served what it does not have")
	}
	if fetch(both, ours.Key.String()) == nil {
		t.Error("a host took upstream paths without knowing the upstream's key")
	}
	if err := fetch(both, keys); err != nil {
		t.Fatal(err)
	}
	if got := host.Closure(t, top); len(got) != len(paths) {
		t.Errorf("%d of %d paths arrived", len(got), len(paths))
	}
}
