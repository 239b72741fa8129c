package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// origin is a repository with releases that leave the host "joker" to be deployed by hand: an agent follows them, and touches
// nothing of the machine that it runs on.
type origin struct {
	t    testing.TB
	repo *git.Repo
	dir  string // of keys, signers, copies
	tree string
	tip  string
	step fleet.Step // of the roll-out, that joker is in by releases to come; then they have a system for it
}

func newOrigin(t testing.TB) *origin {
	t.Helper()
	o := &origin{t: t, dir: t.TempDir()}
	var err error
	if o.repo, err = git.Init(t.Context(), filepath.Join(o.dir, "origin/fleet.git")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"release", "stranger"} {
		o.do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", filepath.Join(o.dir, key))
	}
	o.sign("")
	blob, err := o.repo.WriteBlob(t.Context(), []byte("a fleet\n"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(o.dir, "tree")
	if err := os.WriteFile(file, []byte("100644 blob "+blob+"\tflake.nix\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.tree = strings.TrimSpace(o.do("sh", "-c", "git --git-dir "+o.repo.Dir+" mktree < "+file))
	return o
}

// sign writes the allowed signers: the release key, with options.
func (o *origin) sign(options string) {
	o.t.Helper()
	public, err := os.ReadFile(filepath.Join(o.dir, "release.pub"))
	if err == nil {
		err = os.WriteFile(filepath.Join(o.dir, "signers"), []byte("garrison "+options+" "+string(public)), 0o600)
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *origin) do(name string, args ...string) string {
	o.t.Helper()
	cmd := exec.Command(name, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		o.t.Fatalf("%s %v: %v: %s", name, args, err, &said)
	}
	return string(out)
}

// make writes release n on top of parent, with key's signature, and returns its commit.
func (o *origin) make(n int, parent, key string) string {
	o.t.Helper()
	when := time.Unix(1_780_000_000+int64(n), 0)
	c := git.Commit{Tree: o.tree, Message: fmt.Sprintf("release %d", n), When: when}
	if parent != "" {
		c.Parents = []string{parent}
	}
	commit, err := o.repo.WriteCommit(o.t.Context(), c)
	if err != nil {
		o.t.Fatal(err)
	}
	m := fleet.Manifest{Schema: fleet.ManifestSchema, Number: n, CreatedAt: when, Source: fleet.Source{Commit: commit, Branch: "main", Subject: fmt.Sprint("change ", n)}, Manual: []string{"joker"}}
	if o.step.Ring != "" {
		hash := fmt.Sprintf("%032d", n)
		m.Manual, m.Rings = nil, ringsOf(o.step)
		m.Hosts = map[string]fleet.Entry{"joker": {Toplevel: fleet.Toplevel{OutPath: "/nix/store/" + hash + "-system"}, DrvPath: "/nix/store/" + hash + "-system.drv", Ring: o.step.Ring, Batch: o.step.Batch}}
	}
	message, err := m.TagMessage()
	if err == nil {
		_, err = o.repo.SignTag(o.t.Context(), "refs/tags/"+fleet.TagName(n), fleet.TagName(n), commit, message, filepath.Join(o.dir, key), when)
	}
	if err != nil {
		o.t.Fatal(err)
	}
	return commit
}

func (o *origin) point(commit string) {
	o.t.Helper()
	if err := o.repo.UpdateRef(o.t.Context(), "refs/heads/release", commit); err != nil {
		o.t.Fatal(err)
	}
	o.tip = commit
}

// publish makes release n, and moves the branch to it.
func (o *origin) publish(n int) { o.t.Helper(); o.point(o.make(n, o.tip, "release")) }

// copy makes a mirror of what there is now.
func (o *origin) copy(name string) string {
	o.t.Helper()
	to := filepath.Join(o.dir, name, "fleet.git")
	o.do("git", "clone", "--quiet", "--mirror", o.repo.Dir, to)
	return to
}

// forge serves the repositories below a directory by HTTP, and counts.
type forge struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	sent     int
	password string // nobody is asked for one when empty
}

// newForge serves on loopback, or where a listener is given.
func newForge(t testing.TB, root string, at ...net.Listener) *forge {
	t.Helper()
	f := &forge{}
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}, Stderr: io.Discard, InheritEnv: []string{"GIT_CONFIG_GLOBAL"}}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, r.Method+" "+r.URL.RequestURI())
		password := f.password
		f.mu.Unlock()
		if _, given, _ := r.BasicAuth(); password != "" && given != password {
			w.Header().Set("WWW-Authenticate", "Basic realm=x")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(&counted{w, f}, r)
	}))
	for _, l := range at {
		f.Listener.Close()
		f.Listener = l
	}
	f.Start()
	t.Cleanup(f.Close)
	return f
}

type counted struct {
	http.ResponseWriter
	f *forge
}

func (c *counted) Write(p []byte) (int, error) {
	c.f.mu.Lock()
	c.f.sent += len(p)
	c.f.mu.Unlock()
	return c.ResponseWriter.Write(p)
}

// lock sets the password that is asked for.
func (f *forge) lock(password string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.password = password
}

// took returns the requests since it was last called, and the bytes of their answers.
func (f *forge) took() ([]string, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.requests, f.sent = nil, 0 }()
	return f.requests, f.sent
}

func (f *forge) url() string { return f.URL + "/fleet.git" }

// follower is an agent on this machine, of no host of it.
type follower struct {
	t   testing.TB
	dir string
	cmd *exec.Cmd
	log *os.File

	within string
}

// follow starts an agent; config names its remotes. With a script it is in a network namespace of its own, which that prepares.
func follow(t testing.TB, o *origin, config string, within ...string) *follower {
	t.Helper()
	f := &follower{t: t, dir: t.TempDir(), within: strings.Join(within, "")}
	text := fmt.Sprintf("host = \"joker\"\nallowedSigners = %q\nstateDir = %q\nsocket = %q\nprofile = %q\n%s\n", filepath.Join(o.dir, "signers"), filepath.Join(f.dir, "state"), f.socket(), filepath.Join(f.dir, "profile"), config)
	if err := os.WriteFile(filepath.Join(f.dir, "agent.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.log, err = os.Create(filepath.Join(f.dir, "log")); err != nil {
		t.Fatal(err)
	}
	f.start()
	t.Cleanup(func() {
		defer f.log.Close()
		f.stop()
		if t.Failed() {
			t.Logf("agent: %s", f.said())
		}
		if strings.Contains(f.said(), "DATA RACE") {
			t.Errorf("%s", f.said())
		}
	})
	return f
}

func (f *follower) socket() string { return filepath.Join(f.dir, "s") }
func (f *follower) state() string  { return filepath.Join(f.dir, "state") }

func (f *follower) start() {
	f.t.Helper()
	args := []string{self, "agent", "--config", filepath.Join(f.dir, "agent.toml")}
	if f.within != "" {
		args = append([]string{"unshare", "--net", "sh", "-c", f.within + `exec "$@"`, "sh"}, args...)
	}
	f.cmd = exec.Command(args[0], args[1:]...)
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	f.cmd.Stdout, f.cmd.Stderr = f.log, f.log
	f.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "GIT_CONFIG_GLOBAL=/dev/null", "NIX_CONFIG=substituters =")
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
}

// said is what the agent has logged.
func (f *follower) said() string {
	text, err := os.ReadFile(f.log.Name())
	if err != nil {
		f.t.Error(err)
	}
	return string(text)
}

func (f *follower) stop() {
	if f.cmd == nil {
		return
	}
	_ = syscall.Kill(-f.cmd.Process.Pid, syscall.SIGTERM)
	_ = f.cmd.Wait() // it was stopped
	f.cmd = nil
}

func (f *follower) client() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", f.socket())
	}}}
}

func (f *follower) look() {
	if resp, err := f.client().Post("http://agent/v1/look", "", nil); err == nil {
		resp.Body.Close()
	}
}

// await waits until the status is as wanted, and has the agent look meanwhile if asked.
func (f *follower) await(what string, ok func(fleet.Status) bool) fleet.Status {
	f.t.Helper()
	var s fleet.Status
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		resp, err := f.client().Get("http://agent/v1/status")
		if err != nil {
			continue
		}
		s = fleet.Status{}
		err = json.NewDecoder(resp.Body).Decode(&s)
		resp.Body.Close()
		if err == nil && ok(s) {
			return s
		}
	}
	text, _ := json.MarshalIndent(s, "", "  ")
	f.t.Fatalf("not within a minute: %s\n%s", what, text)
	return s
}

// follows waits until the agent has accepted a release.
func (f *follower) follows(n int) fleet.Status {
	f.t.Helper()
	return f.await(fleet.TagName(n)+" is accepted", func(s fleet.Status) bool { return s.Newest != nil && s.Newest.Number == n })
}

func (f *follower) accept(commit string) (string, error) {
	out, err := exec.Command(self, "agent", "accept", "--socket", f.socket(), commit).CombinedOutput()
	return string(out), err
}
