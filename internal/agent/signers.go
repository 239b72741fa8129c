package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix"
)

const maxNarInfo = 1 << 20 // bytes

// named adds to an error of Substitute, where it is about signatures, who signed what and whose signatures would do. The caches are asked for that
// once more: nix does not tell.
func (a *Agent) named(ctx context.Context, err error, s nix.Substitution) error {
	var u *nix.Untrusted
	if !errors.As(err, &u) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	var keys []nar.PublicKey
	var trusted []string
	for _, k := range s.PublicKeys {
		if key, err := nar.ParsePublicKey(k); err == nil {
			keys, trusted = append(keys, key), append(trusted, key.Name)
		}
	}
	for _, cache := range s.Caches {
		info, asked := narInfo(ctx, cache, u.Path)
		if asked != nil || info.SignedBy(keys...) {
			continue
		}
		by := "by nobody"
		for i, sig := range info.Sigs {
			name, _, _ := strings.Cut(sig, ":")
			if i == 0 {
				by = "by "
			} else {
				by += ", "
			}
			if by += name; slices.Contains(trusted, name) {
				by += " (but not by the key of that name that is trusted here, or it was changed since)"
			}
		}
		return fleet.Errorf(fleet.Local, fleet.CodeSubstitute, "%s has %s signed %s; trusted here is %s", cache, u.Path, by, strings.Join(trusted, ", ")).
			WithHint("if the cache has another key now, make that known to the host (publicKey of the agent's caches); if not, somebody else wrote to the cache").WithCause(u)
	}
	return err
}

// narInfo asks a cache over HTTP what it says of a path, with the password that nix would present.
func narInfo(ctx context.Context, cache, path string) (*nar.NarInfo, error) {
	u, err := url.Parse(cache)
	if err != nil || !strings.HasPrefix(u.Scheme, "http") {
		return nil, fmt.Errorf("%s is not asked", cache)
	}
	hash, _, _ := strings.Cut(filepath.Base(path), "-")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(cache, "/")+"/"+hash+".narinfo", nil)
	if err != nil {
		return nil, err
	}
	netrc, _ := readFew(netrcFile) // mostly there is none
	if password := passwordFor(netrc, u.Hostname()); password != "" {
		req.SetBasicAuth("", password)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxNarInfo))
	if err != nil {
		return nil, err
	}
	return nar.ParseNarInfo(text)
}
