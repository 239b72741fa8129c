package cache_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/nar"
)

// atticPath is the description of a path as Attic's client sends it: all fields, null where it has nothing.
type atticPath struct {
	Cache         string   `json:"cache"`
	StorePathHash string   `json:"store_path_hash"`
	StorePath     string   `json:"store_path"`
	References    []string `json:"references"`
	System        *string  `json:"system"`
	Deriver       *string  `json:"deriver"`
	Sigs          []string `json:"sigs"`
	CA            *string  `json:"ca"`
	NarHash       string   `json:"nar_hash"`
	NarSize       int      `json:"nar_size"`
}

func (o object) attic() atticPath {
	p := atticPath{
		Cache: "c", StorePathHash: o.hash, StorePath: o.info.StorePath, References: []string{}, Sigs: []string{},
		NarHash: "sha256:" + hex.EncodeToString(o.info.NarHash[:]), NarSize: len(o.nar),
	}
	for _, r := range o.info.References {
		p.References = append(p.References, strings.TrimPrefix(r, "/nix/store/"))
	}
	return p
}

// atticClient is strict about what it gets.
type atticClient struct {
	t *testing.T
	s *cachetest.Server
}

// upload sends a path as Attic's client does: without a length, the description in a header, or at the front when that would be too long.
func (a atticClient) upload(p atticPath, archive []byte) answer {
	a.t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		a.t.Fatal(err)
	}
	if len(text) < 4096 {
		return a.send(archive, "X-Attic-Nar-Info", string(text))
	}
	return a.send(append(text, archive...), "X-Attic-Nar-Info-Preamble-Size", strconv.Itoa(len(text)))
}

func (a atticClient) send(body []byte, header ...string) answer {
	a.t.Helper()
	unsized := io.MultiReader(bytes.NewReader(body))
	req, err := http.NewRequestWithContext(a.t.Context(), "PUT", a.s.URL+"/_api/v1/upload-path", unsized)
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+cachetest.PushToken)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

// wantKind fails the test unless an upload came to that.
func (a atticClient) wantKind(got answer, kind string) {
	a.t.Helper()
	var result struct {
		Kind     string   `json:"kind"`
		FileSize *int     `json:"file_size"`
		Fraction *float64 `json:"frac_deduplicated"`
	}
	d := json.NewDecoder(strings.NewReader(got.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&result); err != nil || got.status != 200 || result.Kind != kind || result.FileSize == nil || *result.FileSize <= 0 {
		a.t.Errorf("got %d %s, %v; not %s", got.status, got.body, err, kind)
	}
}

// missing asks which paths are to be pushed.
func (a atticClient) missing(objects ...object) []string {
	a.t.Helper()
	query := map[string]any{"cache": "c", "store_path_hashes": []string{}}
	hashes := []string{}
	for _, o := range objects {
		hashes = append(hashes, o.hash)
	}
	query["store_path_hashes"] = hashes
	b, err := json.Marshal(query)
	if err != nil {
		a.t.Fatal(err)
	}
	got := call(a.t, a.s, "POST", "/_api/v1/get-missing-paths", b)
	var result map[string][]string
	if err := json.Unmarshal([]byte(got.body), &result); err != nil || len(result) != 1 || result["missing_paths"] == nil {
		a.t.Fatalf("%d %s, %v", got.status, got.body, err)
	}
	return result["missing_paths"]
}

func TestAtticUpload(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	a := atticClient{t, s}
	o := newObject(t, "hello", strings.Repeat("hello ", 10_000))
	p := o.attic()
	deriver, system := o.hash+"-hello.drv", "x86_64-linux"
	p.Deriver, p.System, p.Sigs = &deriver, &system, []string{"other:" + strings.Repeat("A", 86) + "==", "junk"}
	a.wantKind(a.upload(p, o.nar), "Uploaded")
	a.wantKind(a.upload(p, o.nar), "Deduplicated")
	info, err := nar.ParseNarInfo([]byte(call(t, s, "GET", "/c/"+o.hash+".narinfo", nil).body))
	if err != nil || !info.SignedBy(s.Key) || info.NarHash != o.info.NarHash || info.Deriver != "/nix/store/"+deriver || len(info.Sigs) != 2 {
		t.Fatalf("%+v, %v", info, err)
	}
	file := call(t, s, "GET", "/c/"+info.URL, nil)
	if int64(len(file.body)) != info.FileSize || len(file.body) > len(o.nar)/10 {
		t.Errorf("%d bytes are served, %d announced", len(file.body), info.FileSize)
	}
	call(t, s, "PUT", "/c/"+o.info.URL, []byte(file.body)).want(t, 200, "") // it is zstd of that archive

	many := newObject(t, "many", "many", o.info.StorePath)
	p = many.attic()
	p.Sigs = make([]string, 100)
	for i := range p.Sigs {
		p.Sigs[i] = fmt.Sprintf("key-%d:%s==", i, strings.Repeat("A", 86))
	}
	a.wantKind(a.upload(p, many.nar), "Uploaded") // described at the front
	if left := a.missing(o, many); len(left) != 0 {
		t.Errorf("missing: %q", left)
	}
	s.WantClean(t)
}

func TestAtticRefusals(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	a := atticClient{t, s}
	o := newObject(t, "hello", strings.Repeat("hello ", 50_000))
	change := func(f func(*atticPath)) atticPath { p := o.attic(); f(&p); return p }
	flipped := bytes.Clone(o.nar)
	flipped[200] ^= 1
	for name, c := range map[string]struct {
		p      atticPath
		nar    []byte
		status int
		text   string
	}{
		"another archive":   {o.attic(), flipped, 400, "NarHash"},
		"cut":               {o.attic(), o.nar[:len(o.nar)-8], 400, "refused"},
		"too much":          {o.attic(), append(bytes.Clone(o.nar), 0), 400, "refused"},
		"nothing":           {o.attic(), nil, 400, "refused"},
		"another size":      {change(func(p *atticPath) { p.NarSize++ }), o.nar, 400, "bytes, not"},
		"no size":           {change(func(p *atticPath) { p.NarSize = 0 }), o.nar, 400, "NarSize"},
		"another hash part": {change(func(p *atticPath) { p.StorePathHash = strings.Repeat("1", 32) }), o.nar, 400, "was uploaded as"},
		"another store":     {change(func(p *atticPath) { p.StorePath = "/gnu/store/" + o.hash + "-hello" }), o.nar, 400, "/gnu/store"},
		"not a path":        {change(func(p *atticPath) { p.StorePath = "hello" }), o.nar, 400, "store path"},
		"a bad hash":        {change(func(p *atticPath) { p.NarHash = "sha256:0" }), o.nar, 400, "hash"},
		"a bad reference":   {change(func(p *atticPath) { p.References = []string{"../" + o.hash + "-x"} }), o.nar, 400, "reference"},
		"no such cache":     {change(func(p *atticPath) { p.Cache = "d" }), o.nar, 404, "NoSuchCache"},
	} {
		a.upload(c.p, c.nar).want(t, c.status, c.text)
		s.WantClean(t)
		s.WantEmpty(t)
		if t.Failed() {
			t.Fatalf("in case %q", name)
		}
	}
	text, err := json.Marshal(o.attic())
	if err != nil {
		t.Fatal(err)
	}
	const inHeader, size = "X-Attic-Nar-Info", "X-Attic-Nar-Info-Preamble-Size"
	a.send(o.nar).want(t, 400, "RequestError")
	a.send(o.nar, inHeader, "{").want(t, 400, "JSON")
	a.send(o.nar, inHeader, string(text), size, "5").want(t, 400, "one of the headers")
	for _, n := range []string{"0", "-1", "x", strconv.Itoa(1<<20 + 1)} {
		a.send(append(text, o.nar...), size, n).want(t, 400, "1 to 1048576 bytes")
	}
	a.send(text, size, strconv.Itoa(len(text)+1)).want(t, 400, "broke off")
	a.send(o.nar, inHeader, string(text), "Authorization", "Bearer wrong").want(t, 401, `{"code":401,"error":"Unauthorized","message":`)
	large := bombHead(1 << 40)
	a.upload(change(func(p *atticPath) { p.NarSize = 1 << 40 }), append(large, make([]byte, 70<<20)...)).want(t, 413, "larger")
	s.WantClean(t)
	s.WantEmpty(t)
	a.wantKind(a.upload(o.attic(), o.nar), "Uploaded")
	second := newObject(t, "hello", "another build")
	a.upload(second.attic(), second.nar).want(t, 409, "the first upload wins")
}

// TestAtticBrokenUpload: a client that goes away in the middle leaves nothing.
func TestAtticBrokenUpload(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	o := newObject(t, "hello", strings.Repeat("hello ", 50_000))
	text, err := json.Marshal(o.attic())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PUT /_api/v1/upload-path HTTP/1.1\r\nHost: c\r\nAuthorization: bearer %s\r\nX-Attic-Nar-Info: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n",
		cachetest.PushToken, text, 100_000, o.nar[:100_000])
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s.WantClean(t)
	s.WantEmpty(t)
}

// TestAtticAnyOrder: Attic's client pushes a closure in any order, many paths at a time. Nothing is served before all
// that it refers to has come; then everything is, to whoever asks first, a replica that received none of it too.
func TestAtticAnyOrder(t *testing.T) {
	s := cachetest.Start(t, cache.Options{Alone: true}, nil) // what it remembers of absence must not last
	a := atticClient{t, s}
	r := rand.New(rand.NewPCG(1, 2))
	var objects []object
	for i := range 40 {
		o := newObject(t, fmt.Sprint("p", i), fmt.Sprint("content ", i))
		o.info.References = []string{o.info.StorePath}
		for _, other := range objects {
			if r.IntN(6) == 0 || other.hash == objects[len(objects)-1].hash {
				o.info.References = append(o.info.References, other.info.StorePath)
			}
		}
		objects = append(objects, o)
	}
	first, top := objects[0], objects[len(objects)-1]
	rest := objects[1:]
	r.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	var all sync.WaitGroup
	for i := range 5 {
		all.Go(func() {
			for j := i; j < len(rest); j += 5 {
				a.wantKind(a.upload(rest[j].attic(), rest[j].nar), "Uploaded")
			}
		})
	}
	all.Wait()
	for _, o := range rest { // each of them refers to the first by others
		call(t, s, "GET", "/c/"+o.hash+".narinfo", nil).want(t, 404, "NoSuchObject")
		call(t, s, "GET", "/c/"+o.info.URL, nil).want(t, 404, "NoSuchObject")
	}
	if left := a.missing(append(rest, first)...); len(left) != 1 || left[0] != first.hash {
		t.Errorf("missing: %q", left)
	}
	a.wantKind(a.upload(first.attic(), first.nar), "Uploaded")
	for _, o := range rest {
		call(t, s, "GET", "/c/"+o.hash+".narinfo", nil).want(t, 200, "StorePath: "+o.info.StorePath+"\n")
	}
	for p, refs := range wantWhole(t, s.Index) {
		if p == top.info.StorePath && len(refs) != len(top.info.References) {
			t.Errorf("%s refers to %q", p, refs)
		}
	}
}

// TestAtticSkipsUpstream: what Attic's client does not push, since another cache signed it, is pulled from there.
func TestAtticSkipsUpstream(t *testing.T) {
	up, down, _ := pulling(t, false)
	base, late := newObject(t, "base", "base"), newObject(t, "late", "late")
	lib := newObject(t, "lib", "lib", base.info.StorePath)
	base.put(t, up)
	lib.put(t, up)
	app := newObject(t, "app", "app", lib.info.StorePath, late.info.StorePath)
	a := atticClient{t, down}
	a.wantKind(a.upload(app.attic(), app.nar), "Uploaded")
	call(t, down, "GET", "/c/"+app.hash+".narinfo", nil).want(t, 404, "NoSuchObject")
	a.wantKind(a.upload(late.attic(), late.nar), "Uploaded")
	call(t, down, "GET", "/c/"+app.hash+".narinfo", nil).want(t, 200, app.info.StorePath)
	call(t, down, "GET", "/c/"+base.hash+".narinfo", nil).want(t, 200, base.info.StorePath)
	wantWhole(t, down.Index)
}

// TestIncompleteReference: what refers to a path that waits for another is refused, and taken once that has come.
func TestIncompleteReference(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	a := atticClient{t, s}
	base := newObject(t, "base", "base")
	lib := newObject(t, "lib", "lib", base.info.StorePath)
	ours := newObject(t, "ours", "ours", lib.info.StorePath)
	a.wantKind(a.upload(lib.attic(), lib.nar), "Uploaded")
	call(t, s, "PUT", "/c/"+ours.info.URL, ours.file).want(t, 200, "")
	call(t, s, "PUT", "/c/"+ours.hash+".narinfo", ours.info.Encode()).want(t, 400, lib.info.StorePath)
	a.wantKind(a.upload(base.attic(), base.nar), "Uploaded")
	call(t, s, "PUT", "/c/"+ours.hash+".narinfo", ours.info.Encode()).want(t, 200, "")
	if got := wantWhole(t, s.Index); len(got) != 3 {
		t.Errorf("%v", got)
	}
}

// TestAtticCircle: descriptions that claim to need each other are never served, and nothing hangs.
func TestAtticCircle(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	a := atticClient{t, s}
	o, p := newObject(t, "one", "one"), newObject(t, "two", "two")
	o.info.References, p.info.References = []string{p.info.StorePath}, []string{o.info.StorePath}
	for range 2 {
		a.upload(o.attic(), o.nar).want(t, 200, "")
		a.upload(p.attic(), p.nar).want(t, 200, "")
	}
	for _, x := range []object{o, p} {
		call(t, s, "GET", "/c/"+x.hash+".narinfo", nil).want(t, 404, "NoSuchObject")
	}
	record, err := s.Index.Lookup(t.Context(), "c", []string{o.hash})
	if err != nil || record[o.hash].Upstream != cache.Incomplete {
		t.Errorf("%+v, %v", record, err)
	}
}
