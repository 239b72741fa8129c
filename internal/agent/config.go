package agent

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// Config is the agent's file.
type Config struct {
	Host           string            `toml:"host"`     // as in nixosConfigurations; default: the machine's host name
	StateDir       string            `toml:"stateDir"` // default /var/lib/garrison
	Socket         string            `toml:"socket"`   // default /run/garrison/agent.sock
	Remote         string            `toml:"remote"`   // URL of the fleet's repository
	Branch         string            `toml:"branch"`   // default "release"
	AllowedSigners string            `toml:"allowedSigners"`
	Poll           tomlfile.Duration `toml:"poll"` // default 60s
	Profile        string            `toml:"profile"`
	CheckTime      tomlfile.Duration `toml:"checkTime"` // for a new system to become healthy; default 120s
	FetchTime      tomlfile.Duration `toml:"fetchTime"` // for a closure to arrive; default 1h

	AfterDeploy     []string          `toml:"afterDeploy"`     // a program and its arguments, run after every deployment
	AfterDeployTime tomlfile.Duration `toml:"afterDeployTime"` // for it to end; default 5m

	Caches []struct {
		URL       string `toml:"url"`
		PublicKey string `toml:"publicKey"` // name:base64
	} `toml:"caches"`

	Hub struct {
		URL       string `toml:"url"` // no hub when empty
		TokenFile string `toml:"tokenFile"`
	} `toml:"hub"`
}

// ReadConfig reads and checks the agent's file. Errors have CodeConfig.
func ReadConfig(path string) (Config, error) {
	var c Config
	if err := tomlfile.Read(path, &c); err != nil {
		return c, err
	}
	setDefault(&c.StateDir, "/var/lib/garrison")
	setDefault(&c.Socket, "/run/garrison/agent.sock")
	setDefault(&c.Branch, "release")
	setDefault(&c.Profile, "/nix/var/nix/profiles/system")
	c.Poll = tomlfile.Duration(c.Poll.Or(time.Minute))
	c.CheckTime = tomlfile.Duration(c.CheckTime.Or(2 * time.Minute))
	c.FetchTime = tomlfile.Duration(c.FetchTime.Or(time.Hour))
	c.AfterDeployTime = tomlfile.Duration(c.AfterDeployTime.Or(5 * time.Minute))
	if c.Host == "" {
		name, err := os.Hostname()
		if err != nil {
			return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s names no host, and this machine has no name", path).WithCause(err)
		}
		c.Host = name
	}
	return c, c.check(path)
}

func setDefault(s *string, def string) {
	if *s == "" {
		*s = def
	}
}

func (c Config) check(path string) error {
	bad := func(format string, args ...any) *fleet.Error {
		e := fleet.Errorf(fleet.Local, fleet.CodeConfig, format, args...)
		e.What = path + ": " + e.What
		return e
	}
	switch {
	case !fleet.ValidHostName(c.Host):
		return bad("host %q cannot be a host's name", c.Host)
	case c.Remote == "":
		return bad("remote is missing").WithHint("set it to the URL of the fleet's repository")
	case c.AllowedSigners == "":
		return bad("allowedSigners is missing").WithHint("set it to a file with the public keys that may sign releases (ssh-keygen(1), ALLOWED SIGNERS)")
	case !filepath.IsAbs(c.StateDir), !filepath.IsAbs(c.Socket), !filepath.IsAbs(c.Profile), !filepath.IsAbs(c.AllowedSigners):
		return bad("stateDir, socket, profile and allowedSigners must be absolute paths")
	case strings.HasPrefix(c.Branch, "-"), strings.ContainsAny(c.Branch, " ~^:?*[\\"):
		return bad("branch %q cannot be a branch's name", c.Branch)
	case time.Duration(c.Poll) < time.Second, time.Duration(c.CheckTime) < time.Second, time.Duration(c.FetchTime) < time.Second:
		return bad("poll, checkTime and fetchTime must be at least 1s")
	case len(c.AfterDeploy) > 0 && !filepath.IsAbs(c.AfterDeploy[0]):
		return bad("afterDeploy must begin with a program's absolute path, not %q", c.AfterDeploy[0])
	}
	for _, cache := range c.Caches {
		if name, key, ok := strings.Cut(cache.PublicKey, ":"); !ok || name == "" || key == "" || strings.ContainsAny(cache.PublicKey, " \t\n") {
			return bad("the publicKey of cache %s must have the form name:base64", cache.URL)
		}
		if u, err := url.Parse(cache.URL); err != nil || u.Scheme == "" || strings.ContainsAny(cache.URL, " \t\n") {
			return bad("the cache's url %q is not a URL", cache.URL)
		}
	}
	if c.Hub.URL != "" {
		if u, err := url.Parse(c.Hub.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return bad("hub.url %q is not an http URL", c.Hub.URL)
		}
		if c.Hub.TokenFile == "" {
			return bad("hub.tokenFile is missing")
		}
	}
	return nil
}
