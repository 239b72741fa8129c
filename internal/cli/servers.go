package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// servers is the file with the servers that somebody logged in to.
type servers struct {
	Default string            `toml:"default"`
	Servers map[string]server `toml:"servers"`
}

type server struct {
	URL   string `toml:"url"`
	Token string `toml:"token,omitempty"`
}

// hubURL is asked where nothing else was said.
const hubURL = "http://127.0.0.1:8420"

func serversFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeConfig, "there is no place for a person's configuration").WithCause(err).WithHint("set XDG_CONFIG_HOME, or give --url and --token-file")
	}
	return filepath.Join(dir, "garrison", "servers.toml"), nil
}

// readServers reads the file; one that is not there has none.
func readServers() (servers, error) {
	var s servers
	file, err := serversFile()
	if err != nil {
		return s, nil // who has no home has logged in nowhere
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	return s, tomlfile.Read(file, &s)
}

func (s servers) write() error {
	file, err := serversFile()
	if err != nil {
		return err
	}
	b, err := toml.Marshal(s)
	if err != nil {
		return err
	}
	if err = os.MkdirAll(filepath.Dir(file), 0o700); err == nil {
		err = durable.WriteFile(file, b, 0o600)
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "%s cannot be written", file).WithCause(err)
	}
	return nil
}

// serverOf finds what "SERVER:CACHE" or "CACHE" is about. Without a login it is the hub on this machine.
func serverOf(target string) (s server, cacheName string, err error) {
	all, err := readServers()
	if err != nil {
		return s, "", err
	}
	name, cacheName, named := strings.Cut(target, ":")
	if !named {
		name, cacheName = all.Default, target
	}
	s, known := all.Servers[name]
	switch {
	case !known && named:
		return s, "", fleet.Errorf("", fleet.CodeUsage, "there was no login to a server %q", name).WithHint("garrison cache login %s URL", name)
	case !known:
		s.URL = hubURL
	}
	return s, cacheName, nil
}

// place is what says where caches are, and who asks.
type place struct {
	*app
	url, tokenFile *string
	token          func() (string, error) // in place of both file and login; nil for none
}

// placeFlags adds what says where caches are.
func (a *app) placeFlags(cmd *cobra.Command) *place {
	return &place{
		app: a, url: cmd.Flags().String("url", "", "the hub, or whatever serves the cache; default: where you logged in, else "+hubURL),
		tokenFile: cmd.Flags().String("token-file", "", "file with a token, in place of the login's"),
	}
}

// cache is the client for a cache: "CACHE", or "SERVER:CACHE" of a login.
func (p *place) cache(target string) (*client.Client, error) {
	s, name := server{URL: *p.url}, target
	if *p.url == "" {
		var err error
		if s, name, err = serverOf(target); err != nil {
			return nil, err
		}
	}
	token := p.token
	if token == nil {
		token = tokenFrom(*p.tokenFile)
	}
	return p.client(s.URL, client.Config{URL: strings.TrimSuffix(s.URL, "/") + "/" + name, Token: orLogin(token, s)})
}

// orLogin is the login's token where no other is given.
func orLogin(token func() (string, error), s server) func() (string, error) {
	if token == nil && s.Token != "" {
		return func() (string, error) { return s.Token, nil }
	}
	return token
}

// client tells whoever runs the command when the token for a server ends soon; server is "" where the cache's URL says it.
func (a *app) client(server string, config client.Config) (c *client.Client, err error) {
	config.TokenEnds = func(at time.Time) {
		fmt.Fprintf(a.Err, "garrison: the token for %s ends on %s: ask for another\n", orElse(server, c.URL()), at.UTC().Format(time.DateOnly))
	}
	c, err = client.New(config)
	return c, err
}

// anyCache is the client for a cache of any kind, by its URL or as "CACHE" or "SERVER:CACHE" of a login.
func (a *app) anyCache(target, tokenFile string) (*client.Client, error) {
	server, config := "", client.Config{URL: target, Token: tokenFrom(tokenFile), Attempts: pushAttempts}
	if !strings.Contains(target, "://") {
		s, name, err := serverOf(target)
		if err != nil {
			return nil, err
		}
		server, config.URL, config.Token = s.URL, strings.TrimSuffix(s.URL, "/")+"/"+name, orLogin(config.Token, s)
	}
	return a.client(server, config)
}

// server is the client for what is about no single cache.
func (p *place) server(name string) (*client.Client, error) {
	if name != "" {
		name += ":"
	}
	return p.cache(name + "any")
}

func (a *app) cacheLogin() *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "login SERVER URL",
		Short: "Keep a server's URL and a token for it, for the commands that follow",
		Long: `Keep a server's URL and a token under a name. "SERVER:CACHE" is then one of its caches; of the server that was logged in to first, "CACHE" will do.
They are kept in $XDG_CONFIG_HOME/garrison/servers.toml, which only you can read. No request is made.`,
		Args: exactly("a name for the SERVER", "its URL"),
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", `file with a token; "-" for standard input; none for public caches`)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		u, err := url.Parse(args[1])
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
			return usage(cmd, fmt.Errorf("%q is not a server's URL, like https://cache.example.org", args[1]))
		}
		if err := cache.CheckName(args[0]); err != nil {
			return usage(cmd, fmt.Errorf("%q cannot name a server: use letters and digits", args[0]))
		}
		token, err := a.readToken(tokenFile)
		if err != nil {
			return err
		}
		all, err := readServers()
		if err != nil {
			return err
		}
		if all.Servers == nil {
			all.Servers = map[string]server{}
		}
		all.Servers[args[0]] = server{URL: strings.TrimSuffix(args[1], "/"), Token: token}
		all.Default = orElse(all.Default, args[0])
		return all.write()
	}
	return cmd
}

// readToken reads a token from a file, or from standard input for "-"; "" for no file.
func (a *app) readToken(file string) (string, error) {
	if file == "-" {
		b, err := io.ReadAll(io.LimitReader(a.In, 64<<10))
		return strings.TrimSpace(string(b)), err
	}
	read := tokenFrom(file)
	if read == nil {
		return "", nil
	}
	return read()
}
