package release

import (
	"cmp"
	"errors"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// ConfigPath is where a fleet's repository holds its Config.
const ConfigPath = "garrison.toml"

const defaultSource = "main"

// Config is garrison.toml. Everything has a default that serves a flake without the file.
type Config struct {
	// Flakes are patterns (path.Match) of folders with flakes of their own, besides the one at the root.
	Flakes []string `toml:"flakes"`
	// Submodules says that hosts need the files of the repository's submodules.
	Submodules bool `toml:"submodules"`
	// LFS says whether hosts need the contents of the files that git-lfs keeps; it must be said where there are such files.
	LFS      *bool `toml:"lfs"`
	Branches struct {
		Source  string `toml:"source"`  // default "main"
		Release string `toml:"release"` // default "release"
	} `toml:"branches"`
	Source struct {
		// Signers are the public SSH keys of those who may sign commits on the source branch. With any, all commits since the last
		// release must be signed by one of those that both that release and the new one name.
		Signers []string `toml:"signers"`
	} `toml:"source"`
	// Mirrors are repositories that get releases too, when Remote has them.
	Mirrors []string `toml:"mirrors"`
	Hub     struct {
		URL string `toml:"url"` // of the hub to wake when there is a release; its token does not stand here
	} `toml:"hub"`
	Hosts struct {
		// Manual hosts are evaluated and re-keyed, but no agent deploys them.
		Manual []string `toml:"manual"`
		// Partial hosts may keep their previous system in a release made with --keep-going, when theirs does not build.
		Partial []string `toml:"partial"`
	} `toml:"hosts"`
	Secrets struct {
		Editors []string `toml:"editors"` // public keys of those who may read secrets on the source branch
		// HostKeys are the public keys of hosts that do not declare one in the flake.
		// A list while a key is being changed: the old one and the new.
		HostKeys map[string]any `toml:"hostKeys"`
		// Rules is the file with agenix's rules: by default secrets.nix or secrets/secrets.nix, if one of them has some; "" for none.
		Rules *string `toml:"rules"`
		// AllowRemoval are hosts and public keys that may lose access to secrets.
		AllowRemoval []string `toml:"allowRemoval"`
	} `toml:"secrets"`
	Check struct {
		// Commands are run by garrison check, by sh -c in a copy of the commit's files.
		Commands []struct {
			Name string `toml:"name"`
			Run  string `toml:"run"`
		} `toml:"commands"`
	} `toml:"check"`
	Cache struct {
		URL string `toml:"url"` // of the cache, with its name: https://host/name
	} `toml:"cache"`
	Drill Drill        `toml:"drill"`
	Rings []RingConfig `toml:"rings"`
}

// branchName is narrower than git-check-ref-format(1): what may stand in a shell, a URL and a file's path as well.
var branchName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,198}[A-Za-z0-9])?$`) })

// ParseConfig reads garrison.toml; no bytes at all give the defaults.
func ParseConfig(name string, data []byte) (Config, error) {
	var c Config
	if err := tomlfile.Decode(name, data, &c); err != nil {
		var e *fleet.Error
		if errors.As(err, &e) {
			e.Class = fleet.Bad // it is the commit's fault, not this machine's
		}
		return c, err
	}
	if c.Branches.Source == "" {
		c.Branches.Source = defaultSource
	}
	if c.Branches.Release == "" {
		c.Branches.Release = "release"
	}
	for host := range c.Secrets.HostKeys {
		if c.HostKeys(host) == nil {
			return c, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: secrets.hostKeys.%s must be a public key, or a list of them", name, host)
		}
	}
	if r := c.Secrets.Rules; r != nil && *r != "" && (path.Clean(*r) != *r || path.IsAbs(*r) || strings.HasPrefix(*r, "..")) {
		return c, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: secrets.rules is %q, which is not the path of a file in the repository", name, *r).
			WithHint("write it from the root, like secrets/secrets.nix")
	}
	for i, k := range c.Source.Signers {
		if signer(k) == "" {
			return c, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: source.signers[%d] is not a public SSH key", name, i).WithHint("write it as the file ending in .pub has it: ssh-ed25519 AAAA… name")
		}
	}
	for _, m := range c.Mirrors {
		if err := checkMirror(m); err != nil {
			return c, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: mirrors has %q: %v", name, git.Redact(m), err)
		}
	}
	for _, k := range c.Check.Commands {
		if k.Name == "" || k.Run == "" {
			return c, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: each of check.commands needs a name and what to run", name)
		}
	}
	for key, b := range map[string]string{"source": c.Branches.Source, "release": c.Branches.Release} {
		if !branchName().MatchString(b) || strings.Contains(b, "..") || strings.Contains(b, "//") || strings.HasSuffix(b, ".lock") {
			return c, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: branches.%s is %q, which cannot be a branch", name, key, b).
				WithHint("use letters, digits and ._-/, the first and the last a letter or digit")
		}
	}
	if err := cmp.Or(c.Drill.check(name), c.checkRings(name)); err != nil {
		return c, err
	}
	if c.Branches.Source == c.Branches.Release {
		return c, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: branches.source and branches.release are both %q", name, c.Branches.Source)
	}
	return c, nil
}

// HostKeys are the public keys of a host that the file names, nil if it names none or something else.
func (c Config) HostKeys(host string) []string {
	switch v := c.Secrets.HostKeys[host].(type) {
	case string:
		return []string{v}
	case []any:
		var keys []string
		for _, k := range v {
			s, ok := k.(string)
			if !ok {
				return nil
			}
			keys = append(keys, s)
		}
		return keys
	}
	return nil
}

// check holds the configuration against the hosts that the flake has.
func (c Config) check(hosts []string) error {
	named := slices.Concat(c.Hosts.Manual, c.Hosts.Partial)
	for h := range c.Secrets.HostKeys {
		named = append(named, h)
	}
	slices.Sort(named)
	var unknown []string
	for _, h := range slices.Compact(named) {
		if !slices.Contains(hosts, h) {
			unknown = append(unknown, h)
		}
	}
	if len(unknown) > 0 {
		return fleet.Errorf(fleet.Bad, fleet.CodeNoSuchHost, "%s names %s, which the flake does not have", ConfigPath, strings.Join(unknown, ", ")).
			WithHint("its nixosConfigurations are: %s", strings.Join(hosts, ", "))
	}
	for _, h := range hosts {
		if !fleet.ValidHostName(h) {
			return fleet.Errorf(fleet.Bad, fleet.CodeNoSuchHost, "nixosConfigurations has %q, which cannot be a host's name", h)
		}
	}
	return nil
}
