package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix"
)

// netrcLogin is what stands in a netrc where the token is all that counts.
const netrcLogin = "garrison"

// usedCache is what Nix is to be told of a cache.
type usedCache struct {
	url, key string
	token    string // "" where anybody may read
}

func (a *app) cacheUse() *cobra.Command {
	var tokenFile, key string
	var system, nixos bool
	cmd := &cobra.Command{
		Use:   "use URL|CACHE",
		Short: "Have Nix on this machine fetch from a cache",
		Long: `Use adds a cache (https://host/name, or CACHE or SERVER:CACHE of a login) to the substituters of nix.conf, its key to trusted-public-keys and, if only some may read it, the token to netrc.
What stands there stays. It writes the system's files as root, and the user's own otherwise; Nix heeds the latter
only from trusted-users. The key is asked of the cache; one that is no Garrison or Attic server cannot tell it: give --public-key.`,
		Args: exactly("the cache's URL or name"),
	}
	fl := cmd.Flags()
	fl.StringVar(&tokenFile, "token-file", "", "file with a token that may read the cache, in place of the login's")
	fl.StringVar(&key, "public-key", "", "the cache's public key, name:base64 (default: what it says itself)")
	fl.BoolVar(&system, "system", os.Geteuid() == 0, "write the system's nix.conf, not the user's")
	fl.BoolVar(&nixos, "print-nixos", false, "write nothing; print what belongs into a NixOS configuration")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		u, err := a.describeCache(cmd.Context(), args[0], tokenFile, key)
		if err != nil {
			return err
		}
		if nixos {
			fmt.Fprint(a.Out, u.nixos())
			return nil
		}
		conf, netrc, err := confFiles(system)
		if err != nil {
			return err
		}
		return a.use(u, conf, netrc)
	}
	return cmd
}

// describeCache asks the cache what Nix is to be told.
func (a *app) describeCache(ctx context.Context, target, tokenFile, key string) (usedCache, error) {
	c, err := a.anyCache(target, tokenFile)
	if err != nil {
		return usedCache{}, err
	}
	u := usedCache{url: c.URL(), key: key}
	token, err := c.Token()
	if err != nil {
		return u, err
	}
	private := true
	if key == "" {
		config, err := c.Config(ctx)
		if err != nil {
			return u, err
		}
		u.key, private = config.PublicKey, !config.IsPublic
		if other, err := url.Parse(config.Substituter); err == nil && other.Host != "" && !strings.Contains(c.URL(), "://"+other.Host+"/") {
			u.url = config.Substituter // it is read from elsewhere
		}
	}
	parsed, err := nar.ParsePublicKey(u.key)
	if err != nil {
		return u, fleet.Errorf(fleet.Local, fleet.CodeKey, "the public key of cache %s cannot be used", u.url).WithCause(err).
			WithHint("give --public-key, as name:base64")
	}
	u.key = parsed.String()
	if private {
		u.token = token
	}
	return u, nil
}

func (u usedCache) nixos() string {
	s := fmt.Sprintf("{\n  nix.settings = {\n    substituters = [ %q ];\n    trusted-public-keys = [ %q ];\n", u.url, u.key)
	if u.token != "" {
		s += "    netrc-file = \"/etc/nix/netrc\"; # machine " + u.host() + " login " + netrcLogin + " password TOKEN; keep it out of the store\n"
	}
	return s + "  };\n}\n"
}

// host is what a netrc knows the cache by.
func (u usedCache) host() string {
	parsed, err := url.Parse(u.url)
	if err != nil {
		return ""
	}
	return parsed.Hostname()
}

// confFiles are the nix.conf that is to be written, and where Nix looks for a netrc as long as that says nothing else.
func confFiles(system bool) (conf, netrc string, err error) {
	dir := cmp.Or(os.Getenv("NIX_CONF_DIR"), "/etc/nix")
	netrc = filepath.Join(dir, "netrc")
	if !system {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", "", err
		}
		dir = filepath.Join(cmp.Or(os.Getenv("XDG_CONFIG_HOME"), filepath.Join(home, ".config")), "nix")
	}
	return filepath.Join(dir, "nix.conf"), netrc, nil
}

// use writes the files that have to change, the netrc first: without it the cache is of no use.
func (a *app) use(u usedCache, conf, netrc string) error {
	text, err := readConf(conf)
	if err != nil {
		return err
	}
	changed := nix.AddToConf(text, "substituters", u.url)
	changed = nix.AddToConf(changed, "trusted-public-keys", u.key)
	if u.token != "" {
		if file := nix.ConfValue(changed, "netrc-file"); file != "" {
			netrc = file
		} else if dir := filepath.Dir(conf); filepath.Dir(netrc) != dir { // the user's
			netrc = filepath.Join(dir, "netrc")
			changed = nix.SetInConf(changed, "netrc-file", netrc)
		}
		old, err := readConf(netrc)
		if err != nil {
			return err
		}
		entries, err := nix.AddToNetrc(old, u.host(), netrcLogin, u.token)
		if err != nil {
			return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s cannot hold the token", netrc).WithCause(err)
		}
		if err := a.writeConf(netrc, old, entries, 0o600); err != nil {
			return err
		}
	}
	return a.writeConf(conf, text, changed, 0o644)
}

// maxConf bounds files that are read whole.
const maxConf = 1 << 20

// readConf reads a file that may be missing.
func readConf(file string) (string, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err == nil && len(text) > maxConf {
		err = errors.New("it is too large")
	}
	if err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s cannot be read", file).WithCause(err)
	}
	return string(text), nil
}

// writeConf replaces a file, or what a link leads to, and keeps who may read it; a netrc is never left to be read by others.
func (a *app) writeConf(file, old, text string, perm fs.FileMode) error {
	to := file
	if real, err := filepath.EvalSymlinks(file); err == nil {
		to = real
	}
	if strings.HasPrefix(to, "/nix/store/") {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s is made by NixOS or home-manager, and cannot be written", file).
			WithHint("put what --print-nixos prints into the configuration")
	}
	fi, err := os.Stat(to)
	if err == nil && old == text && (perm == 0o644 || fi.Mode().Perm() == perm) {
		fmt.Fprintf(a.Out, "%s has it already\n", file)
		return nil
	}
	if err == nil && perm == 0o644 {
		perm = fi.Mode().Perm()
	}
	if err = os.MkdirAll(filepath.Dir(to), 0o755); err == nil {
		err = durable.WriteFile(to, []byte(text), perm)
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s cannot be written", file).WithCause(err).
			WithHint("without --system the user's own files are written; --print-nixos prints what to put into a NixOS configuration")
	}
	fmt.Fprintf(a.Out, "wrote %s\n", file)
	return nil
}
