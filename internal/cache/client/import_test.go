package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// nixCache has real Nix make a folder with a closure, and returns its top and the key that signed it.
func nixCache(t *testing.T, salt, compression string) (dir, top string, key nar.PublicKey) {
	t.Helper()
	store := cachetest.NewStore(t)
	paths := store.BuildClosure(t, salt)
	top = paths[len(paths)-1].StorePath
	file, key := signingKey(t, "theirs-1")
	dir = t.TempDir()
	store.Nix(t, "copy", "--to", "file://"+dir+"?compression="+compression+"&secret-key="+file, top)
	return dir, top, key
}

func TestImport(t *testing.T) {
	t.Parallel()
	for _, compression := range []string{"xz", "zstd", "gzip", "bzip2", "none"} {
		t.Run(compression, func(t *testing.T) {
			t.Parallel()
			dir, top, key := nixCache(t, compression, compression)
			s := cachetest.NewServer(t, nil)
			c := newClient(t, s.CacheURL(), cachetest.PushToken)
			from, paths := newClient(t, "file://"+dir, ""), []string(nil)
			if compression == "xz" { // over HTTP it must be told what to copy
				files := httptest.NewServer(http.FileServer(http.Dir(dir)))
				t.Cleanup(files.Close)
				from, paths = newClient(t, "nix+"+files.URL, ""), []string{top}
				if _, err := c.Import(t.Context(), from, nil, client.ImportOptions{Unsigned: true}); fleet.CodeOf(err) != fleet.CodeUsage {
					t.Errorf("everything over HTTP: %v", err)
				}
			}
			stranger := client.ImportOptions{Keys: []nar.PublicKey{generateKey(t, "theirs-1").Public()}}
			stats, err := c.Import(t.Context(), from, paths, stranger)
			if err != nil || stats.Pushed != 0 || len(stats.Unsigned) != 4 {
				t.Fatalf("with a stranger's key: %+v, %v", stats, err)
			}
			o := client.ImportOptions{Keys: []nar.PublicKey{key}}
			if stats, err = c.Import(t.Context(), from, paths, o); err != nil || stats.Pushed != 4 || len(stats.Unsigned)+len(stats.Broken) != 0 {
				t.Fatalf("%+v, %v", stats, err)
			}
			if stats, err = c.Import(t.Context(), from, paths, o); err != nil || stats.Pushed != 0 {
				t.Errorf("again: %+v, %v", stats, err)
			}
			wantCopied(t, s.CacheURL(), top, s.Key)
		})
	}
}

// TestImportOfBadCaches: what is damaged is not taken, and said to be.
func TestImportOfBadCaches(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir, nar string)
		text  string
	}{
		"archive gone":    {func(t *testing.T, _, nar string) { check(t, os.Remove(nar)) }, "is not there"},
		"archive cut off": {func(t *testing.T, _, nar string) { check(t, os.Truncate(nar, 20)) }, "cannot be decompressed"},
		"another archive": {func(t *testing.T, _, nar string) {
			b, err := os.ReadFile(nar)
			check(t, err)
			check(t, os.WriteFile(nar, append(b, b...), 0o600)) // two frames
		}, "damaged"},
		"no zstd":      {func(t *testing.T, _, nar string) { check(t, os.WriteFile(nar, []byte("nonsense"), 0o600)) }, "cannot be decompressed"},
		"outside":      {edited("URL: nar/", "URL: ../nar/"), "outside of it"},
		"elsewhere":    {edited("URL: nar/", "URL: http://127.0.0.1:1/nar/"), "outside of it"},
		"unknown":      {edited("Compression: zstd", "Compression: lzip"), "compressed by lzip"},
		"bad narinfo":  {edited("NarSize: ", "NarSize: x"), "is not a number"},
		"another name": {edited("StorePath: /nix/store/", "StorePath: /nix/store/0"), "narinfo"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _, _ := nixCache(t, name, "zstd")
			archives, err := filepath.Glob(filepath.Join(dir, "nar/*"))
			check(t, err)
			slices.Sort(archives)
			c.spoil(t, dir, archives[0])
			s := cachetest.NewServer(t, nil)
			to := newClient(t, s.CacheURL(), cachetest.PushToken)
			_, err = to.Import(t.Context(), newClient(t, "file://"+dir, ""), nil, client.ImportOptions{Unsigned: true})
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v", err)
			}
			s.WantClean(t)
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// edited replaces text in all narinfos.
func edited(old, with string) func(t *testing.T, dir, nar string) {
	return func(t *testing.T, dir, _ string) {
		files, err := filepath.Glob(filepath.Join(dir, "*.narinfo"))
		check(t, err)
		for _, f := range files {
			b, err := os.ReadFile(f)
			check(t, err)
			check(t, os.WriteFile(f, bytes.Replace(b, []byte(old), []byte(with), 1), 0o600))
		}
	}
}

// TestImportOfHalfCaches: of a cache that lost a path, what refers to it is left out, unless this cache has it.
func TestImportOfHalfCaches(t *testing.T) {
	t.Parallel()
	theirs, dir := t.TempDir(), ""
	dir, paths := store(t, 4) // paths[0] refers to all others, and so on
	check(t, os.MkdirAll(theirs, 0o755))
	from := newClient(t, "file://"+theirs, "")
	if _, err := from.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil {
		t.Fatal(err)
	}
	hash, err := nar.HashPart(paths[2].StorePath)
	check(t, err)
	check(t, os.Remove(filepath.Join(theirs, hash+".narinfo")))
	s := cachetest.NewServer(t, nil)
	to := newClient(t, s.CacheURL(), cachetest.PushToken)
	stats, err := to.Import(t.Context(), from, nil, client.ImportOptions{Unsigned: true})
	if err != nil || stats.Pushed != 1 || len(stats.Broken) != 2 {
		t.Fatalf("%+v, %v", stats, err)
	}
	if _, err := to.Import(t.Context(), from, []string{paths[2].StorePath}, client.ImportOptions{Unsigned: true}); fleet.CodeOf(err) != fleet.CodeNotFound {
		t.Errorf("what is not there: %v", err)
	}
	if _, err := to.Push(t.Context(), paths[2:], client.PushOptions{RealStoreDir: dir}); err != nil {
		t.Fatal(err)
	}
	if stats, err := to.Import(t.Context(), from, []string{paths[0].StorePath}, client.ImportOptions{Unsigned: true}); err != nil || stats.Pushed != 2 || len(stats.Broken) != 0 {
		t.Errorf("%+v, %v", stats, err)
	}
}

// TestInterruptedImportGoesOn over a network that fails: nothing is taken twice.
func TestInterruptedImportGoesOn(t *testing.T) {
	t.Parallel()
	dir, paths := store(t, 5)
	theirs := t.TempDir()
	if _, err := newClient(t, "file://"+theirs, "").Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil {
		t.Fatal(err)
	}
	files := httptest.NewServer(&faulty{Handler: http.FileServer(http.Dir(theirs)), failures: 3})
	t.Cleanup(files.Close)
	from, err := client.New(client.Config{URL: "nix+" + files.URL, Attempts: 12})
	check(t, err)
	for n := 1; n <= 10; n += 3 {
		ctx, kill := context.WithCancel(t.Context())
		r := &recorder{after: n, then: kill}
		s := cachetest.NewServer(t, r.wrap)
		tops := []string{paths[0].StorePath}
		_, err := newClient(t, s.CacheURL(), cachetest.PushToken).Import(ctx, from, tops, client.ImportOptions{Unsigned: true})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		kill()
		r.settle(s)
		if _, err := newClient(t, s.CacheURL(), cachetest.PushToken).Import(t.Context(), from, tops, client.ImportOptions{Unsigned: true}); err != nil {
			t.Fatal(err)
		}
		for path, times := range r.puts {
			if times != 1 {
				t.Errorf("%s was sent %d times", path, times)
			}
		}
		if len(r.puts) != 10 {
			t.Error(fmt.Sprint(len(r.puts), " uploads"))
		}
	}
}
