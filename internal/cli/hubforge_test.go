package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge/forgetest"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// hubTown is a fleet's repository at a Gitea, and hubs that hear of it. They look at git every hour: what happens earlier, happens because of a webhook.
type hubTown struct {
	t      testing.TB
	dir    string
	forge  *forgetest.Gitea
	repo   *forgetest.Repo
	clone  string
	mirror string
	env    []string
}

const webhookSecret = "a secret of the tests' webhooks"

func newHubTown(t testing.TB) *hubTown {
	t.Helper()
	w := &hubTown{t: t, dir: t.TempDir(), forge: forgetest.Start(t)}
	busybox, err := exec.LookPath("busybox")
	if err == nil {
		busybox, err = filepath.EvalSymlinks(busybox)
	}
	w.must(err)
	w.env = append(os.Environ(), "HOME="+w.dir, "XDG_CACHE_HOME="+filepath.Join(w.dir, "cache"), "NIX_REMOTE=local?root="+filepath.Join(w.dir, "store"),
		"NIX_CONFIG="+sandbox.NixConf(busybox, nil, nil), "NIX_CONF_DIR="+w.dir, "GIT_CONFIG_NOSYSTEM=1", "GORACE=atexit_sleep_ms=0",
		"GIT_AUTHOR_NAME=Editor", "GIT_AUTHOR_EMAIL=editor@example.org", "GIT_COMMITTER_NAME=Editor", "GIT_COMMITTER_EMAIL=editor@example.org")
	t.Cleanup(func() { _ = exec.Command("chmod", "-R", "u+w", w.dir).Run() }) // a store is not writable
	user := w.forge.User(t, "editor")
	w.repo = w.forge.Repo(t, user, "fleet")
	w.clone = filepath.Join(w.dir, "fleet")
	w.must(os.Mkdir(w.clone, 0o755))
	w.do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(w.dir, "key"))
	w.write("forge-token", w.forge.Token(t, user, "write:repository"))
	w.write("webhook-secret", webhookSecret)
	w.do("git", "init", "--quiet", "--initial-branch=main")
	w.do("git", "remote", "add", "origin", w.repo.Push)
	w.write("fleet/flake.nix", strings.ReplaceAll(minimalFlake, "SYSTEM", strconv.Quote(nixSystem())))
	w.write("fleet/text", "zero")
	w.mirror = filepath.Join(w.dir, "mirror.git")
	w.write("fleet/garrison.toml", fmt.Sprintf("mirrors = [%q]\n", w.mirror))
	w.do("git", "add", "--all")
	return w
}

func (w *hubTown) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *hubTown) write(name, text string) {
	w.t.Helper()
	w.must(os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600))
}

// do runs a program in the clone and returns what it printed.
func (w *hubTown) do(program string, args ...string) string {
	w.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Env = w.clone, w.env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// push commits a change and pushes it to a branch.
func (w *hubTown) push(branch, text string) (commit string) {
	w.t.Helper()
	w.write("fleet/text", text)
	w.do("git", "commit", "--quiet", "--all", "--message", text)
	w.do("git", "push", "--quiet", "origin", "HEAD:refs/heads/"+branch)
	return w.do("git", "rev-parse", "HEAD")
}

// hubAtForge is a hub that hears of the repository by a webhook.
type hubAtForge struct {
	w   *hubTown
	cmd *exec.Cmd
	dir string
	url string
	log string
}

// hub starts a hub in a folder of its own, with more in hub.toml. A second time it is the same hub, at the same address.
func (w *hubTown) hub(name, more string) *hubAtForge {
	w.t.Helper()
	h := &hubAtForge{w: w, dir: filepath.Join(w.dir, name), log: filepath.Join(w.dir, name, "log")}
	listen := "127.0.0.1:0"
	if old, err := os.ReadFile(h.log); err == nil {
		listen = servesAt(old)
	}
	w.must(os.MkdirAll(h.dir, 0o755))
	tokens := ""
	for _, scope := range []string{"read", "wake", "push", "rollout", "report:joker", "report:ursula"} {
		sum := sha256.Sum256([]byte(scope))
		tokens += fmt.Sprintf("[[token]]\nname = %q\nsha256 = %q\nscopes = [%q]\n", scope, hex.EncodeToString(sum[:]), scope)
	}
	w.write(name+"/tokens.toml", tokens)
	w.write(name+"/hub.toml", fmt.Sprintf(`listen = %q
dataDir = %q
tokens = %q
[forge]
kind = "gitea"
url = %q
repo = %q
tokenFile = %q
webhookSecretFile = %q
%s`, listen, filepath.Join(h.dir, "data"), filepath.Join(h.dir, "tokens.toml"), w.forge.URL, w.repo.Full(), filepath.Join(w.dir, "forge-token"), filepath.Join(w.dir, "webhook-secret"), more))
	log, err := os.Create(h.log)
	w.must(err)
	defer log.Close()
	h.cmd = exec.Command("garrison", "hub", "--config", filepath.Join(h.dir, "hub.toml"))
	h.cmd.Stdout, h.cmd.Stderr, h.cmd.Env = log, log, w.env
	w.must(h.cmd.Start())
	w.t.Cleanup(h.stop)
	w.until("the hub serves", func() bool {
		text, err := os.ReadFile(h.log)
		w.must(err)
		h.url = "http://" + servesAt(text)
		return h.url != "http://"
	})
	return h
}

func servesAt(log []byte) string {
	if m := regexp.MustCompile(`hub serves" address=(\S+)`).FindSubmatch(log); m != nil {
		return string(m[1])
	}
	return ""
}

func (h *hubAtForge) stop() {
	if h.cmd == nil {
		return
	}
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	err := h.cmd.Wait()
	h.cmd = nil
	if text, _ := os.ReadFile(h.log); h.w.t.Failed() || err != nil || bytes.Contains(text, []byte("DATA RACE")) {
		h.w.t.Errorf("the hub ended with %v: %s", err, text)
	}
}

func (w *hubTown) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// statuses waits until the commit has these, "context state text"; of a text its beginning.
func (w *hubTown) statuses(commit string, want ...string) {
	w.t.Helper()
	var got []string
	defer func() {
		if w.t.Failed() {
			w.t.Logf("the statuses are\n%s", strings.Join(got, "\n"))
		}
	}()
	w.until(strings.Join(want, ", "), func() bool {
		got = nil
		for _, s := range w.repo.Statuses(w.t, commit) {
			got = append(got, fmt.Sprintf("%s %s %s", s.Context, s.State, s.Description))
		}
		slices.Sort(got)
		return !slices.ContainsFunc(want, func(s string) bool {
			return !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, s) })
		})
	})
}

// ask makes a request with the token that is named as its scope.
func (h *hubAtForge) ask(method, path, token, body string) []byte {
	h.w.t.Helper()
	status, text := h.tries(method, path, token, body)
	if status >= 300 {
		h.w.t.Fatalf("%s %s: %d: %s", method, path, status, text)
	}
	return []byte(text)
}

// tries is ask, whatever is answered.
func (h *hubAtForge) tries(method, path, token, body string) (status int, answer string) {
	h.w.t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(h.w.t.Context()), method, h.url+path, strings.NewReader(body))
	h.w.must(err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	h.w.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	h.w.must(err)
	return resp.StatusCode, string(text)
}

// says has a host report what it is about with a release.
func (h *hubAtForge) says(host string, m *fleet.Manifest, phase fleet.Phase) {
	h.w.t.Helper()
	e, now := m.Hosts[host], time.Now().UTC()
	s := fleet.Status{Schema: 1, Host: host, At: now, NextPoll: now.Add(time.Hour), Phase: phase, Newest: &fleet.ReleaseRef{Number: m.Number}, Ring: e.Ring, Batch: e.Batch, Active: &fleet.Target{Toplevel: e.Toplevel}}
	if phase == fleet.PhaseIdle {
		s.Active.Release, s.Active.At = *s.Newest, m.CreatedAt
	}
	body, err := json.Marshal(s)
	h.w.must(err)
	h.ask(http.MethodPost, "/api/v1/reports", "report:"+host, string(body))
}

// wakes are the moments at which an agent of this hub is woken.
func (h *hubAtForge) wakes() <-chan time.Time {
	h.w.t.Helper()
	req, err := http.NewRequestWithContext(h.w.t.Context(), http.MethodGet, h.url+"/api/v1/stream?kinds=wake", nil)
	h.w.must(err)
	req.Header.Set("Authorization", "Bearer report:joker")
	resp, err := http.DefaultClient.Do(req)
	h.w.must(err)
	lines := bufio.NewScanner(resp.Body)
	lines.Scan() // it has joined
	wakes := make(chan time.Time, 1000)
	go func() {
		defer close(wakes)
		defer resp.Body.Close()
		for lines.Scan() {
			if strings.Contains(lines.Text(), `"wake"`) {
				wakes <- time.Now()
			}
		}
	}()
	return wakes
}

// manifest is that of a release at the forge.
func (w *hubTown) manifest(name string) *fleet.Manifest {
	w.t.Helper()
	w.do("git", "fetch", "--quiet", "--tags", "origin")
	repo, err := git.Open(w.t.Context(), w.clone)
	w.must(err)
	tag, err := repo.ReadTag(w.t.Context(), w.do("git", "rev-parse", "refs/tags/"+name))
	w.must(err)
	m, err := fleet.ParseTagMessage(tag.Message)
	w.must(err)
	return m
}

// TestHubAtForge: a push wakes the built-in CI by a webhook; a hub beside it, without CI, hears of the release and wakes its agents; the
// forge is told how far either is, also over a restart; a test branch comes and goes.
func TestHubAtForge(t *testing.T) {
	w := newHubTown(t)
	ci := fmt.Sprintf("[ci]\nremote = %q\nsigningKey = %q\npoll = \"1h\"\n[follow]\npoll = \"1h\"\n", w.repo.URL+".git", filepath.Join(w.dir, "key"))
	first := w.hub("ci", ci)
	w.repo.Hook(t, first.url+"/api/v1/webhook", webhookSecret)
	commit := w.push("main", "one")
	w.statuses(commit, "garrison/build success", "garrison/evaluate success", "garrison/publish success", "garrison/push success", "garrison/re-key success",
		"garrison/rollout pending release-1: 0 of 2 hosts")

	// The other one only follows. Its own announcements are the same, so that whichever is heard last is right.
	second := w.hub("follower", fmt.Sprintf("[follow]\nremote = %q\npoll = \"1h\"\n", w.repo.URL+".git"))
	w.repo.Hook(t, second.url+"/api/v1/webhook", webhookSecret, "push")
	w.until("it has seen release-1", func() bool {
		text, err := os.ReadFile(second.log)
		w.must(err)
		return bytes.Contains(text, []byte("msg=released release=1"))
	})
	m := w.manifest("release-1")
	first.says("joker", m, fleet.PhaseIdle)
	w.statuses(commit, "garrison/rollout pending release-1: 1 of 2 hosts")
	first.stop()
	w.do("git", "init", "--quiet", "--bare", w.mirror) // which was not there, and gets what it lacks without another release
	first = w.hub("ci", ci)
	w.until("the mirror has release-1", func() bool {
		refs, err := exec.Command("git", "--git-dir", w.mirror, "for-each-ref", "--format=%(refname)").Output()
		w.must(err)
		return string(refs) == "refs/heads/release\nrefs/tags/release-1\n"
	})
	first.says("ursula", m, fleet.PhaseHeld)
	w.statuses(commit, "garrison/rollout failure release-1: 1 of 2 hosts; failed: ursula")
	second.stop() // it never heard of a host, and would say so of the next release
	second = w.hub("follower", fmt.Sprintf("[follow]\nremote = %q\npoll = \"1h\"\n", w.repo.URL+".git"))
	woken := second.wakes()
	next := w.push("main", "two")
	select {
	case <-woken:
	case <-time.After(time.Minute):
		t.Error("the agents of a hub without CI were not woken")
	}
	w.statuses(next, "garrison/publish success", "garrison/rollout pending release-2: 0 of 2 hosts")
	m = w.manifest("release-2")
	second.stop()
	first.says("joker", m, fleet.PhaseIdle)
	first.says("ursula", m, fleet.PhaseIdle)
	w.statuses(next, "garrison/rollout success release-2: all 2 hosts")

	// What does not build is shown, and changes nothing.
	before := w.repo.Refs(t)
	w.write("fleet/flake.nix", "{ outputs = _: throw \"it was so late\"; }")
	broken := w.push("main", "three")
	w.statuses(broken, "garrison/evaluate failure")
	for name, id := range w.repo.Refs(t) {
		if name != "refs/heads/main" && before[name] != id {
			t.Errorf("%s moved", name)
		}
	}
	if text := string(first.ask(http.MethodGet, "/api/v1/runs/"+strconv.FormatInt(first.newestRun().ID, 10)+"/log", "read", "")); !strings.Contains(text, "it was so late") {
		t.Errorf("the run's log: %s", text)
	}

	w.do("git", "checkout", "--quiet", next)
	tried := w.push("joker-test", "try this")
	w.statuses(tried, "garrison/publish success")
	w.until("its release is there", func() bool { return w.repo.Refs(t)["refs/heads/release-joker-test"] != "" })
	w.do("git", "push", "--quiet", "origin", ":joker-test")
	w.until("its release is gone", func() bool { return w.repo.Refs(t)["refs/heads/release-joker-test"] == "" })
}

func (h *hubAtForge) newestRun() fleet.Run {
	h.w.t.Helper()
	var runs []fleet.Run
	h.w.must(json.Unmarshal(h.ask(http.MethodGet, "/api/v1/runs?n=1", "read", ""), &runs))
	return runs[0]
}

// BenchmarkForgeWake publishes releases at a Gitea, as another CI would, and takes the time from when that is done until an agent is woken by a hub
// that a webhook tells of it.
func BenchmarkForgeWake(b *testing.B) {
	w := newHubTown(b)
	w.push("main", "one")
	h := w.hub("follower", fmt.Sprintf("[follow]\nremote = %q\npoll = \"1h\"\nallowedSigners = %q\n", w.repo.URL+".git", filepath.Join(w.dir, "signers")))
	w.write("signers", "garrison "+string(readFile(b, filepath.Join(w.dir, "key.pub"))))
	w.repo.Hook(b, h.url+"/api/v1/webhook", webhookSecret, "push")
	repo, err := git.Open(b.Context(), w.clone)
	w.must(err)
	woken := h.wakes()
	tree, parent := w.do("git", "rev-parse", "HEAD^{tree}"), w.do("git", "rev-parse", "HEAD")
	time.Sleep(time.Second)
	for len(woken) > 0 {
		<-woken
	}
	var begun, done []time.Duration
	number := 0
	for b.Loop() {
		number++
		commit, err := repo.WriteCommit(b.Context(), git.Commit{Tree: tree, Parents: []string{parent}, Message: "release", When: time.Now()})
		w.must(err)
		m := fleet.Manifest{Schema: 1, Number: number, CreatedAt: time.Now(), Source: fleet.Source{Commit: parent, Branch: "main"}, Manual: []string{"joker"}}
		message, err := m.TagMessage()
		w.must(err)
		_, err = repo.SignTag(b.Context(), "refs/tags/"+m.Name(), m.Name(), commit, message, filepath.Join(w.dir, "key"), m.CreatedAt)
		w.must(err)
		parent = commit
		begin := time.Now()
		w.do("git", "push", "--quiet", "--atomic", "origin", commit+":refs/heads/release", m.Name())
		pushed := time.Now()
		at := <-woken
		begun, done = append(begun, at.Sub(begin)), append(done, at.Sub(pushed))
		time.Sleep(200 * time.Millisecond)
		if len(woken) > 0 {
			b.Errorf("one release woke agents %d times", 1+len(woken))
		}
	}
	for name, list := range map[string][]time.Duration{"push-begun": begun, "released": done} {
		slices.Sort(list)
		b.ReportMetric(list[len(list)/2].Seconds()*1e3, "ms/"+name+"-p50")
		b.ReportMetric(list[(len(list)*95+99)/100-1].Seconds()*1e3, "ms/"+name+"-p95")
	}
	b.ReportMetric(0, "ns/op")
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
