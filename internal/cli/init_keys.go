package cli

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/release"
)

// keysFolder is where a person keeps a fleet's private keys: outside of its repository.
type keysFolder string

func (k keysFolder) file(name string) string { return filepath.Join(string(k), name) }

const (
	releaseKeyFile = "release-key"
	cacheKeyFile   = "cache-key"
	patchFile      = "flake.patch"
)

var notInNames = regexp.MustCompile(`[^A-Za-z0-9.]+`)

// findKeysFolder names the folder by the repository's address; top is the work tree, in which it must not be.
func findKeysFolder(address, top string) (keysFolder, error) {
	config, err := os.UserConfigDir()
	if err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeConfig, "there is no place for a person's keys").WithCause(err).WithHint("set XDG_CONFIG_HOME")
	}
	name := strings.TrimSuffix(address, ".git")
	if c, ok := forge.Detect(address); ok {
		name = c.URL[strings.LastIndex(c.URL, "/")+1:] + "-" + c.Repo
	}
	folder := filepath.Join(config, "garrison", strings.Trim(notInNames.ReplaceAllString(git.Redact(name), "-"), "-."))
	if real, err := filepath.EvalSymlinks(config); err == nil {
		config = real
	}
	if inside, err := filepath.Rel(top, config); err == nil && inside != ".." && !strings.HasPrefix(inside, "../") {
		return "", fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s, where the private keys would be, is in the repository's work tree", folder).
			WithHint("set XDG_CONFIG_HOME to a folder outside of it")
	}
	return keysFolder(folder), nil
}

// unmadeKey stands for a public key that a dry run does not make.
const unmadeKey = "ssh-ed25519 AAAA… (made without --dry-run)"

// releaseKey makes the key that signs releases if it is not there, and returns its public half. That is written last, so it is made again when it is missing.
func (i *fleetInit) releaseKey(ctx context.Context) (public string, err error) {
	file := i.keys.file(releaseKeyFile)
	_, err = os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && i.dryRun:
		i.wrote++
		i.tell("would make", "%s, the key that signs releases", file)
		return unmadeKey, nil
	case errors.Is(err, fs.ErrNotExist):
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return "", err
		}
		block, err := ssh.MarshalPrivateKey(private, "garrison release")
		if err != nil {
			return "", err
		}
		if err := i.put(file, file+", the key that signs releases: keep a copy of it in a safe place", string(pem.EncodeToMemory(block)), 0o600); err != nil {
			return "", err
		}
	case err != nil:
		return "", fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot read %s", file).WithCause(err)
	}
	if public, err = release.PublicKey(ctx, file); err != nil {
		return "", err
	}
	there, err := readConf(file + ".pub")
	if err != nil || there == public+"\n" {
		return public, err
	}
	if there != "" {
		return "", fleet.Errorf(fleet.Local, fleet.CodeKey, "%s.pub is not the public half of %s", file, file).WithHint("remove the one that is wrong, and run this again")
	}
	if i.dryRun {
		i.wrote++
		i.tell("would write", "%s.pub", file)
		return public, nil
	}
	return public, i.put(file+".pub", file+".pub", public+"\n", 0o644)
}

// foundCache is the cache that --cache names.
type foundCache struct {
	url, key string // key: public, name:base64
	known    bool   // the server told the key: the cache is there
	plain    bool   // who pushes signs
	name     string
}

// plainCache says of a cache's URL whether it is a plain Nix cache for sure.
func plainCache(address string) bool {
	scheme, _, _ := strings.Cut(address, "://")
	return !slices.Contains([]string{"http", "https", "attic+http", "attic+https", "garrison+http", "garrison+https"}, scheme)
}

// findCache asks the cache for its key.
func (i *fleetInit) findCache(ctx context.Context) error {
	if i.initFlags.cache == "" {
		return nil
	}
	c, err := client.New(client.Config{URL: i.initFlags.cache, Token: tokenFrom(i.pushToken), Attempts: 1})
	if err != nil {
		return err
	}
	i.cache = foundCache{url: i.initFlags.cache, name: path.Base(c.URL())}
	i.cache.plain = plainCache(i.cache.url)
	if i.cache.plain {
		i.tell("cache", "%s, a plain Nix cache: who pushes signs", c.URL())
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	said, err := c.Config(ctx)
	if err != nil {
		i.tell("cache", "%s does not tell its key: %s", c.URL(), err)
		return nil
	}
	i.cache.key, i.cache.known = said.PublicKey, true
	i.tell("cache", "%s signs by %s", c.URL(), said.PublicKey)
	return nil
}

// cacheKey makes a key for a cache that has none yet.
func (i *fleetInit) cacheKey() error {
	if i.cache.url == "" || i.cache.known {
		return nil
	}
	file := i.keys.file(cacheKeyFile)
	text, err := readConf(file)
	if err != nil {
		return err
	}
	if text == "" && i.dryRun {
		i.wrote++
		i.tell("would make", "%s, the key that the cache signs with", file)
		i.cache.key = i.cache.name + ":AAAA… (made without --dry-run)"
		return nil
	}
	if text == "" {
		key, err := nar.GenerateKey(notInNames.ReplaceAllString(i.cache.name, "-") + "-1")
		if err != nil {
			return err
		}
		text = key.Encode() + "\n"
		if err := i.put(file, file+", the key that the cache signs with: keep a copy of it in a safe place", text, 0o600); err != nil {
			return err
		}
	}
	key, err := nar.ParsePrivateKey(strings.TrimSpace(text))
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeKey, "%s is no key of a cache", file).WithCause(err)
	}
	i.cache.key = key.Public().String()
	return nil
}

// actionsSecret is one that the workflow hands to garrison ci.
type actionsSecret struct{ name, file, what string }

// secrets are those that this fleet's workflow needs. One without a file is for a person to make.
func (i *fleetInit) secrets() []actionsSecret {
	all := []actionsSecret{{"GARRISON_KEY", i.keys.file(releaseKeyFile), "signs releases"}}
	if len(i.said.Hosts) > 0 {
		all = append(all, actionsSecret{"GARRISON_IDENTITY", i.identity, "a private key that reads the secrets on " + i.source})
	}
	if i.cache.url != "" && !strings.HasPrefix(i.cache.url, "file:") {
		all = append(all, actionsSecret{"GARRISON_CACHE_TOKEN", i.pushToken, "a token that may push to the cache"})
	}
	return all
}
