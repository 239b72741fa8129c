package release_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// TestUpstreamPathsAreLeftToTheUpstream releases to an empty cache what partly came from an upstream.
func TestUpstreamPathsAreLeftToTheUpstream(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	var tops []string
	for _, e := range w.release().Manifest.Hosts {
		tops = append(tops, e.OutPath)
	}
	key, err := nar.GenerateKey("up")
	w.must(err)
	keyFile := filepath.Join(w.dir, "upstream.key")
	w.must(os.WriteFile(keyFile, []byte(key.Encode()), 0o600))
	built, err := w.nix.Closure(t.Context(), tops)
	w.must(err)
	signed := 0
	for _, p := range built {
		if !slices.Contains(tops, p.StorePath) {
			w.do("nix", "--extra-experimental-features", "nix-command", "store", "sign", "--store", w.nix.Store, "--key-file", keyFile, p.StorePath)
			signed++
		}
	}

	w.cache = cachetest.NewServer(t, nil)
	w.cache.Cache.Upstreams = []nar.PublicKey{key.Public()}
	w.change("something else")
	var last client.Progress
	evaluated := 0
	hook := filepath.Join(w.origin, "hooks/pre-receive")
	w.must(os.WriteFile(hook, []byte("#!/bin/sh\nexit 1\n"), 0o755))
	o := w.options()
	o.Pushed = func(p client.Progress) { last = p }
	o.Evaluated = func(done, total int) {
		if total != 4 || done > total || done < evaluated {
			t.Errorf("%d of %d hosts evaluated", done, total)
		}
		evaluated = done
	}
	out, err := release.Run(t.Context(), o)
	if err == nil || out.Pushed == nil {
		t.Fatalf("it was to fail when it publishes: %+v, %v", out, err)
	}
	if out.Pushed.Upstream == 0 || out.Pushed.Upstream > signed || out.Pushed.Pushed == 0 {
		t.Errorf("%+v of %d signed paths", out.Pushed, signed)
	}
	if last.Done != last.Total || last.Total != out.Pushed.Pushed+out.Pushed.Upstream || evaluated != 4 {
		t.Errorf("%+v, %d evaluated", last, evaluated)
	}

	// The next run has no record of the closures' sizes: the cache tells them, whole, and nothing is built or pushed.
	w.must(os.Remove(hook))
	if again := w.release(); again.Pushed.Paths != 0 {
		t.Errorf("%+v", again.Pushed)
	}
}
