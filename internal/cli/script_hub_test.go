package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// hubProcess is a script's hub, and what went through frail's proxy to it.
type hubProcess struct {
	mu      sync.Mutex
	cmd     *exec.Cmd
	url     string
	killed  map[*exec.Cmd]bool
	proxy   *httptest.Server
	left    int            // uploads until it is killed
	uploads map[string]int // how often each was answered with 200
}

type hubKey struct{}

func theHub(ts *testscript.TestScript) *hubProcess { return ts.Value(hubKey{}).(*hubProcess) }

// hubCmd starts a hub without CI on a free port, and sets HUB to its URL and ADDRESS to host and port. Its tokens are the files
// push-token, read-token, cache-token, wake-token, ci-token and operate-token in $WORK, and those of fleet's hosts, joker-token and ursula-token; what it says is in
// hub.log. Arguments are lines for its configuration. A second one has the data of the first, which frail has killed.
func hubCmd(ts *testscript.TestScript, _ bool, args []string) {
	work := ts.Getenv("WORK")
	var tokens strings.Builder
	for _, scope := range []string{"push", "read", "cache", "wake", "ci", "operate", "report:joker", "report:ursula"} {
		name := strings.TrimPrefix(scope, "report:")
		scopes := []string{scope}
		if scope == "wake" { // as a CI job has them
			scopes = append(scopes, "ci")
		}
		sum := sha256.Sum256([]byte("secret of " + name))
		fmt.Fprintf(&tokens, "[[token]]\nname = %q\nsha256 = %q\nscopes = [\"%s\"]\n", name, hex.EncodeToString(sum[:]), strings.Join(scopes, `", "`))
		ts.Check(os.WriteFile(filepath.Join(work, name+"-token"), []byte("secret of "+name+"\n"), 0o600))
	}
	ts.Check(os.WriteFile(filepath.Join(work, "tokens.toml"), []byte(tokens.String()), 0o600))
	config := fmt.Sprintf("listen = \"127.0.0.1:0\"\ndataDir = %q\ntokens = %q\n", work+"/.hub", work+"/tokens.toml") + strings.Join(args, "\n") + "\n"
	ts.Check(os.WriteFile(filepath.Join(work, "hub.toml"), []byte(config), 0o644))
	cmd, url := startDaemon(ts, "hub.log", "hub serves", "hub", "--config", work+"/hub.toml")
	h := theHub(ts)
	ts.Setenv("HUB", url)
	ts.Setenv("ADDRESS", strings.TrimPrefix(url, "http://"))
	resp, err := http.Get(url + "/healthz")
	ts.Check(err)
	ts.Check(resp.Body.Close())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cmd, h.url = cmd, url
}

// startDaemon starts a garrison of its own, which is told to stop at the script's end. What it says is in log. url is where it serves.
func startDaemon(ts *testscript.TestScript, log, serves string, args ...string) (cmd *exec.Cmd, url string) {
	out, err := os.Create(ts.MkAbs(log))
	ts.Check(err)
	defer out.Close()
	cmd = exec.Command(ts.Getenv("GARRISON"), args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir, cmd.Env = ts.Getenv("WORK"), os.Environ()
	for _, name := range []string{"HOME", "PATH", "XDG_CACHE_HOME", "NIX_REMOTE", "NIX_CONFIG", "NIX_CONF_DIR", "GIT_CONFIG_NOSYSTEM", "GORACE"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	ts.Check(cmd.Start())
	h := theHub(ts)
	ts.Defer(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); !h.killed[cmd] {
			ts.Check(err) // one that is told to stop exits with 0
		}
	})
	wants(ts, false, []string{log, serves})
	return cmd, "http://" + regexp.MustCompile(regexp.QuoteMeta(serves) + `" address=(\S+)`).FindStringSubmatch(ts.ReadFile(log))[1]
}

// cachesCmd CONFIG starts a garrison cache serve, and sets CACHES to its URL and, where it serves metrics, METRICS to theirs.
func cachesCmd(ts *testscript.TestScript, _ bool, args []string) {
	_, url := startDaemon(ts, "cache.log", "cache serves", "cache", "serve", "--config", args[0])
	ts.Setenv("CACHES", url)
	if m := regexp.MustCompile(`metrics" address=(\S+)`).FindStringSubmatch(ts.ReadFile("cache.log")); m != nil {
		ts.Setenv("METRICS", "http://"+m[1]+"/metrics")
	}
}

// get URL prints what is answered to a GET, the status first.
func get(ts *testscript.TestScript, _ bool, args []string) {
	resp, err := http.Get(args[0])
	ts.Check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s\n%s", resp.Status, b)
}

// frail N sets CACHE to the cache's URL through a proxy that kills the hub, as a power cut would, after N more uploads.
func frail(ts *testscript.TestScript, _ bool, args []string) {
	h := theHub(ts)
	h.mu.Lock()
	defer h.mu.Unlock()
	var err error
	h.left, err = strconv.Atoi(args[0])
	ts.Check(err)
	if h.proxy != nil {
		return
	}
	h.uploads = map[string]int{}
	h.proxy = httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			h.mu.Lock()
			defer h.mu.Unlock()
			to, err := url.Parse(h.url)
			ts.Check(err)
			r.SetURL(to)
		},
		ModifyResponse: func(r *http.Response) error {
			if r.Request.Method != http.MethodPut || r.StatusCode != http.StatusOK {
				return nil
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.killed[h.cmd] {
				return errors.New("the hub died before it could answer")
			}
			h.uploads[r.Request.URL.Path]++
			if h.left--; h.left == 0 {
				h.killed[h.cmd] = true
				return h.cmd.Process.Kill()
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	})
	ts.Defer(h.proxy.Close)
	ts.Setenv("CACHE", h.proxy.URL+"/fleet")
}

// sentonce wants no upload that came through frail's proxy to have been taken twice. (One whose answer was lost in the hub's end counts
// when it is sent again, which it is not if it was stored.)
func sentOnce(ts *testscript.TestScript, _ bool, _ []string) {
	h := theHub(ts)
	h.mu.Lock()
	defer h.mu.Unlock()
	for path, times := range h.uploads {
		if times != 1 {
			ts.Fatalf("%s was sent %d times", path, times)
		}
	}
}
