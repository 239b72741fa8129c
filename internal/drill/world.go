package drill

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// The demo's hosts. The forge carries the repository, the hub with cache and CI; the developer pushes.
var (
	followed  = []string{"ratched", "joker", "ursula"}
	manual    = "drhorrible"
	addresses = map[string]netip.Addr{
		"forge": netip.MustParseAddr("192.0.2.1"), "developer": netip.MustParseAddr("192.0.2.2"),
		"ratched": netip.MustParseAddr("192.0.2.11"), "joker": netip.MustParseAddr("192.0.2.12"),
		"ursula": netip.MustParseAddr("192.0.2.13"), "drhorrible": netip.MustParseAddr("192.0.2.14"),
	}
)

// secrets of the example fleet: which hosts declare each.
var secrets = map[string][]string{
	"punchline": {"joker"}, "ward-key": {"ratched"}, "lair-wifi": {"ratched", "ursula"}, "freeze-ray": {"drhorrible"},
}

const (
	hubURL = "http://192.0.2.1:8420"
	origin = "git://192.0.2.1/fleet.git"
	clone  = "/root/fleet" // on the developer's machine
)

// world is a fleet with all that belongs to it, on one machine.
type world struct {
	dir      string
	keys     string // folder of keys and tokens
	fleet    fs.FS
	lan      *sandbox.LAN
	hosts    map[string]*sandbox.Host
	editor   *age.X25519Identity
	plain    map[string]string // secret → what it says
	tokens   map[string]string // who → secret
	cacheURL string            // the hub's, or one apart from it
	cacheKey string            // public
	config   string            // garrison.toml
	hub      *http.Client

	// What a drill's world has, and the demo's has not.
	bases      map[string]string // of hosts with a systemd
	hubExtra   string            // lines of hub.toml, that of [ci] first
	apart      bool              // the cache is a program of its own
	agentExtra string            // lines of agent.toml, before its tables
	nixExtra   map[string]string // lines of a host's nix.conf
}

// newWorld makes the LAN and keys; no host runs yet. What it returns is to be closed, also with an error.
func newWorld(ctx context.Context, o Options) (*world, error) {
	w := &world{dir: o.Dir, keys: filepath.Join(o.Dir, "keys"), fleet: o.Fleet, cacheURL: hubURL + "/fleet",
		hosts: map[string]*sandbox.Host{}, plain: map[string]string{}, tokens: map[string]string{}}
	if err := os.MkdirAll(w.keys, 0o700); err != nil {
		return w, err
	}
	var err error // the LAN first: it knows, and names, all that is missing on this machine
	if w.lan, err = sandbox.NewLAN(ctx, sandbox.Options{Self: o.Self, Dir: filepath.Join(o.Dir, "hosts"), Names: addresses, Log: o.Log}); err != nil {
		return w, err
	}
	if w.editor, err = age.GenerateX25519Identity(); err != nil {
		return w, err
	}
	for name := range secrets {
		w.plain[name] = name + " " + rand.Text()
	}
	for _, key := range append([]string{"release", manual}, followed...) {
		if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", filepath.Join(w.keys, key)).CombinedOutput(); err != nil {
			return w, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	return w, nil
}

func (w *world) key(name string) []byte {
	b, _ := os.ReadFile(filepath.Join(w.keys, name)) // made by newWorld
	return b
}

// token is the secret of who, made when first asked for.
func (w *world) token(who string) string {
	if w.tokens[who] == "" {
		w.tokens[who] = rand.Text()
	}
	return w.tokens[who]
}

// startForge starts the machine with the bare repository and the hub.
func (w *world) startForge(ctx context.Context) error {
	var tokens strings.Builder
	entry := func(who, scope string) {
		sum := sha256.Sum256([]byte(w.token(who)))
		fmt.Fprintf(&tokens, "[[token]]\nname = %q\nsha256 = %q\nscopes = [%q]\n\n", who, hex.EncodeToString(sum[:]), scope)
	}
	entry("hook", "wake")
	entry("demo", "read")
	entry("person", "rollout")
	for _, h := range append([]string{manual}, followed...) {
		entry(h, "report:"+h)
	}
	hubConfig := `listen = "192.0.2.1:8420"
dataDir = "/var/lib/garrison-hub"
tokens = "/etc/garrison/tokens.toml"
[ci]
remote = "/srv/git/fleet.git"
signingKey = "/etc/garrison/release-key"
identity = "/etc/garrison/editor.txt"
` + w.hubExtra
	// The repository is there before the host: its services follow it from their start.
	disk := filepath.Join(w.dir, "hosts", "forge")
	if out, err := exec.CommandContext(ctx, "git", "init", "--quiet", "--bare", "--initial-branch=main", filepath.Join(disk, "srv/git/fleet.git")).CombinedOutput(); err != nil {
		return fmt.Errorf("git init: %w: %s", err, out)
	}
	hook := "#!/bin/sh\nexport PATH=" + w.lan.Path() + " # who pushes by SSH comes with another\nexec garrison hub wake --url " + hubURL + " --token-file /etc/garrison/hook-token\n"
	files := []sandbox.File{
		{Path: "/etc/garrison/hub.toml", Data: []byte(hubConfig)},
		{Path: "/etc/garrison/tokens.toml", Mode: 0o600, Data: []byte(tokens.String())},
		{Path: "/etc/garrison/release-key", Mode: 0o600, Data: w.key("release")},
		{Path: "/etc/garrison/editor.txt", Mode: 0o600, Data: []byte(w.editor.String() + "\n")},
		{Path: "/etc/garrison/hook-token", Mode: 0o600, Data: []byte(w.token("hook"))},
		{Path: "/srv/git/fleet.git/hooks/post-receive", Mode: 0o755, Data: []byte(hook)},
	}
	services := []sandbox.Service{
		{Name: "git", Args: []string{"git", "daemon", "--listen=192.0.2.1", "--reuseaddr", "--export-all", "--enable=receive-pack", "--base-path=/srv/git"}, Restart: true},
		{Name: "hub", Args: []string{"garrison", "hub"}, Restart: true},
	}
	if w.apart {
		files = append(files, cacheApart()...)
		services = append(services, sandbox.Service{Name: "cache", Args: []string{"garrison", "cache", "serve"}, Restart: true})
	}
	h, err := w.lan.Start(ctx, sandbox.HostOptions{Name: "forge", Dir: disk, Addr: addresses["forge"], Files: files, Services: services})
	if err != nil {
		return err
	}
	w.hosts["forge"] = h
	if w.apart {
		if _, err := w.run(ctx, "forge", "sh", "-euc", makePushToken); err != nil {
			return err
		}
	}
	w.hub = &http.Client{Transport: &http.Transport{DialContext: h.DialContext, MaxIdleConnsPerHost: 4}}
	var info struct{ PublicKey string }
	base, name, _ := strings.Cut(strings.TrimPrefix(w.cacheURL, "http://"), "/")
	if err := until(ctx, patience, lookAgain, func() error { return w.get(ctx, "http://"+base+"/api/v1/caches/"+name, &info) }); err != nil {
		return fmt.Errorf("the cache does not answer: %w", err)
	}
	w.cacheKey = info.PublicKey
	return nil
}

// startHost starts one of the fleet's hosts with its agent.
func (w *world) startHost(ctx context.Context, name string) error {
	config := fmt.Sprintf(`host = %q
remote = %q
allowedSigners = "/etc/garrison/allowed-signers"
%s[[caches]]
url = %q
publicKey = %q
[hub]
url = %q
tokenFile = "/etc/garrison/hub-token"
`, name, origin, w.agentExtra, w.cacheURL, w.cacheKey, hubURL)
	files := []sandbox.File{
		{Path: "/etc/garrison/agent.toml", Data: []byte(config)},
		{Path: "/etc/garrison/allowed-signers", Data: append([]byte("garrison "), w.key("release.pub")...)},
		{Path: "/etc/garrison/hub-token", Mode: 0o600, Data: []byte(w.token(name))},
		{Path: "/etc/ssh/ssh_host_ed25519_key", Mode: 0o600, Data: w.key(name)},
		{Path: "/etc/ssh/ssh_host_ed25519_key.pub", Data: w.key(name + ".pub")},
	}
	if more := w.nixExtra[name]; more != "" {
		files = append(files, sandbox.File{Path: "/etc/nix/nix.conf", Data: []byte(w.lan.NixConf(nil, nil) + more)})
	}
	h, err := w.lan.Start(ctx, sandbox.HostOptions{Name: name, Addr: addresses[name], Base: w.bases[name], Files: files,
		Services: []sandbox.Service{{Name: "agent", Args: []string{"garrison", "agent"}, Restart: true}}})
	w.hosts[name] = h
	return err
}

// startDeveloper makes the developer's clone: the example fleet, with the demo's own keys and secrets.
func (w *world) startDeveloper(ctx context.Context) error {
	h, err := w.lan.Start(ctx, sandbox.HostOptions{Name: "developer", Addr: addresses["developer"], Files: []sandbox.File{
		{Path: "/root/.gitconfig", Data: []byte("[user]\n\tname = Developer\n\temail = developer@example.org\n[init]\n\tdefaultBranch = main\n")},
	}})
	if err != nil {
		return err
	}
	w.hosts["developer"] = h
	err = fs.WalkDir(w.fleet, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := fs.ReadFile(w.fleet, path)
		if err != nil {
			return err
		}
		return w.write(path, data)
	})
	if err != nil {
		return err
	}
	for _, host := range append([]string{manual}, followed...) {
		if err := w.write("hosts/"+host+"/host.pub", w.key(host+".pub")); err != nil {
			return err
		}
	}
	for name := range secrets {
		var b bytes.Buffer
		to, err := age.Encrypt(&b, w.editor.Recipient())
		if err != nil {
			return err
		}
		if _, err := io.WriteString(to, w.plain[name]); err != nil {
			return err
		}
		if err := to.Close(); err != nil {
			return err
		}
		if err := w.write("secrets/"+name+".age", b.Bytes()); err != nil {
			return err
		}
	}
	w.config = fmt.Sprintf("[hosts]\nmanual = [%q]\n\n[secrets]\neditors = [%q]\n", manual, w.editor.Recipient())
	if err := w.write("garrison.toml", []byte(w.config)); err != nil {
		return err
	}
	if _, err := w.git(ctx, "init", "--quiet"); err != nil {
		return err
	}
	_, err = w.git(ctx, "remote", "add", "origin", origin)
	return err
}

// write writes a file of the developer's clone; nil removes it.
func (w *world) write(path string, data []byte) error {
	file := w.hosts["developer"].Path(filepath.Join(clone, path))
	if data == nil {
		return os.Remove(file)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}

// commit commits everything in the developer's clone and returns the commit.
func (w *world) commit(ctx context.Context, message string) (string, error) {
	if _, err := w.git(ctx, "add", "--all"); err != nil {
		return "", err
	}
	if _, err := w.git(ctx, "commit", "--quiet", "--message", message); err != nil {
		return "", err
	}
	return w.git(ctx, "rev-parse", "HEAD")
}

func (w *world) git(ctx context.Context, args ...string) (string, error) {
	return w.run(ctx, "developer", "git", append([]string{"-C", clone}, args...)...)
}

// run runs a command on a host and returns what it printed, trimmed.
func (w *world) run(ctx context.Context, host, name string, args ...string) (string, error) {
	out, err := w.hosts[host].Run(ctx, name, args...)
	return strings.TrimSpace(out), err
}

// status asks a host's agent, by the command that a person would type.
func (w *world) status(ctx context.Context, host string) (fleet.Status, error) {
	var s fleet.Status
	out, err := w.hosts[host].Run(ctx, "garrison", "status", "-o", "json") // exit codes 3 and 4 come with an answer
	if out == "" && err != nil {
		return s, err
	}
	return s, unmarshal([]byte(out), &s)
}
