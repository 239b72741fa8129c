package agent_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// startHub runs a hub without CI on a free port until the test ends. Of its tokens, each is its scope.
func startHub(t testing.TB) (url string) {
	t.Helper()
	dir := t.TempDir()
	var tokens strings.Builder
	for _, scope := range []string{"wake", "report:joker"} {
		sum := sha256.Sum256([]byte(scope))
		fmt.Fprintf(&tokens, "[[token]]\nname = %q\nsha256 = %q\nscopes = [%q]\n", scope, hex.EncodeToString(sum[:]), scope)
	}
	config := fmt.Sprintf("listen = \"127.0.0.1:0\"\ndataDir = %q\ntokens = %q\n", filepath.Join(dir, "data"), filepath.Join(dir, "tokens.toml"))
	for name, text := range map[string]string{"tokens.toml": tokens.String(), "hub.toml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(self, "hub", "--config", filepath.Join(dir, "hub.toml"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
	for range 400 {
		text, _ := os.ReadFile(log.Name())
		if m := regexp.MustCompile(`hub serves" address=(\S+)`).FindSubmatch(text); m != nil {
			return "http://" + string(m[1])
		}
		time.Sleep(25 * time.Millisecond)
	}
	text, _ := os.ReadFile(log.Name())
	t.Fatalf("the hub does not serve: %s", text)
	return ""
}

// TestBehindAnImpatientProxy: an nginx cuts the stream whenever nothing was said for three seconds, which is all the time. The agent comes back each
// time, and sees what it was to be woken for while it was away.
func TestBehindAnImpatientProxy(t *testing.T) {
	t.Parallel()
	var proxies cachetest.Lab
	defer proxies.Stop()
	hub := startHub(t)
	proxy := proxies.Nginx(t, "location / { proxy_pass "+hub+"; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_read_timeout 3s; }")
	o := newOrigin(t)
	o.publish(1)
	token := filepath.Join(o.dir, "hub-token")
	if err := os.WriteFile(token, []byte("report:joker"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := follow(t, o, fmt.Sprintf("remote = %q\npoll = \"1h\"\n[hub]\nurl = %q\ntokenFile = %q\n", o.repo.Dir, proxy, token))
	f.follows(1)
	wake := func() {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, hub+"/api/v1/wake", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer wake")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			t.Fatal(resp.Status)
		}
	}
	for n := 2; n <= 4; n++ { // while the stream is cut
		f.await("the stream is cut", func(s fleet.Status) bool { return s.Hub.Failure != nil })
		o.publish(n)
		wake()
		f.follows(n)
	}
	f.await("the stream is open", func(s fleet.Status) bool { return s.Hub.Failure == nil })
	o.publish(5)
	wake()
	f.follows(5)
}
