package client_test

import (
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
)

var lab cachetest.Lab

func TestMain(m *testing.M) {
	defer lab.Stop()
	m.Run()
}
