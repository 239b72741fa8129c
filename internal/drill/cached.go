package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// mostPaths of a closure are asked for.
const mostPaths = 20000

// closureIn checks that a cache has a path and all that it refers to, each with a signature of key, or of anybody where no key is known.
func closureIn(ctx context.Context, cache *hubView, top, key string) (string, error) {
	var keys []signature.PublicKey
	if key != "" {
		k, err := signature.ParsePublicKey(key)
		if err != nil {
			return "", fmt.Errorf("drill.cacheKey: %w", err)
		}
		keys = append(keys, k)
	}
	seen := map[string]bool{path.Base(top): true}
	for next := []string{path.Base(top)}; len(next) > 0; next = next[1:] {
		hash, _, _ := strings.Cut(next[0], "-")
		text, err := cache.getBytes(ctx, "/"+hash+".narinfo")
		if err != nil {
			return "", fmt.Errorf("%s: %w", next[0], err)
		}
		info, err := narinfo.Parse(bytes.NewReader(text))
		switch {
		case err != nil:
		case path.Base(info.StorePath) != next[0]:
			err = fmt.Errorf("its narinfo is of %s", info.StorePath)
		case len(info.Signatures) == 0:
			err = errors.New("it is not signed")
		case keys != nil && !signature.VerifyFirst(info.Fingerprint(), info.Signatures, keys):
			err = errors.New("not signed by the cache's key")
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", next[0], err)
		}
		for _, ref := range info.References {
			if !seen[ref] {
				seen[ref], next = true, append(next, ref)
			}
		}
		if len(seen) > mostPaths {
			return "", fmt.Errorf("the closure has more than %d paths", mostPaths)
		}
	}
	return fmt.Sprintf("%d paths", len(seen)), nil
}
