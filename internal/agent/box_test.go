package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// box is a host under test, with an origin of its own.
type box struct {
	t      testing.TB
	lab    *lab
	host   *sandbox.Host
	origin *git.Repo
	tip    string // of the release branch, as publish left it
	number int
	tree   string     // of its releases
	unit   string     // of its agent
	step   fleet.Step // of the roll-out, that it is in by releases to come

	pollOnly bool
}

// boxOptions change what a box is.
type boxOptions struct {
	config    string // added to agent.toml
	cacheURL  string // "" for the forge's
	cacheKey  string
	systemd   bool      // it has one, and runs the agent by the unit of the NixOS module
	host      string    // its name in the fleet, joker unless given
	origin    *git.Repo // nil for one of its own
	remotes   bool      // config has all of them; else the origin, as a file, is one
	pollOnly  bool      // tests do not tell the agent to look
	pushToken bool      // it may push to its cache
	files     []sandbox.File
	tmpfs     bool   // its state directory is a small file system in memory
	noAgent   bool   // none is started: the test brings one
	nix       string // a folder with the programs of the Nix to use; "" for the machine's
	binds     []sandbox.Bind
}

const stateDir = "/var/lib/garrison"

// testContext ends with the test, or after a minute and a half.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// newBox starts a host whose agent follows an empty origin, once a second.
func newBox(t testing.TB, o boxOptions) *box {
	t.Helper()
	l := needLab(t)
	ctx := testContext(t)
	b := &box{t: t, lab: l, pollOnly: o.pollOnly, tree: l.tree, unit: "agent"}
	dir, err := os.MkdirTemp(l.dir, strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Fatal(err)
	}
	if b.origin = o.origin; b.origin == nil {
		b.origin = l.origin(t, dir)
	}
	if o.host == "" {
		o.host = "joker"
	}
	if o.cacheURL == "" {
		o.cacheURL = cacheURL
	}
	if o.cacheKey == "" {
		o.cacheKey = l.cacheKey
	}
	remote := "remote = \"file:///srv/fleet.git\"\n"
	if o.remotes {
		remote = ""
	}
	config := fmt.Sprintf("host = %q\n"+remote+"allowedSigners = \"/etc/garrison/allowed-signers\"\npoll = \"1s\"\ncheckTime = \"20s\"\n%s\n[[caches]]\nurl = %q\npublicKey = %q\n", o.host, o.config, o.cacheURL, o.cacheKey)
	if o.pushToken {
		config += "pushTokenFile = \"/etc/garrison/push-token\"\n"
	}
	if i := strings.Index("\n"+o.config, "\n["); i >= 0 { // a table comes last
		config = strings.Replace(config, o.config, o.config[:i], 1) + o.config[i:]
	}
	addr := l.address()
	path := "/opt/gate:" + l.lan.Path()
	if o.nix != "" {
		path = "/opt/gate:" + o.nix + ":" + l.lan.Path()
		o.binds = append(o.binds, sandbox.Bind{Source: filepath.Dir(o.nix), Target: filepath.Dir(o.nix)})
	}
	opts := sandbox.HostOptions{Name: fmt.Sprintf("box%d", addr.As4()[3]), Hostname: "joker", Addr: addr, Dir: filepath.Join(dir, "disk"),
		Files: []sandbox.File{
			{Path: "/etc/garrison/agent.toml", Data: []byte(config)},
			{Path: "/etc/garrison/hub-token", Mode: 0o600, Data: []byte("host-token")},
			{Path: "/etc/garrison/push-token", Mode: 0o600, Data: []byte("push-token")},
			{Path: "/etc/garrison/allowed-signers", Data: append([]byte("garrison "), l.keyData("release.pub")...)},
			{Path: "/etc/ssh/ssh_host_ed25519_key", Mode: 0o600, Data: l.keyData("host")},
			{Path: "/opt/gate/nix-env", Mode: 0o755, Data: []byte(nixEnvGate)},
		},
		Binds: append(o.binds, sandbox.Bind{Source: b.origin.Dir, Target: "/srv/fleet.git", Writable: true}),
	}
	opts.Files = append(opts.Files, o.files...)
	env := []string{"PATH=" + path, "GORACE=atexit_sleep_ms=0"}
	start := []string{"garrison", "agent"}
	if o.tmpfs {
		start = []string{"sh", "-c", "busybox mountpoint -q " + stateDir + " || { mkdir -p " + stateDir + "; mount -t tmpfs -o size=2m none " + stateDir + "; }; exec garrison agent"}
	}
	switch {
	case o.systemd:
		b.unit = "garrison-agent"
		if opts.Base, err = sandbox.HostBase(ctx, "../../scripts/host-base"); err != nil {
			t.Fatal(err)
		}
		if !o.noAgent {
			opts.Files = append(opts.Files, l.agentUnit(t, env)...)
		}
	case !o.noAgent:
		opts.Services = []sandbox.Service{{Name: b.unit, Args: start, Env: env, Restart: true}}
	}
	if b.host, err = l.lan.Start(ctx, opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, file := range []string{"/var/log/agent.log", stateDir + "/activation/log"} {
			if log, err := b.host.ReadFile(file); err == nil && strings.Contains(string(log), "DATA RACE") {
				t.Errorf("%s: %s", file, log)
			}
		}
		if t.Failed() {
			for _, file := range []string{"/var/log/agent.log", stateDir + "/state.json", stateDir + "/activation/journal.jsonl", stateDir + "/activation/log", stateDir + "/activation/outcome.json"} {
				data, err := b.host.ReadFile(file)
				t.Logf("%s: %v\n%s", file, err, data)
			}
		}
		if err := b.host.Kill(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// origin is a repository with the objects of the lab's release.
func (l *lab) origin(t testing.TB, dir string) *git.Repo {
	t.Helper()
	repo, err := git.Init(t.Context(), filepath.Join(dir, "fleet.git"))
	if err == nil {
		err = command(repo.Dir, "git", "fetch", "--quiet", l.template.Dir, "main", "release")
	}
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// signed is a release that can be changed before it is made.
type signed struct {
	message func(*fleet.Manifest) []byte
	key     string // "release" unless given
	name    string // in the tag object; release-N unless given
	ref     string // as which it is known; release-N unless given
	parents []string
}

// make writes the release's commit and tag, moves nothing but the tag's ref, and returns the commit.
func (b *box) make(number int, variant string, s signed) string {
	b.t.Helper()
	ctx := testContext(b.t)
	when := time.Unix(1_780_000_000+int64(number), 0)
	commit, err := b.origin.WriteCommit(ctx, git.Commit{Tree: b.tree, Parents: s.parents, Message: fmt.Sprintf("release %d of %s", number, variant), When: when})
	if err != nil {
		b.t.Fatal(err)
	}
	m := *b.lab.manifest
	m.Number, m.CreatedAt, m.Hosts = number, when, map[string]fleet.Entry{}
	if variant != "" {
		m.Hosts["joker"] = b.lab.manifest.Hosts[variant]
	}
	if b.step.Ring != "" {
		entry := m.Hosts["joker"]
		entry.Ring, entry.Batch = b.step.Ring, b.step.Batch
		m.Hosts["joker"], m.Rings = entry, ringsOf(b.step)
	}
	message, err := m.TagMessage()
	if err != nil {
		b.t.Fatal(err)
	}
	if s.message != nil {
		message = s.message(&m)
	}
	name := fleet.TagName(number)
	if s.name == "" {
		s.name = name
	}
	if s.ref == "" {
		s.ref = name
	}
	if s.key == "" {
		s.key = "release"
	}
	if _, err := b.origin.SignTag(ctx, "refs/tags/"+s.ref, s.name, commit, message, b.lab.key(s.key), when); err != nil {
		b.t.Fatal(err)
	}
	return commit
}

// publish makes the next release, which gives this host a variant, and moves the branch to it.
func (b *box) publish(variant string) int {
	b.t.Helper()
	b.number++
	var parents []string
	if b.tip != "" {
		parents = []string{b.tip}
	}
	b.tip = b.make(b.number, variant, signed{parents: parents})
	b.point(b.tip)
	return b.number
}

// point moves the release branch ("" deletes it) and has the agent look.
func (b *box) point(commit string) {
	b.t.Helper()
	b.move("release", commit)
}

// move is point for any branch.
func (b *box) move(branch, commit string) {
	b.t.Helper()
	if err := b.origin.UpdateRef(testContext(b.t), "refs/heads/"+branch, commit); err != nil {
		b.t.Fatal(err)
	}
	if b.pollOnly {
		return
	}
	if resp, err := b.client().Post("http://agent/v1/look", "", nil); err == nil { // else it does by itself, a second later
		resp.Body.Close()
	}
}

// status asks the agent on its socket.
func (b *box) status() (fleet.Status, error) {
	var s fleet.Status
	c := b.client()
	resp, err := c.Get("http://agent/v1/status")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

func (b *box) client() *http.Client {
	socket := b.host.Path("/run/garrison/agent.sock")
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
}

// await waits until the agent says what f wants.
func (b *box) await(what string, f func(fleet.Status) bool) fleet.Status {
	b.t.Helper()
	return b.awaitFor(time.Minute, what, f)
}

func (b *box) awaitFor(most time.Duration, what string, f func(fleet.Status) bool) fleet.Status {
	b.t.Helper()
	var s fleet.Status
	var err error
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if s, err = b.status(); err == nil && f(s) {
			return s
		}
	}
	text, _ := json.MarshalIndent(s, "", "  ")
	b.t.Fatalf("not within %s: %s (%v)\n%s", most, what, err, text)
	return s
}

// ended waits for the end of a release's deployment.
func (b *box) ended(number int) fleet.Status {
	b.t.Helper()
	return b.await(fmt.Sprintf("the deployment of release-%d ended", number), func(s fleet.Status) bool {
		return s.Last != nil && s.Last.Release.Number == number && s.Phase != fleet.PhaseActivating && s.Phase != fleet.PhaseStaging
	})
}

// deploy publishes a variant that is to be committed.
func (b *box) deploy(variant string) {
	b.t.Helper()
	n := b.publish(variant)
	if s := b.ended(n); s.Last.Result != fleet.Committed || s.Phase != fleet.PhaseIdle {
		b.t.Fatalf("release-%d of %s: %s, phase %s, %+v", n, variant, s.Last.Result, s.Phase, s.Last.Failure)
	}
	b.runs(variant)
}

// runs checks what runs and what would boot, by looking.
func (b *box) runs(variant string) {
	b.t.Helper()
	b.systems(variant, variant)
}

func (b *box) systems(current, boot string) {
	b.t.Helper()
	want := func(variant string) string {
		if variant == "" {
			return ""
		}
		return b.lab.out(variant)
	}
	now, err := b.host.Readlink("/run/current-system")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	profile, entry := b.nextBoot()
	if now != want(current) || profile != want(boot) || entry != want(boot) {
		b.t.Errorf("current %q, profile %q, boot entry %q; want %q and %q", now, profile, entry, want(current), want(boot))
	}
}

// nextBoot is what profile and boot entry say, "" where there is none.
func (b *box) nextBoot() (profile, entry string) {
	b.t.Helper()
	profile, _ = b.run("readlink -f /nix/var/nix/profiles/system")
	if !strings.HasPrefix(profile, "/nix/store/") {
		profile = ""
	}
	text, err := b.host.ReadFile("/boot/garrison-entry")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	return profile, strings.TrimSpace(string(text))
}

// run runs a shell script on the host and returns what it printed, trimmed.
func (b *box) run(script string) (string, error) {
	out, err := b.host.Run(testContext(b.t), "sh", "-uc", script)
	return strings.TrimSpace(out), err
}

func (b *box) must(script string) string {
	b.t.Helper()
	out, err := b.run(script)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// says checks what a person is told: garrison status prints all of want and exits with code.
func (b *box) says(code int, want ...string) {
	b.t.Helper()
	out, err := b.host.Command(testContext(b.t), "garrison", "status").Output()
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	}
	if got != code {
		b.t.Errorf("garrison status exits with %d, not %d", got, code)
	}
	for _, w := range want {
		if !strings.Contains(string(out), w) {
			b.t.Errorf("garrison status does not say %q:\n%s", w, out)
		}
	}
}

// shut closes a gate, at which switch-to-configuration or nix-env then stops, and open opens it.
func (b *box) shut(gate string) {
	b.t.Helper()
	dir := b.host.Path("/run/gate")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, gate), nil, 0o644)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) open(gate string) {
	for _, file := range []string{gate + ".reached", gate} {
		_ = os.Remove(b.host.Path("/run/gate/" + file)) // gone after a power cut
	}
}

func (b *box) reached(gate string) {
	b.t.Helper()
	b.eventually(gate+" is reached", func() bool {
		_, err := os.Stat(b.host.Path("/run/gate/" + gate + ".reached"))
		return err == nil
	})
}

func (b *box) eventually(what string, f func() bool) {
	b.t.Helper()
	b.eventuallyFor(20*time.Second, what, f)
}

func (b *box) eventuallyFor(most time.Duration, what string, f func() bool) {
	b.t.Helper()
	for end := time.Now().Add(most); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("not within %s: %s", most, what)
		}
	}
}

// killHelper kills the activation helper, and only it.
func (b *box) killHelper() {
	b.t.Helper()
	b.must(`for p in /proc/[0-9]*; do
		case $(busybox tr '\0' ' ' < $p/cmdline 2>/dev/null) in */garrison*" activate"" --dir"*) kill -9 ${p#/proc/};; esac
	done`)
}

func (b *box) killAgent() {
	b.t.Helper()
	pid, err := b.host.ServicePID(testContext(b.t), b.unit)
	if err != nil || pid == 0 {
		b.t.Fatalf("the agent's pid: %d, %v", pid, err)
	}
	b.must("kill -9 " + strconv.Itoa(pid))
}

// history is what garrison history knows of a release.
func (b *box) history(number int) []fleet.Deployment {
	b.t.Helper()
	var all, of []fleet.Deployment
	if err := json.Unmarshal([]byte(b.must("garrison history -o json")), &all); err != nil {
		b.t.Fatal(err)
	}
	for _, d := range all {
		if d.Release.Number == number && d.Result != "" { // else it is an operator's act
			of = append(of, d)
		}
	}
	return of
}
