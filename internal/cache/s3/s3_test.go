package s3_test

import (
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/s3"
)

var lab cachetest.Lab

func TestMain(m *testing.M) {
	defer lab.Stop()
	m.Run()
}

func open(t *testing.T, c s3.Config) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBlobs(t *testing.T) {
	cachetest.Blobs(t, func(t *testing.T) cache.Blobs { return open(t, lab.Bucket(t)) })
}
