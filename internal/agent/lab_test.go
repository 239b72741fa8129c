package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/examples"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// lab is what the tests of this package share: a network, a forge with the hub's cache and CI, and one release made by
// it that holds a system of each variant. Every test has a host and an origin of its own, and deploys variants to it.
type lab struct {
	dir      string
	lan      *sandbox.LAN
	forge    *sandbox.Host
	template *git.Repo // the origin that CI works on
	cacheKey string
	manifest *fleet.Manifest
	tree     string // of the release

	mu    sync.Mutex
	addrs byte

	unitOnce sync.Once
	unit     sandbox.File // of agents on hosts with a systemd
}

// switchPatch makes the fleet's switch-to-configuration stop at gates: a file /run/gate/in-ACTION-VARIANT or
// after-ACTION-VARIANT keeps it there, with NAME.reached beside it.
const switchPatch = `
name=$(cat "$toplevel/host-name")
gate() {
  [ -e "/run/gate/$1" ] || return 0
  : > "/run/gate/$1.reached"
  while [ -e "/run/gate/$1" ]; do sleep 0.02; done
}
leave() {
  status=$?
  [ "$name-$action" != unhealthy-test ] || ln -sfn "$(readlink -f /nix/var/nix/profiles/system)" /run/current-system
  gate "after-$action-$name"
  exit $status
}
trap leave EXIT
gate "in-$action-$name"
`

const nixEnvGate = `#!/bin/sh
gate() {
  [ -e "/run/gate/$1" ] || return 0
  : > "/run/gate/$1.reached"
  while [ -e "/run/gate/$1" ]; do sleep 0.02; done
}
PATH=${PATH#/opt/gate:}
gate before-profile
nix-env "$@"
status=$?
gate after-profile
exit $status
`

var (
	self    string // the garrison binary
	labDir  string
	theLab  *lab
	labErr  error
	labOnce sync.Once
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	// Nearly all of the time is waiting: for polls, retries, boots.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var err error
	if labDir, err = os.MkdirTemp("", "garrison-agent-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(labDir)
	self = filepath.Join(labDir, "garrison")
	overlay := filepath.Join(labDir, "overlay.json")
	if err := writeOverlay(overlay); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	args := []string{"build", "-overlay", overlay, "-o", self}
	if raceFlag != "" {
		args = append(args, raceFlag)
	}
	build := exec.Command("go", append(args, "../../cmd/garrison")...)
	if raceFlag == "" {
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is delivered
	}
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v: %s\n", err, out)
		return 1
	}
	defer func() {
		if theLab != nil && theLab.lan != nil {
			_ = theLab.lan.Close()
		}
	}()
	return m.Run()
}

// writeOverlay has the go tool build testdata/main.go for cmd/garrison.
func writeOverlay(file string) error {
	main, err1 := filepath.Abs("../../cmd/garrison/main.go")
	ours, err2 := filepath.Abs("testdata/main.go")
	data, err3 := json.Marshal(map[string]map[string]string{"Replace": {main: ours}})
	return errors.Join(err1, err2, err3, os.WriteFile(file, data, 0o600))
}

// needLab returns the lab, made when first asked for.
func needLab(t testing.TB) *lab {
	t.Helper()
	labOnce.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		theLab = &lab{dir: labDir, addrs: 10}
		labErr = theLab.open(ctx)
	})
	if labErr != nil {
		t.Fatal(labErr)
	}
	return theLab
}

const (
	hubURL   = "http://192.0.2.1:8420"
	cacheURL = hubURL + "/fleet"
)

func (l *lab) open(ctx context.Context) (err error) {
	for _, key := range []string{"release", "stranger", "host"} {
		if err := command("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", l.key(key)); err != nil {
			return err
		}
	}
	if l.lan, err = sandbox.NewLAN(ctx, sandbox.Options{Self: self, Dir: filepath.Join(l.dir, "hosts")}); err != nil {
		return err
	}
	disk := filepath.Join(l.dir, "hosts/forge")
	bare := filepath.Join(disk, "srv/git/fleet.git")
	if l.template, err = git.Init(ctx, bare); err != nil {
		return err
	}
	if err := l.pushFleet(bare); err != nil {
		return err
	}
	if err := l.startForge(ctx, disk); err != nil {
		return err
	}
	return l.readRelease(ctx)
}

func (l *lab) key(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) keyData(name string) []byte {
	data, _ := os.ReadFile(l.key(name)) // made by open
	return data
}

// pushFleet writes the example fleet with a host of each variant and pushes it.
func (l *lab) pushFleet(bare string) error {
	work := filepath.Join(l.dir, "work")
	example, err := fs.Sub(examples.Fleet, "fleet")
	if err != nil {
		return err
	}
	if err := os.CopyFS(work, example); err != nil {
		return err
	}
	var hosts strings.Builder
	for name, files := range variants {
		fmt.Fprintf(&hosts, "%s = nixosSystem %q; ", name, name)
		all := map[string]string{"default.nix": "{ nixpkgs.hostPlatform = \"x86_64-linux\"; }\n", "host.pub": string(l.keyData("host.pub"))}
		for file, text := range files {
			all[file] = text
		}
		for file, text := range all {
			path := filepath.Join(work, "hosts", name, file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
				return err
			}
		}
	}
	const anchor = `[ "$action" = check ] && exit 0`
	for _, change := range [][3]string{
		{"lib/switch-to-configuration.sh", anchor, switchPatch + anchor},
		{"lib/switch-to-configuration.sh", "set -u\n", "set -u\n: > \"/run/switch-${1-}-began\"\n"},
		{"lib/default.nix", "      Type=exec\n", "      ${readIfThere (root + \"/hosts/${name}/service.conf\") \"Type=exec\"}\n"},
	} {
		path := filepath.Join(work, change[0])
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), change[1]) {
			return fmt.Errorf("%s does not hold %q: %w", path, change[1], err)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(text), change[1], change[2], 1)), 0o644); err != nil {
			return err
		}
	}
	flake := "{ outputs = { self }: let inherit (import ./lib { root = ./.; }) nixosSystem; in { nixosConfigurations = { " + hosts.String() + "}; }; }\n"
	if err := errors.Join(os.WriteFile(filepath.Join(work, "flake.nix"), []byte(flake), 0o644), os.WriteFile(filepath.Join(work, "garrison.toml"), nil, 0o644)); err != nil {
		return err
	}
	for _, args := range [][]string{{"init", "--quiet", "--initial-branch=main"}, {"add", "--all"},
		{"-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--message", "Every variant"}, {"push", "--quiet", bare, "main"}} {
		if err := command(work, "git", args...); err != nil {
			return err
		}
	}
	return nil
}

// startForge starts the hub, whose CI makes the release of what was pushed.
func (l *lab) startForge(ctx context.Context, disk string) (err error) {
	tokens := ""
	for who, scope := range map[string]string{"read-token": `"read"`, "host-token": `"report:good1", "report:joker"`, "wake-token": `"wake"`} {
		sum := sha256.Sum256([]byte(who))
		tokens += fmt.Sprintf("[[token]]\nname = %q\nsha256 = %q\nscopes = [%s]\n\n", who, hex.EncodeToString(sum[:]), scope)
	}
	l.forge, err = l.lan.Start(ctx, sandbox.HostOptions{Name: "forge", Dir: disk, Addr: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Files: []sandbox.File{
		{Path: "/etc/garrison/hub.toml", Data: []byte("listen = \"192.0.2.1:8420\"\ndataDir = \"/var/lib/garrison-hub\"\ntokens = \"/etc/garrison/tokens.toml\"\n[ci]\nremote = \"/srv/git/fleet.git\"\nsigningKey = \"/etc/garrison/release-key\"\n")},
		{Path: "/etc/garrison/tokens.toml", Mode: 0o600, Data: []byte(tokens)},
		{Path: "/etc/garrison/wake-token", Mode: 0o600, Data: []byte("wake-token")},
		{Path: "/etc/garrison/release-key", Mode: 0o600, Data: l.keyData("release")},
	}, Services: []sandbox.Service{{Name: "hub", Args: []string{"garrison", "hub"}, Restart: true}}})
	return err
}

// readRelease waits for the release and for the cache's key.
func (l *lab) readRelease(ctx context.Context) error {
	client := &http.Client{Transport: &http.Transport{DialContext: l.forge.DialContext}}
	defer client.CloseIdleConnections()
	for {
		id, released, err := l.template.Resolve(ctx, "refs/tags/release-1")
		if err != nil {
			return err
		}
		if released {
			tag, err := l.template.ReadTag(ctx, id)
			if err != nil {
				return err
			}
			if l.manifest, err = fleet.ParseTagMessage(tag.Message); err != nil {
				return err
			}
			commit, err := l.template.CommitInfo(ctx, tag.Commit)
			if err != nil {
				return err
			}
			l.tree = commit.Tree
			break
		}
		select {
		case <-ctx.Done():
			log, _ := l.forge.ReadFile("/var/log/hub.log")
			return fmt.Errorf("the hub makes no release: %s", log)
		case <-time.After(20 * time.Millisecond):
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, hubURL+"/api/v1/caches/fleet", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer read-token")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var info struct{ PublicKey string }
	err = json.NewDecoder(resp.Body).Decode(&info)
	l.cacheKey = info.PublicKey
	return err
}

// out is the system of a variant.
func (l *lab) out(variant string) string { return l.manifest.Hosts[variant].OutPath }

// address is one that no other host has.
func (l *lab) address() netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addrs++
	return netip.AddrFrom4([4]byte{192, 0, 2, l.addrs})
}

// command runs a program on the machine, in dir.
func command(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, said.String())
	}
	return nil
}

func gitOutput(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", append([]string{"--git-dir", dir}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %v: %w", args, err)
	}
	return string(out), nil
}
