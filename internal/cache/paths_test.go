package cache_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
)

const pathsURL = "/api/v1/caches/c/paths"

// narInfosOf is what brings the descriptions of several paths.
func narInfosOf(paths ...object) []byte {
	var texts []string
	for _, o := range paths {
		texts = append(texts, string(o.info.Encode()))
	}
	b, _ := json.Marshal(map[string][]string{"narinfos": texts}) // texts always marshal
	return b
}

// TestPathsTogether: each may refer to those before it; up to the first bad one they are stored, and what is there otherwise is told.
func TestPathsTogether(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	lib := newObject(t, "lib", "lib")
	app := newObject(t, "app", "app", lib.info.StorePath)
	top := newObject(t, "top", "top", app.info.StorePath)
	there := func(want ...bool) {
		t.Helper()
		for i, o := range []object{lib, app, top} {
			status := 404
			if want[i] {
				status = 200
			}
			call(t, s, "GET", "/c/"+o.hash+".narinfo", nil).want(t, status, "")
		}
	}
	call(t, s, "PUT", "/c/"+lib.info.URL, lib.file).want(t, 200, "")
	call(t, s, "PUT", "/c/"+app.info.URL, app.file).want(t, 200, "")

	for text, bad := range map[string][]byte{
		"listed twice":       narInfosOf(lib, lib),
		"not JSON":           []byte("nonsense"),
		"newline":            []byte(`{"narinfos":["nonsense"]}`),
		"a narinfo has":      []byte(`{"narinfos":["` + strings.Repeat("a", 2<<20) + `"]}`),
		"1001 paths":         []byte(`{"narinfos":[` + strings.Repeat(`"",`, 1000) + `""]}`),
		"upload those first": narInfosOf(app, lib),
		"/gnu/store":         []byte(strings.ReplaceAll(string(narInfosOf(lib)), "/nix/store", "/gnu/store")),
	} {
		call(t, s, "POST", pathsURL, bad).want(t, 400, text)
		there(false, false, false)
	}
	call(t, s, "POST", pathsURL, make([]byte, 9<<20)).want(t, 413, "")
	call(t, s, "POST", pathsURL, narInfosOf()).want(t, 200, `"differ":[]`)

	call(t, s, "POST", pathsURL, narInfosOf(lib, app, top)).want(t, 400, top.info.StorePath)
	there(true, true, false)
	call(t, s, "PUT", "/c/"+top.info.URL, top.file).want(t, 200, "")
	call(t, s, "POST", pathsURL, narInfosOf(lib, app, top)).want(t, 200, `"differ":[]`)
	there(true, true, true)

	again := newObject(t, "app", "built otherwise", lib.info.StorePath)
	end := newObject(t, "end", "end", again.info.StorePath)
	for _, o := range []object{again, end} {
		call(t, s, "PUT", "/c/"+o.info.URL, o.file).want(t, 200, "")
	}
	call(t, s, "POST", pathsURL, narInfosOf(again, end)).want(t, 200, `"differ":["`+again.info.StorePath+`"]`)
	call(t, s, "GET", "/c/"+app.hash+".narinfo", nil).want(t, 200, app.info.NarHash.String())
	call(t, s, "GET", "/c/"+end.hash+".narinfo", nil).want(t, 200, "")
}

// TestQuotaOfPathsTogether: what does not fit is refused; what was refused with it does not count.
func TestQuotaOfPathsTogether(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	var all []object
	for _, name := range []string{"a", "b", "x"} {
		o := newObject(t, name, strings.Repeat(name, 500))
		call(t, s, "PUT", "/c/"+o.info.URL, o.file).want(t, 200, "")
		all = append(all, o)
	}
	call(t, s, "PATCH", "/_api/v1/cache-config/c", fmt.Appendf(nil, `{"max_bytes":%d}`, len(all[0].file)+len(all[1].file))).want(t, 200, "")
	early := all[1]
	early.info.References = []string{newObject(t, "none", "none").info.StorePath}
	call(t, s, "POST", pathsURL, narInfosOf(early)).want(t, 400, "upload those first")
	call(t, s, "POST", pathsURL, narInfosOf(all[0], all[1])).want(t, 200, `"differ":[]`)
	call(t, s, "POST", pathsURL, narInfosOf(all[2])).want(t, 507, "QuotaExceeded")
}
