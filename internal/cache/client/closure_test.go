package client_test

import (
	"slices"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
)

func TestClosure(t *testing.T) {
	store := cachetest.NewStore(t)
	paths := store.BuildClosure(t, "walk")
	c := newClient(t, cachetest.NewServer(t, nil).CacheURL(), cachetest.PushToken)
	top := paths[len(paths)-1].StorePath
	_, missing, err := c.Closure(t.Context(), []string{top})
	if err != nil || !slices.Equal(missing, []string{top}) {
		t.Fatalf("an empty cache misses %v, %v", missing, err)
	}
	if _, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: store.Dir()}); err != nil {
		t.Fatal(err)
	}
	have, missing, err := c.Closure(t.Context(), []string{top, top})
	if err != nil || len(missing) != 0 || len(have) != len(paths) {
		t.Fatalf("%d of %d paths, missing %v, %v", len(have), len(paths), missing, err)
	}
	if _, _, err := c.Closure(t.Context(), []string{"/nix/store/nonsense"}); err == nil {
		t.Error("a path that is none must be refused")
	}
}
