package nix_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
)

// TestWatch has each Nix add to its store what is built, what is copied and what is fetched, and wants to be told of it.
func TestWatch(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		ctx, stop := context.WithCancel(t.Context())
		found, ready, ended := make(chan string, 100), make(chan struct{}), make(chan error, 1)
		must(t, os.MkdirAll(n.RealStoreDir(), 0o755))
		go func() { ended <- n.Watch(ctx, func() { close(ready) }, func(path string) { found <- path }) }()
		<-ready
		flake := exampleFleet(t, map[string]string{"gitops-test": t.Name()})
		h, err := n.Host(ctx, flake, nix.NixOS, "joker")
		must(t, err)
		must(t, n.Build(ctx, []string{h.DrvPath}, t.TempDir()))
		want := map[string]bool{h.OutPath: true, h.DrvPath: true}
		for path := range found { // until the test's time is over
			if delete(want, path); len(want) == 0 {
				break
			}
		}
		valid, err := n.ValidOf(ctx, []string{h.OutPath, "/nix/store/00000000000000000000000000000000-none", h.DrvPath})
		if err != nil || len(valid) != 2 {
			t.Errorf("valid: %v, %v", valid, err)
		}
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	n := *nixtest.System(t)
	n.Store = "local?root=" + filepath.Join(cachetest.NewStore(t).Root, "none")
	if err := n.Watch(t.Context(), func() { t.Error("it is not ready") }, nil); fleet.CodeOf(err) != fleet.CodeState {
		t.Error(err)
	}
}

func TestStorePath(t *testing.T) {
	dir, path := t.TempDir(), "/nix/store/00000000000000000000000000000000-a"
	for name, to := range map[string]string{"result": path, "deep": path + "/bin/x", "again": "result", "loop": "loop", "out": "/etc"} {
		must(t, os.Symlink(to, filepath.Join(dir, name)))
	}
	for arg, ok := range map[string]bool{
		path: true, path + "/": true, path + "/bin": true, "result": true, "deep": true, "again": true, "loop": false, "out": false, "none": false,
		"/nix/store/": false, "/nix/store/x": false, "": false, "/": false,
	} {
		if !filepath.IsAbs(arg) {
			arg = filepath.Join(dir, arg)
		}
		got, err := nix.StorePath(arg)
		if ok && (err != nil || got != path) || !ok && fleet.CodeOf(err) != fleet.CodeUsage {
			t.Errorf("%s: %q, %v", arg, got, err)
		}
	}
}
