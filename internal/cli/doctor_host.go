package cli

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/activate"
	"github.com/garrison-nix/garrison/internal/agent"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/proc"
)

// onHost are the checks of one host, by its agent's configuration.
type onHost struct {
	c agent.Config
}

// hostInspections are the checks for --host. Without a configuration that can be read there is one, which says so.
func hostInspections(f doctorFlags) []inspection {
	c, err := agent.ReadConfig(f.config)
	read := inspection{"agent.toml", 0, func(context.Context) diagnosis {
		if err != nil {
			return because(broken, err, "services.garrison.agent writes it; or write it by docs/FORMATS.md")
		}
		return well("host %s, branch %s", c.Host, c.Branch)
	}}
	if err != nil {
		return []inspection{read, {"nix", 0, lookNixHere}, {"git", 0, lookGit}}
	}
	h := onHost{c}
	all := []inspection{read, {"nix", 0, lookNixHere}, {"git", 0, lookGit}, {"agent", 0, h.lookAgent}}
	if activate.HasSystemd() {
		all = append(all, inspection{"unit", 0, lookUnit})
	}
	for _, r := range c.GitRemotes() {
		all = append(all, inspection{"remote " + r.Name, 0, func(ctx context.Context) diagnosis { return lookRemoteOf(ctx, r.Remote) }})
	}
	all = append(all, inspection{"signers", 0, func(context.Context) diagnosis { return lookSigners(c.AllowedSigners) }})
	var servers []string
	for _, k := range c.Caches {
		servers = append(servers, k.URL)
		all = append(all, inspection{"cache " + k.URL, 0, func(ctx context.Context) diagnosis { return lookHostCache(ctx, k.URL, k.PublicKey) }})
	}
	all = append(all,
		inspection{"disk of the store", 0, func(context.Context) diagnosis {
			return lookDisk("/nix/store", 10<<30, 1<<30, "nix-collect-garbage --delete-older-than 14d")
		}},
		inspection{"disk of the state", 0, func(context.Context) diagnosis {
			return lookDisk(c.StateDir, 1<<30, 64<<20, "make room on the disk of "+c.StateDir)
		}},
		inspection{"synchronised", 0, func(context.Context) diagnosis { return synchronised(kernelClock()) }},
	)
	var token func() (string, error)
	if c.Hub.TokenFile != "" {
		token = tokenFrom(c.Hub.TokenFile)
	}
	all = append(all, hubInspections(c.Hub.URL, token, "report:"+c.Host)...)
	return append(all, clockInspections(append([]string{c.Hub.URL}, servers...))...)
}

func lookNixHere(ctx context.Context) diagnosis {
	n, err := nix.Find(ctx)
	if err != nil {
		return because(broken, err, "install Nix 2.8 or newer")
	}
	return nixSettings(ctx, n)
}

// lookAgent asks the agent how it is.
func (h onHost) lookAgent(ctx context.Context) diagnosis {
	body, err := openAgent(ctx, h.c.Socket, http.MethodGet, "/v1/status", nil)
	if err != nil {
		return because(broken, err, "systemctl status garrison-agent")
	}
	defer body.Close()
	var s fleet.Status
	if err := readAnswer(body, &s); err != nil {
		return because(broken, err, "systemctl restart garrison-agent")
	}
	return agentHealth(s, h.c.Host)
}

// agentHealth judges what an agent says.
func agentHealth(s fleet.Status, host string) diagnosis {
	switch {
	case s.Host != host:
		return ill(broken, "systemctl restart garrison-agent", "the agent that answers is that of host %s; the configuration says %s", s.Host, host)
	case s.Refused != nil:
		return ill(broken, "garrison explain", "it refuses what the release branch points at: %s", s.Refused.Failure.Message)
	case s.Failure != nil:
		return ill(broken, "garrison explain", "%s: %s", s.Phase, s.Failure.Message)
	case s.Remote.Failure != nil:
		return ill(broken, "garrison explain", "it reaches no remote: %s", s.Remote.Failure.Message)
	case s.Hub.Failure != nil:
		return ill(doubt, "garrison explain", "%s; it does not reach the hub: %s", s.Summary(), s.Hub.Failure.Message)
	case s.Push.Failure != nil:
		return ill(doubt, "garrison explain", "%s; it cannot push what it built: %s", s.Summary(), s.Push.Failure.Message)
	case s.Phase == fleet.PhaseOverruled || s.Suspended != nil:
		return ill(doubt, "garrison explain", "%s", s.Summary())
	}
	return well("%s", s.Summary())
}

// unitShown is what is asked of the agent's unit.
var unitShown = []string{"LoadState", "ActiveState", "SubState", "Restart", "WatchdogUSec", "ProtectKernelModules", "RestrictRealtime", "PrivateNetwork", "PrivateMounts", "ProtectSystem", "ProtectHome", "NoNewPrivileges", "RestrictNamespaces", "User"}

func lookUnit(ctx context.Context) diagnosis {
	out, err := proc.Run(ctx, proc.Cmd{Program: "systemctl", Args: []string{"show", "garrison-agent.service", "--property=" + strings.Join(unitShown, ",")}})
	if err != nil {
		return because(broken, err, "systemctl status garrison-agent")
	}
	shown := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		shown[name] = value
	}
	return unitHealth(shown)
}

// unitHealth judges the agent's unit: whether systemd keeps it running, and whether it is shut off from what an agent needs, or from less than it may be.
func unitHealth(shown map[string]string) diagnosis {
	switch {
	case shown["LoadState"] != "loaded":
		return ill(broken, "set services.garrison.agent.enable = true on this host", "there is no unit garrison-agent.service (%s)", shown["LoadState"])
	case shown["ActiveState"] != "active":
		return ill(broken, "systemctl restart garrison-agent; journalctl -u garrison-agent says why it ended", "it is %s (%s)", shown["ActiveState"], shown["SubState"])
	}
	var hinders, lacks []string
	for name, needed := range map[string]string{"PrivateNetwork": "no", "PrivateMounts": "no", "ProtectSystem": "no", "ProtectHome": "no", "NoNewPrivileges": "no", "RestrictNamespaces": "no", "User": ""} {
		if v, said := shown[name]; said && v != needed && !(name == "User" && v == "root") && v != "false" {
			hinders = append(hinders, name+"="+v)
		}
	}
	for name, wanted := range map[string]string{"ProtectKernelModules": "yes", "RestrictRealtime": "yes", "Restart": "always"} {
		if v, said := shown[name]; said && v != wanted {
			lacks = append(lacks, name+"="+wanted)
		}
	}
	if w := shown["WatchdogUSec"]; w == "0" || w == "infinity" {
		lacks = append(lacks, "WatchdogSec=5min")
	}
	slices.Sort(hinders)
	slices.Sort(lacks)
	switch {
	case hinders != nil:
		return ill(broken, "take it out of the unit: systemctl edit garrison-agent", "it is active, but shut off from what activations and nix need: %s", strings.Join(hinders, " "))
	case lacks != nil:
		return ill(doubt, "use the unit of Garrison's NixOS module, or add this to yours", "it is active; the unit lacks %s", strings.Join(lacks, " "))
	}
	return well("it is active, started again when it ends, watched, and hardened as far as an agent can be")
}

// lookRemoteOf asks a remote as the agent does, with the credentials that it is configured with.
func lookRemoteOf(ctx context.Context, r git.Remote) diagnosis {
	tags, err := git.ListTags(ctx, r, fleet.TagPrefix)
	switch {
	case err != nil:
		return because(broken, err, "git ls-remote "+r.URL)
	case len(tags) == 0:
		return ill(doubt, "garrison release, in CI or by hand", "%s answers; nothing was released there yet", git.Redact(r.URL))
	}
	return well("%s answers; it has %d tags of releases", git.Redact(r.URL), len(tags))
}

// lookSigners reads the file of keys that may sign releases.
func lookSigners(file string) diagnosis {
	const remedy = "services.garrison.agent.allowedSigners names the release key's public half"
	text, err := readConf(file)
	if err != nil {
		return because(broken, err, remedy)
	}
	keys := 0
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.IndexAny(line, " \t")
		for ; at >= 0; at = next(line, at) { // behind the principals there may be options
			if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(strings.TrimSpace(line[at:]))); err == nil {
				break
			}
		}
		if at < 0 {
			return ill(broken, remedy, "%s has a line without a public key: %.40q", file, line)
		}
		keys++
	}
	if keys == 0 {
		return ill(broken, remedy, "%s names no key: no release could be accepted", file)
	}
	return well("%d keys may sign releases", keys)
}

// next is where the blanks after those at a place are; -1 for none.
func next(line string, at int) int {
	word := strings.TrimLeft(line[at:], " \t")
	from := len(line) - len(word)
	if n := strings.IndexAny(word, " \t"); n >= 0 {
		return from + n
	}
	return -1
}

// lookHostCache asks a cache for its key, and compares it with the configured one and with what nix.conf says.
func lookHostCache(ctx context.Context, address, key string) diagnosis {
	c, err := client.New(client.Config{URL: address, Attempts: 1})
	if err != nil {
		return because(broken, err, "correct services.garrison.agent.caches")
	}
	if !plainCache(address) {
		said, err := c.Config(ctx)
		switch {
		case err != nil && fleet.CodeOf(err) != fleet.CodeUnauthorized && fleet.CodeOf(err) != fleet.CodeNotFound:
			return because(broken, err, "curl -I "+c.URL()+"/nix-cache-info")
		case err == nil && said.PublicKey != key:
			return ill(broken, fmt.Sprintf("services.garrison.agent.caches: publicKey = %q", said.PublicKey), "it signs by %s, and %s is trusted: nothing can be fetched from it", said.PublicKey, key)
		}
	}
	if err := c.Reach(ctx); fleet.CodeOf(err) == fleet.CodeUnauthorized {
		return ill(doubt, "see that /etc/nix/netrc has a token that may read it: garrison cache use", "it answers, and wants a token, which nix reads from its netrc")
	} else if err != nil {
		return because(broken, err, "curl -I "+c.URL()+"/nix-cache-info")
	}
	n, err := nix.Find(ctx)
	if err != nil {
		return notLookedAt("nix")
	}
	s, err := n.Settings(ctx)
	if err != nil {
		return notLookedAt("nix")
	}
	return nixTrusts(s, address, key)
}

// nixTrusts says whether nix itself is told of the cache: the agent tells it each time, who builds by hand does not.
func nixTrusts(s map[string]string, address, key string) diagnosis {
	names := slices.ContainsFunc(strings.Fields(s["substituters"]), func(v string) bool { return strings.TrimRight(v, "/") == strings.TrimRight(address, "/") })
	trusts := slices.Contains(strings.Fields(s["trusted-public-keys"]), key)
	switch {
	case names && !trusts:
		return ill(doubt, fmt.Sprintf("nix.settings.trusted-public-keys = [ %q ]", key), "it answers; nix.conf names it as a substituter, but does not trust its key: only the agent fetches from it")
	case !names:
		return well("it answers; the agent fetches from it, nix.conf does not name it")
	}
	return well("it answers, and nix.conf names it with its key")
}

// lookDisk says how much room there is where a path is, or would be.
func lookDisk(path string, enough, least int64, remedy string) diagnosis {
	at := path
	for at != "/" {
		if _, err := os.Stat(at); err == nil {
			break
		}
		at = filepath.Dir(at)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(at, &fs); err != nil {
		return because(broken, err, remedy)
	}
	inodes := int64(-1)
	if fs.Files > 0 {
		inodes = int64(fs.Ffree)
	}
	return diskHealth(path, int64(fs.Bavail)*fs.Bsize, inodes, enough, least, remedy)
}

// leastInodes is how many more files must fit; -1 stands for a file system that does not count.
const leastInodes = 20_000

func diskHealth(path string, free, inodes, enough, least int64, remedy string) diagnosis {
	gib := float64(free) / (1 << 30)
	switch {
	case free < least:
		return ill(broken, remedy, "%s has room for %.2f GiB", path, gib)
	case inodes >= 0 && inodes < leastInodes:
		return ill(broken, remedy, "%s has room for %d more files", path, inodes)
	case free < enough:
		return ill(doubt, remedy, "%s has room for %.1f GiB", path, gib)
	}
	return well("%s has room for %.1f GiB", path, gib)
}

// What adjtimex(2) says of a clock that nobody keeps.
const (
	timeError = 5
	staUnsync = 0x0040
)

// kernelClock is what the kernel knows of how the clock is kept.
func kernelClock() (synced bool, most time.Duration, err error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return state != timeError && t.Status&staUnsync == 0, time.Duration(t.Maxerror) * time.Microsecond, err
}

func synchronised(synced bool, most time.Duration, err error) diagnosis {
	switch {
	case err != nil:
		return because(doubt, err, "timedatectl")
	case !synced:
		return ill(doubt, "timedatectl set-ntp true (NixOS: services.timesyncd.enable = true)", "nothing keeps the clock: tokens and signatures have times in them")
	}
	return well("the clock is kept, to %s at most", most.Round(time.Millisecond))
}
