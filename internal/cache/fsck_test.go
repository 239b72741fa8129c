package cache_test

import (
	"bytes"
	"database/sql"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
)

// inDatabase changes the index past its own rules, as a bug or a bad disk would.
func inDatabase(t *testing.T, s *cachetest.Server, query string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(s.Dir, "index.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatal(err)
	}
}

// TestFsck breaks a path in each way, and looks that it is found, that repair makes it and what needs it absent, and
// that a push brings it back.
func TestFsck(t *testing.T) {
	for problem, breaks := range map[string]func(s *cachetest.Server, lib object){
		"missing": func(s *cachetest.Server, lib object) { must(t, os.Remove(s.BlobFile(t, lib.info.NarHash))) },
		"size":    func(s *cachetest.Server, lib object) { must(t, os.Truncate(s.BlobFile(t, lib.info.NarHash), 5)) },
		"content": func(s *cachetest.Server, lib object) {
			file := s.BlobFile(t, lib.info.NarHash)
			b, err := os.ReadFile(file)
			must(t, err)
			b[len(b)/2] ^= 1
			must(t, os.WriteFile(file, b, 0o600))
		},
		"narinfo": func(s *cachetest.Server, lib object) {
			inDatabase(t, s, `UPDATE paths SET narinfo = CAST('garbage' AS BLOB) WHERE hash_part = ?`, lib.hash)
		},
		"reference": func(s *cachetest.Server, lib object) {
			inDatabase(t, s, `DELETE FROM paths WHERE hash_part = (SELECT hash_part FROM paths WHERE store_path LIKE '%-base')`)
		},
	} {
		t.Run(problem, func(t *testing.T) {
			t.Parallel()
			s := cachetest.NewServer(t, nil)
			base := newObject(t, "base", "base")
			lib := newObject(t, "lib", strings.Repeat("lib ", 1000), base.info.StorePath)
			app := newObject(t, "app", "app", lib.info.StorePath)
			other := newObject(t, "other", "other", base.info.StorePath)
			all := []object{base, lib, app, other}
			for _, o := range all {
				o.put(t, s)
			}
			c := keeper(t, s)
			check := func(content, repair bool) (client.Check, map[string]string) {
				t.Helper()
				out, err := c.Fsck(t.Context(), content, repair, func(_, _, _ int64) {})
				must(t, err)
				found := map[string]string{}
				for _, f := range out.Findings {
					_, name, _ := strings.Cut(f.StorePath, "-")
					found[name] = f.Problem
				}
				return out, found
			}
			if out, found := check(true, false); len(found) != 0 || out.Paths != 4 || out.Archives != 4 || out.Bytes == 0 {
				t.Fatalf("of a sound cache: %+v", out)
			}
			breaks(s, lib)
			want := map[string]string{"lib": problem, "app": "closure"}
			if problem == "reference" {
				want["other"] = "reference"
			}
			if _, found := check(false, false); problem == "content" && len(found) != 0 {
				t.Errorf("without reading: %v", found)
			}
			if _, found := check(true, false); !maps.Equal(found, want) {
				t.Fatalf("found %v, not %v", found, want)
			}
			if out, _ := check(true, true); out.Repaired != len(want) || out.UsedSince != 0 {
				t.Errorf("repaired: %+v", out)
			}
			if _, found := check(true, false); len(found) != 0 {
				t.Errorf("after repair: %v", found)
			}
			wantWhole(t, s.Index)
			for _, o := range all {
				_, lost := want[strings.TrimPrefix(filepath.Base(o.info.StorePath), o.hash+"-")]
				lost = lost || problem == "reference" && o.hash == base.hash
				if a := call(t, s, "GET", "/c/"+o.hash+".narinfo", nil); (a.status == 404) != lost {
					t.Errorf("after repair %s answers %d", o.info.StorePath, a.status)
				}
			}
			for _, o := range all {
				o.put(t, s)
				a := call(t, s, "GET", "/c/"+o.info.URL, nil)
				a.want(t, 200, "")
				if !bytes.Equal([]byte(a.body), o.file) {
					t.Errorf("%s is not healed", o.info.StorePath)
				}
			}
			if _, found := check(true, false); len(found) != 0 {
				t.Errorf("after the push: %v", found)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDeletePath(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	base := newObject(t, "base", "base")
	lib := newObject(t, "lib", "lib", base.info.StorePath)
	app := newObject(t, "app", "app", lib.info.StorePath)
	for _, o := range []object{base, lib, app} {
		o.put(t, s)
	}
	c := keeper(t, s)
	want := []string{app.info.StorePath, lib.info.StorePath}
	slices.Sort(want)
	if deleted, referrers, err := c.Delete(t.Context(), base.info.StorePath, false); err != nil || deleted || !slices.Equal(referrers, want) || len(live(t, s.Index)) != 3 {
		t.Errorf("%v, %v, %v", deleted, referrers, err)
	}
	must(t, c.Pin(t.Context(), client.Pin{Name: "p", StorePath: app.info.StorePath}))
	if deleted, _, err := c.Delete(t.Context(), base.info.StorePath, true); err == nil || deleted || !strings.Contains(err.Error(), "pin") || len(live(t, s.Index)) != 3 {
		t.Errorf("what is pinned: %v, %v", deleted, err)
	}
	must(t, c.Unpin(t.Context(), "p"))
	if deleted, referrers, err := c.Delete(t.Context(), lib.info.StorePath, true); err != nil || !deleted || !slices.Equal(referrers, []string{app.info.StorePath}) || len(wantWhole(t, s.Index)) != 1 {
		t.Errorf("%v, %v, %v", deleted, referrers, err)
	}
	if _, _, err := c.Delete(t.Context(), lib.info.StorePath, true); err == nil || !strings.Contains(err.Error(), "not here") {
		t.Errorf("what is not there: %v", err)
	}
}

// TestFsckOfWhatIsNotWholeYet: that the rest of a closure has not come is no problem, and a collection in the meantime does not mind.
func TestFsckOfWhatIsNotWholeYet(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	base, here := newObject(t, "base", "base"), newObject(t, "here", "here")
	app := newObject(t, "app", "app", base.info.StorePath, here.info.StorePath)
	here.put(t, s)
	atticClient{t, s}.upload(app.attic(), app.nar).want(t, 200, "Uploaded")
	c := keeper(t, s)
	if out, err := c.Fsck(t.Context(), true, true, func(_, _, _ int64) {}); err != nil || len(out.Findings) != 0 || out.Repaired != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	must(t, s.Cache.Collect(t.Context()))
	atticClient{t, s}.upload(base.attic(), base.nar).want(t, 200, "Uploaded")
	call(t, s, "GET", "/c/"+app.hash+".narinfo", nil).want(t, 200, "")
	if out, err := c.Fsck(t.Context(), true, false, func(_, _, _ int64) {}); err != nil || len(out.Findings) != 0 || out.Paths != 3 {
		t.Errorf("%+v, %v", out, err)
	}
}
