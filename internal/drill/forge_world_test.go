package drill_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"github.com/garrison-nix/garrison/examples"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge/forgetest"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// town is a fleet's repository at a forge whose Actions release it, with a hub and a host that know of nothing but what the forge tells them. Forge and
// runner are on loopback, hub and host on a LAN; forwarders are in between, as routers would be.
type town struct {
	t     testing.TB
	dir   string // with the clone and the keys
	clone string
	forge *forgetest.Gitea
	repo  *forgetest.Repo
	lan   *sandbox.LAN
	hub   *sandbox.Host
	joker *sandbox.Host

	hubURL, cacheKey string // as loopback sees it; the cache's public one
	key              string // the file with the release key
}

const (
	hubPort    = "8420"
	forgePort  = "3000"
	hookSecret = "the secret of the webhook"
	thePlain   = "why did the fleet cross the network"
)

// newTown makes one in which nothing was pushed yet. edit may change the workflow.
func newTown(t testing.TB, edit func(workflow string) string) *town {
	t.Helper()
	w := newForge(t)
	w.startHub(fmt.Sprintf("[forge]\nkind = \"gitea\"\nurl = %q\nrepo = %q\ntokenFile = \"/etc/garrison/forge-token\"\nwebhookSecretFile = \"/etc/garrison/webhook-secret\"\n"+
		"[follow]\nremote = %q\npoll = \"1h\"\n", forgeThen, w.repo.Full(), forgeThen+"/"+w.repo.Full()+".git"))
	w.repo.Hook(w.t, w.hubURL+"/api/v1/webhook", hookSecret)
	w.writeFleet()
	w.initialize(edit)
	w.startJoker()
	return w
}

// newForge is a forge with an empty repository whose Actions are run, and a LAN without a machine.
func newForge(t testing.TB) *town {
	t.Helper()
	w := &town{t: t, dir: t.TempDir(), forge: forgetest.Start(t)}
	t.Cleanup(func() { _ = exec.Command("chmod", "-R", "u+w", w.dir).Run() }) // a store is not writable
	w.clone = filepath.Join(w.dir, "fleet")
	w.repo = w.forge.Repo(t, w.forge.User(t, "owner"), "fleet")
	exe, err := os.Executable()
	must(t, err)
	w.lan, err = sandbox.NewLAN(t.Context(), sandbox.Options{Self: exe, Dir: filepath.Join(w.dir, "hosts"), Names: map[string]netip.Addr{"joker": netip.AddrFrom4([4]byte{192, 0, 2, 2})}})
	must(t, err)
	t.Cleanup(func() { must(t, w.lan.Close()) })
	must(t, os.MkdirAll(filepath.Join(w.dir, "bin"), 0o755))
	must(t, os.Symlink(exe, filepath.Join(w.dir, "bin/garrison")))
	w.forge.Runner(t, w.repo, w.env()...)
	for _, name := range []string{"editor", "joker", "ursula"} {
		w.do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", filepath.Join(w.dir, name))
	}
	return w
}

// env is the environment of jobs, and of what a person runs.
func (w *town) env() []string {
	return []string{
		"PATH=" + filepath.Join(w.dir, "bin") + ":" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0", "NO_COLOR=1", "HOME=" + w.dir, "TMPDIR=" + os.TempDir(),
		"NIX_REMOTE=local?root=" + filepath.Join(w.dir, "store"), "NIX_CONFIG=" + w.lan.NixConf(nil, nil), "NIX_CONF_DIR=" + w.dir,
		"XDG_CONFIG_HOME=" + filepath.Join(w.dir, "config"), "XDG_CACHE_HOME=" + filepath.Join(w.dir, "cache"), "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Editor", "GIT_AUTHOR_EMAIL=editor@example.org", "GIT_COMMITTER_NAME=Editor", "GIT_COMMITTER_EMAIL=editor@example.org",
	}
}

// start starts a machine on the LAN.
func (w *town) start(o sandbox.HostOptions, last byte, service string) *sandbox.Host {
	w.t.Helper()
	o.Addr = netip.AddrFrom4([4]byte{192, 0, 2, last})
	o.Env = []string{"GORACE=atexit_sleep_ms=0"}
	o.Services = []sandbox.Service{{Name: service, Args: []string{"garrison", service}, Restart: true}}
	h, err := w.lan.Start(w.t.Context(), o)
	must(w.t, err)
	w.t.Cleanup(func() {
		log, err := h.ReadFile("/var/log/" + service + ".log")
		must(w.t, errors.Join(err, h.Kill()))
		if w.t.Failed() || bytes.Contains(log, []byte("DATA RACE")) {
			w.t.Errorf("the log of %s:\n%s", service, log)
		}
	})
	return h
}

func (w *town) file(name string) []byte {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, name))
	must(w.t, err)
	return b
}

// token is what the hub takes for a scope.
func token(scope string) string { return "token-for-" + scope }

const (
	hubAddr   = "192.0.2.1"
	forgeThen = "http://" + hubAddr + ":" + forgePort // the forge, as the LAN sees it
	hubThen   = "http://" + hubAddr + ":" + hubPort
)

// startHub starts the hub, with the fleet's cache. more is of its configuration: what it knows of the forge. Without, it is a cache alone.
func (w *town) startHub(more string) {
	w.t.Helper()
	var tokens strings.Builder
	for _, scope := range []string{"push", "read", "report:joker"} {
		sum := sha256.Sum256([]byte(token(scope)))
		fmt.Fprintf(&tokens, "[[token]]\nname = %q\nsha256 = %q\nscopes = [%q]\n", scope, hex.EncodeToString(sum[:]), scope)
	}
	config := fmt.Sprintf("listen = \"0.0.0.0:%s\"\ndataDir = \"/var/lib/garrison-hub\"\ntokens = \"/etc/garrison/tokens.toml\"\n%s", hubPort, more)
	w.hub = w.start(sandbox.HostOptions{Name: "hub", Files: []sandbox.File{
		{Path: "/etc/garrison/hub.toml", Data: []byte(config)},
		{Path: "/etc/garrison/tokens.toml", Mode: 0o600, Data: []byte(tokens.String())},
		{Path: "/etc/garrison/forge-token", Mode: 0o600, Data: []byte(w.forge.Token(w.t, w.repo.Owner, "write:repository"))},
		{Path: "/etc/garrison/webhook-secret", Mode: 0o600, Data: []byte(hookSecret)},
	}}, 1, "hub")
	inside, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.t, err)
	w.hubURL = "http://" + inside.Addr().String()
	forward(w.t, inside, func(ctx context.Context) (net.Conn, error) {
		return w.hub.DialContext(ctx, "tcp", net.JoinHostPort(hubAddr, hubPort))
	})
	outside, err := w.hub.Listen("tcp", net.JoinHostPort(hubAddr, forgePort))
	must(w.t, err)
	forward(w.t, outside, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(w.forge.URL, "http://"))
	})
	var info struct{ PublicKey string }
	w.await("the hub answers", func() bool { return w.ask("/api/v1/caches/fleet", &info) == nil })
	w.cacheKey = info.PublicKey
}

// forward connects those who come to l with whom dial reaches, until the test ends.
func forward(t testing.TB, l net.Listener, dial func(context.Context) (net.Conn, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				d, err := dial(ctx)
				if err != nil {
					return
				}
				defer d.Close()
				stop := context.AfterFunc(ctx, func() { _, _ = c.Close(), d.Close() })
				defer stop()
				var both sync.WaitGroup
				both.Go(func() { pass(d, c) })
				pass(c, d)
				both.Wait()
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		all.Wait()
	})
}

// pass copies until from ends, and tells to.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if c, ok := to.(*net.TCPConn); ok {
		_ = c.CloseWrite()
	}
}

// ask asks the hub, as one who may read.
func (w *town) ask(path string, answer any) error {
	req, err := http.NewRequest(http.MethodGet, w.hubURL+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token("read"))
	resp, err := (&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

const twoHosts = `{
  outputs = { self }:
    let inherit (import ./lib { root = ./.; }) nixosSystem;
    in { nixosConfigurations = { joker = nixosSystem "joker"; ursula = nixosSystem "ursula"; }; };
}
`

// The check of this fleet can be made to fail, and to wait for the test.
const theCheck = `[[check.commands]]
name = "holds"
run = "test ! -e hold || { touch $(cat hold).begun; until test -e $(cat hold).go; do sleep 0.05; done; }; test ! -e broken"
`

// writeFleet makes a repository of the example fleet's joker, who is followed, and ursula, who is not.
func (w *town) writeFleet() {
	w.t.Helper()
	example, err := fs.Sub(examples.Fleet, "fleet")
	must(w.t, errors.Join(err, os.CopyFS(w.clone, example)))
	for _, name := range []string{"hosts/drhorrible", "hosts/ratched", "secrets", "garrison.toml"} {
		must(w.t, os.RemoveAll(filepath.Join(w.clone, name)))
	}
	for _, host := range []string{"joker", "ursula"} {
		w.write("hosts/"+host+"/host.pub", string(w.file(host+".pub")))
	}
	editor := strings.TrimSpace(string(w.file("editor.pub")))
	recipient, err := agessh.ParseRecipient(editor)
	must(w.t, err)
	for _, name := range []string{"punchline", "lair-wifi"} {
		var b bytes.Buffer
		to, err := age.Encrypt(&b, recipient)
		must(w.t, err)
		_, err = io.WriteString(to, thePlain)
		must(w.t, errors.Join(err, to.Close()))
		w.write("secrets/"+name+".age", b.String())
	}
	w.write("flake.nix", twoHosts)
	w.write("garrison.toml", fmt.Sprintf("[hosts]\nmanual = [\"ursula\"]\n[secrets]\neditors = [%q]\n[cache]\nurl = %q\n%s", editor, w.hubURL+"/fleet", theCheck))
	w.git("init", "--quiet", "--initial-branch=main")
	w.git("remote", "add", "origin", w.repo.Push)
	w.commit("The fleet")
}

// initialize does what a person does first: garrison init, which writes the workflow, makes the release key, and gives CI its secrets.
func (w *town) initialize(edit func(string) string) {
	w.t.Helper()
	must(w.t, os.WriteFile(filepath.Join(w.dir, "forge-token"), []byte(w.forge.Token(w.t, w.repo.Owner, "write:repository")), 0o600))
	must(w.t, os.WriteFile(filepath.Join(w.dir, "cache-token"), []byte(token("push")), 0o600))
	w.do("garrison", "init", "--cache", w.hubURL+"/fleet", "--cache-token-file", filepath.Join(w.dir, "cache-token"),
		"--identity", filepath.Join(w.dir, "editor"), "--set-secrets", "--forge-token-file", filepath.Join(w.dir, "forge-token"))
	found, err := filepath.Glob(filepath.Join(w.dir, "config/garrison/*/release-key"))
	must(w.t, err)
	if len(found) != 1 {
		w.t.Fatalf("garrison init made the release keys %v", found)
	}
	w.key = found[0]
	if edit != nil {
		const file = ".gitea/workflows/garrison.yml"
		w.write(file, edit(string(w.file("fleet/"+file))))
	}
	signer, err := os.ReadFile(w.key + ".pub")
	must(w.t, err)
	must(w.t, os.WriteFile(filepath.Join(w.dir, "allowed-signers"), append([]byte("garrison "), signer...), 0o644))
}

// startJoker starts the host. Its agent looks at the forge, as one who may only read, when it starts, once an hour, and when the hub wakes it.
func (w *town) startJoker() {
	w.t.Helper()
	config := fmt.Sprintf(`host = "joker"
allowedSigners = "/etc/garrison/allowed-signers"
poll = "1h"
[[remotes]]
url = %q
credentialsFile = "/etc/garrison/forge-token"
[[caches]]
url = %q
publicKey = %q
[hub]
url = %q
tokenFile = "/etc/garrison/hub-token"
`, forgeThen+"/"+w.repo.Full()+".git", hubThen+"/fleet", w.cacheKey, hubThen)
	w.joker = w.start(sandbox.HostOptions{Name: "joker", Files: []sandbox.File{
		{Path: "/etc/garrison/agent.toml", Data: []byte(config)},
		{Path: "/etc/garrison/allowed-signers", Data: w.file("allowed-signers")},
		{Path: "/etc/garrison/forge-token", Mode: 0o600, Data: []byte(w.forge.Token(w.t, w.repo.Owner, "read:repository"))},
		{Path: "/etc/garrison/hub-token", Mode: 0o600, Data: []byte(token("report:joker"))},
		{Path: "/etc/ssh/ssh_host_ed25519_key", Mode: 0o600, Data: w.file("joker")},
		{Path: "/etc/ssh/ssh_host_ed25519_key.pub", Data: w.file("joker.pub")},
	}}, 2, "agent")
}

// write writes a file of the clone.
func (w *town) write(path, text string) {
	w.t.Helper()
	file := filepath.Join(w.clone, path)
	must(w.t, errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)))
}

// commit commits everything and returns the commit.
func (w *town) commit(message string) string {
	w.t.Helper()
	w.git("add", "--all")
	w.git("commit", "--quiet", "--allow-empty", "--message", message)
	return w.git("rev-parse", "HEAD")
}

// change commits another text for the hosts and pushes it to the branch that the clone is on.
func (w *town) change(text string) (commit string) {
	w.t.Helper()
	w.write("gitops-test", text+"\n")
	commit = w.commit(text)
	w.git("push", "--quiet", "origin", "HEAD")
	return commit
}

// changeHeld is change, and returns when the run's check has begun. It goes on when the returned function is called.
func (w *town) changeHeld(text string) (commit string, release func()) {
	w.t.Helper()
	hold := filepath.Join(w.dir, strings.ReplaceAll(text, " ", "-"))
	w.write("hold", hold)
	commit = w.change(text)
	must(w.t, os.Remove(filepath.Join(w.clone, "hold")))
	w.await("the check begins", func() bool {
		_, err := os.Stat(hold + ".begun")
		return err == nil
	})
	return commit, func() { must(w.t, os.WriteFile(hold+".go", nil, 0o644)) }
}

func (w *town) git(args ...string) string {
	w.t.Helper()
	return w.do("git", args...)
}

// do runs a program in the clone.
func (w *town) do(name string, args ...string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "env", append(append(w.env(), name), args...)...)
	cmd.Dir = w.clone
	must(w.t, os.MkdirAll(w.clone, 0o755))
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// await calls f until it is true, or patience ends.
func (w *town) await(what string, f func() bool) {
	w.t.Helper()
	for end := time.Now().Add(90 * time.Second); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("this does not happen: %s", what)
		}
	}
}

// ends waits for the run of a commit and wants it to end so.
func (w *town) ends(event, commit, conclusion string) (log string) {
	w.t.Helper()
	run := w.repo.AwaitRun(w.t, event, commit)
	log = w.repo.Log(w.t, run)
	if run.Conclusion != conclusion {
		w.t.Fatalf("the run of %s for %.12s ends with %q, not %q:\n%s", event, commit, run.Conclusion, conclusion, log)
	}
	return log
}

// text is what joker's system is about.
func (w *town) text() string {
	got, _ := w.joker.ReadFile("/etc/gitops-test") // it may be in the middle of a switch
	return strings.TrimSpace(string(got))
}

// says waits until joker's system is one with that text.
func (w *town) says(text string) {
	w.t.Helper()
	w.await("joker says "+text, func() bool { return w.text() == text })
}

// rollout waits until the forge was told that the rollout of a commit is done, and wants that it was told of its beginning too.
func (w *town) rollout(commit string) {
	w.t.Helper()
	var told []string
	w.await("the rollout is a success", func() bool {
		var all []forgetest.Status
		w.repo.API(w.t, http.MethodGet, "/commits/"+commit+"/statuses?sort=oldest&limit=50", nil, &all)
		told = nil
		for _, s := range all {
			if s.Context == "garrison/rollout" {
				told = append(told, s.State)
			}
		}
		return slices.Contains(told, "success")
	})
	for _, state := range told[:len(told)-1] { // a host that is quicker than the forge may leave it no time to be told of more than the end
		if state != "pending" || told[len(told)-1] != "success" {
			w.t.Errorf("the rollout's statuses were %v", told)
		}
	}
}

// status wants a stage's status of a commit.
func (w *town) status(commit, stage, state, says string) {
	w.t.Helper()
	if s := w.repo.Statuses(w.t, commit)["garrison/"+stage]; s.State != state || !strings.Contains(s.Description, says) || !strings.Contains(s.URL, "/actions/runs/") {
		w.t.Errorf("the status %s of %.12s is %+v, not %s %q", stage, commit, s, state, says)
	}
}

// released are the refs that hold releases.
func (w *town) released() string {
	w.t.Helper()
	refs := w.repo.Refs(w.t)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		if strings.HasPrefix(name, "refs/heads/release") || strings.HasPrefix(name, "refs/tags/release") {
			fmt.Fprintln(&b, name, refs[name])
		}
	}
	return b.String()
}

// whole wants a commit to be what the newest release is of, the release branch to be at its tag, which is signed, and every
// release to be on top of the one before.
func (w *town) whole(commit string) {
	w.t.Helper()
	w.git("fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
	tags := strings.Fields(w.git("for-each-ref", "--sort=version:refname", "--format=%(refname:short)", "refs/tags/release-[0-9]*"))
	for i, tag := range tags {
		if want := fmt.Sprintf("release-%d", i+1); tag != want {
			w.t.Errorf("tag %s stands where %s should", tag, want)
		}
		w.git("-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile="+filepath.Join(w.dir, "allowed-signers"), "verify-tag", tag)
		if i > 0 {
			w.git("merge-base", "--is-ancestor", tags[i-1], tag)
		}
	}
	last := tags[len(tags)-1]
	if branch, tag := w.git("rev-parse", "origin/release"), w.git("rev-parse", last+"^{commit}"); branch != tag {
		w.t.Errorf("the release branch is at %s, %s at %s", branch, last, tag)
	}
	m, err := fleet.ParseTagMessage([]byte(w.git("for-each-ref", "--format=%(contents:subject)%0a%0a%(contents:body)", "refs/tags/"+last)))
	must(w.t, err)
	if m.Source.Commit != commit || m.Hosts["joker"].OutPath == "" {
		w.t.Errorf("%s is %+v, not of %s", last, m, commit)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
