package agent

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// Config is the agent's file.
type Config struct {
	Host           string            `toml:"host"`     // as in nixosConfigurations; default: the machine's host name
	StateDir       string            `toml:"stateDir"` // default /var/lib/garrison
	Socket         string            `toml:"socket"`   // default /run/garrison/agent.sock
	Remote         string            `toml:"remote"`   // URL of the fleet's repository; more of it in Remotes
	Branch         string            `toml:"branch"`   // default "release"
	AllowedSigners string            `toml:"allowedSigners"`
	Poll           tomlfile.Duration `toml:"poll"` // default 60s
	Profile        string            `toml:"profile"`
	CheckTime      tomlfile.Duration `toml:"checkTime"` // for a new system to become healthy; default 120s
	FetchTime      tomlfile.Duration `toml:"fetchTime"` // for a closure to arrive; default 1h

	Remotes      []RemoteConfig    `toml:"remotes"`      // looked at side by side
	Confirm      string            `toml:"confirm"`      // "manual": each release waits for garrison confirm; default "auto"
	Windows      deploy.Windows    `toml:"windows"`      // in which activations start; default: always
	OnDrift      string            `toml:"onDrift"`      // "correct" what somebody switched to by hand; default "leave"
	CorrectAfter tomlfile.Duration `toml:"correctAfter"` // default 30s

	Reboot struct {
		// When says when the agent reboots a host that needs it: "window", "ring" (when its ring lets it, in a window if there are any); default "never".
		When    string         `toml:"when"`
		Windows deploy.Windows `toml:"windows"`
	} `toml:"reboot"`
	AfterDeploy     []string          `toml:"afterDeploy"`     // a program and its arguments, run after every deployment
	AfterDeployTime tomlfile.Duration `toml:"afterDeployTime"` // for it to end; default 5m

	Caches []struct {
		URL       string `toml:"url"`
		PublicKey string `toml:"publicKey"` // name:base64
		// PushTokenFile holds a token that may push: what this host built goes to this cache. "" pushes nothing.
		PushTokenFile string `toml:"pushTokenFile"`
	} `toml:"caches"`

	// Build is about systems that CI did not build, or that no cache has.
	Build struct {
		When  string            `toml:"when"`  // "auto", the default, or "never"
		Time  tomlfile.Duration `toml:"time"`  // for one build; default 4h
		After tomlfile.Duration `toml:"after"` // how long caches that do not answer are waited for first; default 10m
	} `toml:"build"`

	// Prefetch is about a release that the host's ring does not give it yet.
	Prefetch struct {
		Enable *bool         `toml:"enable"` // default true
		Rate   tomlfile.Rate `toml:"rate"`   // of the network; default 10MB
	} `toml:"prefetch"`

	Hub struct {
		URL       string `toml:"url"` // no hub when empty
		TokenFile string `toml:"tokenFile"`
	} `toml:"hub"`

	Metrics struct {
		Listen string `toml:"listen"` // host:port; not at all when empty, as by default
	} `toml:"metrics"`
}

// What reboot.when can be.
const (
	rebootNever  = "never"
	rebootWindow = "window"
	rebootRing   = "ring"
)

// RemoteConfig is one of several remotes of the fleet's repository.
type RemoteConfig struct {
	Name            string `toml:"name"` // default: the host's in the URL
	URL             string `toml:"url"`
	CredentialsFile string `toml:"credentialsFile"` // for http(s): user:token, or a token alone
	SSHKeyFile      string `toml:"sshKeyFile"`
	KnownHostsFile  string `toml:"knownHostsFile"`
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
	setDefault(&c.Confirm, "auto")
	setDefault(&c.OnDrift, "leave")
	setDefault(&c.Reboot.When, rebootNever)
	c.CorrectAfter = tomlfile.Duration(c.CorrectAfter.Or(30 * time.Second))
	c.FetchTime = tomlfile.Duration(c.FetchTime.Or(time.Hour))
	setDefault(&c.Build.When, buildAuto)
	if c.Prefetch.Rate == 0 {
		c.Prefetch.Rate = prefetchRate
	}
	c.Build.Time = tomlfile.Duration(c.Build.Time.Or(4 * time.Hour))
	c.Build.After = tomlfile.Duration(c.Build.After.Or(10 * time.Minute))
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
	case c.Remote == "" && len(c.Remotes) == 0:
		return bad("remote is missing").WithHint("set it to the URL of the fleet's repository, or name several as [[remotes]]")
	case c.AllowedSigners == "":
		return bad("allowedSigners is missing").WithHint("set it to a file with the public keys that may sign releases (ssh-keygen(1), ALLOWED SIGNERS)")
	case !filepath.IsAbs(c.StateDir), !filepath.IsAbs(c.Socket), !filepath.IsAbs(c.Profile), !filepath.IsAbs(c.AllowedSigners):
		return bad("stateDir, socket, profile and allowedSigners must be absolute paths")
	case strings.HasPrefix(c.Branch, "-"), strings.ContainsAny(c.Branch, " ~^:?*[\\"):
		return bad("branch %q cannot be a branch's name", c.Branch)
	case time.Duration(c.Poll) < time.Second, time.Duration(c.CheckTime) < time.Second, time.Duration(c.FetchTime) < time.Second:
		return bad("poll, checkTime and fetchTime must be at least 1s")
	case c.Confirm != "auto" && c.Confirm != "manual":
		return bad("confirm is %q, and can be \"auto\" or \"manual\"", c.Confirm)
	case c.OnDrift != "leave" && c.OnDrift != "correct":
		return bad("onDrift is %q, and can be \"leave\" or \"correct\"", c.OnDrift)
	case !slices.Contains([]string{rebootNever, rebootWindow, rebootRing}, c.Reboot.When):
		return bad("reboot.when is %q, and can be %q, %q or %q", c.Reboot.When, rebootNever, rebootWindow, rebootRing)
	case c.Reboot.When == rebootWindow && len(c.Reboot.Windows) == 0, c.Reboot.When == rebootNever && len(c.Reboot.Windows) > 0:
		return bad("reboot.windows belongs to reboot.when = %q, which needs it, or %q", rebootWindow, rebootRing).WithHint("set both or none, windows = [\"Sun 03:00-05:00\"]")
	case len(c.AfterDeploy) > 0 && !filepath.IsAbs(c.AfterDeploy[0]):
		return bad("afterDeploy must begin with a program's absolute path, not %q", c.AfterDeploy[0])
	}
	if err := checkRemotes(c.remotes()); err != nil {
		return bad("%s", err)
	}
	if c.Build.When != buildAuto && c.Build.When != buildNever {
		return bad("build.when is %q; it can be %q or %q", c.Build.When, buildAuto, buildNever)
	}
	for _, cache := range c.Caches {
		if cache.PushTokenFile != "" && !filepath.IsAbs(cache.PushTokenFile) {
			return bad("the pushTokenFile of cache %s must be an absolute path", cache.URL)
		}
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
	if l := c.Metrics.Listen; l != "" {
		host, _, err := net.SplitHostPort(l)
		if err != nil {
			return bad("metrics.listen %q is not host:port", l)
		}
		if host == "" {
			return bad("metrics.listen %q names no address", l).WithHint("write 127.0.0.1%s, or 0.0.0.0%s to answer everybody", l, l)
		}
	}
	return nil
}

// policy is what the configuration says of how releases are followed.
func (c Config) policy() deploy.Policy {
	return deploy.Policy{Confirm: c.Confirm == "manual", Windows: c.Windows, Correct: c.OnDrift == "correct",
		Grace: time.Duration(c.CorrectAfter), Reboots: c.Reboot.Windows, Permits: c.Reboot.When == rebootRing, Zone: time.Local}
}
