package client_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// atticServer answers what Attic's server answers, and nothing else; it is stricter, in that it wants a path's references before the path.
type atticServer struct {
	t   *testing.T
	key *nar.PrivateKey

	mu        sync.Mutex
	infos     map[string]*nar.NarInfo // by hash part
	archives  map[string][]byte       // by NarHash
	preambles int
}

// described is Attic's description of a path.
type described struct {
	Cache      string   `json:"cache"`
	Hash       string   `json:"store_path_hash"`
	StorePath  string   `json:"store_path"`
	References []string `json:"references"`
	System     *string  `json:"system"`
	Deriver    *string  `json:"deriver"`
	Sigs       []string `json:"sigs"`
	CA         *string  `json:"ca"`
	NarHash    string   `json:"nar_hash"`
	NarSize    int64    `json:"nar_size"`
}

func newAtticServer(t *testing.T, wrap func(http.Handler) http.Handler) (*atticServer, string) {
	a := &atticServer{t: t, key: generateKey(t, "attic"), infos: map[string]*nar.NarInfo{}, archives: map[string][]byte{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_api/v1/cache-config/c", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"public_key": a.key.Public().String(), "is_public": true, "upstream_cache_key_names": []string{"cache.nixos.org-1"}})
	})
	mux.HandleFunc("POST /_api/v1/get-missing-paths", a.missing)
	mux.HandleFunc("PUT /_api/v1/upload-path", func(w http.ResponseWriter, r *http.Request) {
		if err := a.upload(r); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			json.NewEncoder(w).Encode(map[string]any{"code": 400, "error": "RequestError", "message": err.Error()})
			return
		}
		fmt.Fprint(w, `{"kind":"Uploaded","file_size":1,"frac_deduplicated":null}`)
	})
	mux.HandleFunc("GET /c/{file}", a.read)
	mux.HandleFunc("GET /c/nar/{file}", func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		w.Write(a.archives[r.PathValue("file")])
	})
	s := httptest.NewServer(wrap(mux))
	t.Cleanup(s.Close)
	return a, s.URL
}

func (a *atticServer) missing(w http.ResponseWriter, r *http.Request) {
	var query struct {
		Cache  string   `json:"cache"`
		Hashes []string `json:"store_path_hashes"`
	}
	if err := json.NewDecoder(r.Body).Decode(&query); err != nil || query.Cache != "c" {
		a.t.Errorf("%+v, %v", query, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	missing := slices.DeleteFunc(query.Hashes, func(h string) bool { return a.infos[h] != nil })
	json.NewEncoder(w).Encode(map[string]any{"missing_paths": missing})
}

func (a *atticServer) upload(r *http.Request) error {
	if cacheToken := r.Header.Get("Authorization"); cacheToken != "Bearer "+cachetest.PushToken {
		return fmt.Errorf("the token is %q", cacheToken)
	}
	archive, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	text := []byte(r.Header.Get("X-Attic-Nar-Info"))
	a.mu.Lock()
	defer a.mu.Unlock()
	if size := r.Header.Get("X-Attic-Nar-Info-Preamble-Size"); size != "" {
		n, err := strconv.Atoi(size)
		if err != nil || n > 1<<20 || n > len(archive) || len(text) > 0 {
			return fmt.Errorf("a preamble of %s bytes: %v", size, err)
		}
		text, archive = archive[:n], archive[n:]
		a.preambles++
	} else if len(text) >= 4096 {
		return fmt.Errorf("%d bytes in a header", len(text))
	}
	var d described
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&d); err != nil {
		return err
	}
	sum := sha256.Sum256(archive)
	if d.Cache != "c" || d.NarHash != "sha256:"+hex.EncodeToString(sum[:]) || d.NarSize != int64(len(archive)) || !strings.Contains(d.StorePath, "/"+d.Hash+"-") {
		return fmt.Errorf("%+v is not what came", d)
	}
	info := &nar.NarInfo{PathInfo: nar.PathInfo{StorePath: d.StorePath, NarHash: sum, NarSize: d.NarSize, Sigs: d.Sigs},
		URL: "nar/" + d.NarHash, Compression: "none", FileHash: sum, FileSize: d.NarSize}
	for _, base := range d.References {
		hash, _, _ := strings.Cut(base, "-")
		if a.infos[hash] == nil && hash != d.Hash {
			return fmt.Errorf("%s comes before %s", d.StorePath, base)
		}
		info.References = append(info.References, path.Dir(d.StorePath)+"/"+base)
	}
	if d.CA != nil {
		info.CA = *d.CA
	}
	if d.Deriver != nil {
		info.Deriver = path.Dir(d.StorePath) + "/" + *d.Deriver
	}
	if err := info.Validate(); err != nil {
		return err
	}
	info.Sigs = append(info.Sigs, a.key.Sign(info.Fingerprint()))
	a.infos[d.Hash], a.archives[d.NarHash] = info, archive
	return nil
}

func (a *atticServer) read(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	file := r.PathValue("file")
	info := a.infos[strings.TrimSuffix(file, ".narinfo")]
	switch {
	case file == "nix-cache-info":
		fmt.Fprint(w, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 41\n")
	case info == nil:
		w.WriteHeader(http.StatusNotFound)
	default:
		w.Write(info.Encode())
	}
}

func TestPushToAttic(t *testing.T) {
	t.Parallel()
	a, u := newAtticServer(t, func(h http.Handler) http.Handler { return &faulty{Handler: h, failures: 3} })
	store := cachetest.NewStore(t)
	paths := store.BuildClosure(t, "attic")
	c, err := client.New(client.Config{URL: u + "/c", Token: func() (string, error) { return cachetest.PushToken, nil }, Attempts: 12})
	if err != nil {
		t.Fatal(err)
	}
	stats, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: store.Dir()})
	if err != nil || stats.Pushed != len(paths) || len(a.infos) != len(paths) {
		t.Fatalf("%+v, %d paths, %v", stats, len(a.infos), err)
	}
	again, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: store.Dir()})
	if err != nil || again.Pushed != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
	top := paths[len(paths)-1].StorePath
	for name, asking := range map[string]string{"found": u + "/c", "named": "attic+" + u + "/c"} {
		have, missing, err := newClient(t, asking, cachetest.PushToken).Closure(t.Context(), []string{top})
		if err != nil || len(missing) != 0 || len(have) != len(paths) {
			t.Errorf("%s: %d paths, missing %v, %v", name, len(have), missing, err)
		}
	}
	plainly, v := newAtticServer(t, func(h http.Handler) http.Handler { return h })
	if _, err := newClient(t, v+"/c", cachetest.PushToken).Push(t.Context(), paths, client.PushOptions{RealStoreDir: store.Dir()}); err != nil {
		t.Fatal(err)
	}
	wantCopied(t, v+"/c", top, plainly.key.Public())
}

// TestAtticDetails: a long description goes before the archive, what cache.nixos.org signed does not go at all, and a path that
// refers to it does.
func TestAtticDetails(t *testing.T) {
	t.Parallel()
	a, u := newAtticServer(t, func(h http.Handler) http.Handler { return h })
	dir, paths := store(t, 100)                                                      // the first refers to all others
	paths[99].Sigs = []string{"cache.nixos.org-1:" + strings.Repeat("A", 86) + "=="} // nothing that counts
	stats, err := newClient(t, u+"/c", cachetest.PushToken).Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir})
	if err != nil || stats.Pushed != 100 || stats.Upstream != 0 || a.preambles == 0 || a.preambles == 100 {
		t.Errorf("%+v, %d preambles, %v", stats, a.preambles, err)
	}
	if _, err := newClient(t, u+"/c", "wrong").Push(t.Context(), []nar.PathInfo{describe(t, strings.Repeat("1", 32)+"-x", "x")}, client.PushOptions{RealStoreDir: dir}); fleet.CodeOf(err) == "" {
		t.Error("a refused upload is no error")
	}
}

// TestPushToRealServerAsAttic pushes by Attic's API alone to a server that has it: all else is hidden, what only Garrison answers too.
func TestPushToRealServerAsAttic(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	asked := map[string]bool{}
	s := cachetest.NewServer(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			asked[r.Method+" "+path.Dir(r.URL.Path)] = true
			mu.Unlock()
			answer := httptest.NewRecorder()
			switch {
			case strings.HasPrefix(r.URL.Path, "/api/") || r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, "/c/"):
				http.NotFound(answer, r)
			default:
				h.ServeHTTP(answer, r)
			}
			text := answer.Body.Bytes()
			var known map[string]any
			if r.Method == http.MethodPost && json.Unmarshal(text, &known) == nil {
				delete(known, "stored_nars")
				text, _ = json.Marshal(known)
			}
			answer.Header().Del("Content-Length")
			maps.Copy(w.Header(), answer.Header())
			w.WriteHeader(answer.Code)
			w.Write(text)
		})
	})
	store := cachetest.NewStore(t)
	paths := store.BuildClosure(t, "attic on a real server")
	top := paths[len(paths)-1].StorePath
	c := newClient(t, s.CacheURL(), cachetest.PushToken)
	stats, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: store.Dir()})
	if err != nil || stats.Pushed != len(paths) || !asked["PUT /_api/v1"] || asked["PUT /c/nar"] {
		t.Fatalf("%+v, %v, %v", stats, asked, err)
	}
	if again, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: store.Dir()}); err != nil || again.Pushed != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
	have, missing, err := c.Closure(t.Context(), []string{top})
	if err != nil || len(missing) != 0 || len(have) != len(paths) {
		t.Errorf("%d paths, missing %v, %v", len(have), missing, err)
	}
	wantCopied(t, s.CacheURL(), top, s.Key)
}
