package forgetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Gitea is a forge. Whoever shares it with others must not Stop it.
type Gitea struct {
	URL string // of its pages, without a slash at the end

	programs string // folder of gitea and runner
	dir      string
	address  string
	admin    string // a token that may do everything
	http     *http.Client
	server   *process
	runners  []*process
}

const (
	adminName = "forge-admin"
	password  = "not a secret at all" // of every user
)

func newGitea(dir string) (*Gitea, error) {
	programs, err := fetched("fetch-gitea")
	if err != nil {
		return nil, err
	}
	g := &Gitea{programs: programs, dir: dir, http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}}
	for range 3 { // somebody else may be quicker with a port that is free
		if g.address, err = freeAddress(); err != nil {
			return nil, err
		}
		g.URL = "http://" + g.address
		if err = os.WriteFile(g.config(), g.settings(), 0o600); err != nil {
			return nil, err
		}
		if err = g.start(); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	out, err := g.command("admin", "user", "create", "--admin", "--username", adminName, "--password", password, "--email", adminName+"@example.org",
		"--must-change-password=false", "--access-token", "--access-token-name", "all", "--access-token-scopes", "all").CombinedOutput()
	_, token, found := strings.Cut(string(out), "Access token was successfully created... ")
	if err != nil || !found {
		g.halt()
		return nil, fmt.Errorf("gitea admin user create: %v: %s", err, out)
	}
	g.admin, _, _ = strings.Cut(token, "\n")
	return g, nil
}

func (g *Gitea) config() string { return filepath.Join(g.dir, "app.ini") }

// settings are app.ini: all that a forge does by itself is off, but for what it does with pushes.
func (g *Gitea) settings() []byte {
	host, port, _ := strings.Cut(g.address, ":")
	return fmt.Appendf(nil, `RUN_MODE = prod
RUN_USER = root
WORK_PATH = %[1]s
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
[server]
PROTOCOL = http
HTTP_ADDR = %[2]s
HTTP_PORT = %[3]s
ROOT_URL = http://%[2]s:%[3]s/
STATIC_ROOT_PATH = %[4]s
DISABLE_SSH = true
OFFLINE_MODE = true
LFS_START_SERVER = true
[database]
DB_TYPE = sqlite3
PATH = %[1]s/gitea.db
SQLITE_JOURNAL_MODE = WAL
[security]
INSTALL_LOCK = true
SECRET_KEY = of-a-forge-for-tests
PASSWORD_HASH_ALGO = pbkdf2$1000$50
[service]
DISABLE_REGISTRATION = true
[repository]
ROOT = %[1]s/repositories
DEFAULT_BRANCH = main
[webhook]
ALLOWED_HOST_LIST = loopback
DELIVER_TIMEOUT = 5
[actions]
ENABLED = true
WORKFLOW_DIRS = .forgejo/workflows,.gitea/workflows
DEFAULT_ACTIONS_URL = self
LOG_COMPRESSION = none
[log]
MODE = console
LEVEL = Warn
[indexer]
ISSUE_INDEXER_TYPE = db
[queue]
TYPE = channel
[cron.update_checker]
ENABLED = false
[oauth2]
ENABLED = false
[mailer]
ENABLED = false
`, g.dir, host, port, g.programs)
}

func (g *Gitea) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(g.programs, "gitea"), append(args, "--config", g.config())...)
	cmd.Dir = g.dir
	cmd.Env = []string{"HOME=" + g.dir, "PATH=" + os.Getenv("PATH"), "USER=root", "TMPDIR=" + os.TempDir(), "GITEA_WORK_DIR=" + g.dir}
	return cmd
}

func (g *Gitea) start() (err error) {
	g.server, err = run(g.command("web"), func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.URL+"/api/healthz", nil)
		if err != nil {
			return err
		}
		resp, err := g.http.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", resp.Status)
		}
		return nil
	})
	return err
}

// Stop takes the forge down, at once. Its runners go on, and find nobody.
func (g *Gitea) Stop(testing.TB) {
	g.server.stop(syscall.SIGKILL)
	g.server = nil
	g.http.CloseIdleConnections()
}

// Start brings it up again, with all it had, under the same URL.
func (g *Gitea) Start(t testing.TB) {
	t.Helper()
	must(t, g.start())
}

// Said is what the server said last.
func (g *Gitea) Said() string { return g.server.output.String() }

func (g *Gitea) halt() {
	for _, r := range g.runners {
		r.stop(syscall.SIGKILL)
	}
	g.server.stop(syscall.SIGKILL)
	g.http.CloseIdleConnections()
}

// API calls the API as the administrator, with body as JSON unless it is nil, and reads the answer into answer unless it is nil. It fails the
// test when the forge does not answer with a success.
func (g *Gitea) API(t testing.TB, method, path string, body, answer any) {
	t.Helper()
	must(t, g.api(method, path, "token "+g.admin, body, answer))
}

func (g *Gitea) api(method, path, authorization string, body, answer any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequest(method, g.URL+"/api/v1"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", authorization)
	req.Header.Set("Content-Type", "application/json")
	resp, err := g.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := readAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %.1000s", method, path, resp.Status, got)
	}
	switch a := answer.(type) {
	case nil:
		return nil
	case *string:
		*a = string(got)
		return nil
	}
	return json.Unmarshal(got, answer)
}
