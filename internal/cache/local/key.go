package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// Key returns the signing key of the cache of that name in dir, and makes one when
// there is none. It lives beside the content and not in the index, so that a
// cache that lost its index is still trusted by every host.
func Key(dir, name string) (*nar.PrivateKey, error) {
	if err := cache.CheckName(name); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "keys", name)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path, name)
	}
	if err != nil {
		return nil, keyError(path, err)
	}
	key, err := nar.ParsePrivateKey(string(text))
	if err != nil {
		return nil, keyError(path, err)
	}
	return key, nil
}

func makeKey(path, name string) (*nar.PrivateKey, error) {
	key, err := nar.GenerateKey(name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, stateError(err, "directory %s of the cache's keys cannot be made", filepath.Dir(path))
	}
	if err := durable.WriteFile(path, []byte(key.Encode()+"\n"), 0o600); err != nil {
		return nil, stateError(err, "the cache's signing key %s cannot be written", path)
	}
	return key, nil
}

func keyError(path string, err error) error {
	return fleet.Errorf(fleet.Local, fleet.CodeKey, "the cache's signing key %s cannot be read", path).WithCause(err).
		WithHint("restore it from a backup; a new key would have to be given to every host")
}
