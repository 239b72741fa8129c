package git_test

import (
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/git/gittest"
)

const allHeads = "+refs/heads/*:refs/garrison/heads/*"

func write(t *testing.T, file, text string) string {
	t.Helper()
	must(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// TestCredentialsFile: what stands in it now is used with the first request, and goes into nobody's arguments.
func TestCredentialsFile(t *testing.T) {
	_, origin := newClone(t)
	var asked, refused atomic.Int64
	leaked := false
	backend := &cgi.Handler{Path: filepath.Join(do(t, "", "git", "--exec-path"), "git-http-backend"), Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(origin), "GIT_HTTP_EXPORT_ALL=1"}}
	want := "user:t0ken"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		out, _ := exec.Command("sh", "-c", "cat /proc/[0-9]*/cmdline").Output() // some end meanwhile
		leaked = leaked || strings.Contains(string(out), "t0ken") || strings.Contains(string(out), "dXNlcjp0MGtlb")
		if user, p, _ := r.BasicAuth(); user+":"+p != want {
			refused.Add(1)
			w.Header().Set("WWW-Authenticate", "Basic realm=x")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	defer s.Close()
	r, err := git.Init(t.Context(), filepath.Join(t.TempDir(), "r.git"))
	must(t, err)
	file := filepath.Join(t.TempDir(), "credentials")
	m := git.Remote{URL: s.URL + "/" + filepath.Base(origin), CredentialsFile: file}
	wantCode(t, r.FetchFrom(t.Context(), m, allHeads), fleet.Local, fleet.CodeKey)
	for _, text := range []string{"", "\n", "user:\n", "a\nb", "a\x00b"} {
		write(t, file, text)
		wantCode(t, r.FetchFrom(t.Context(), m, allHeads), fleet.Local, fleet.CodeKey)
	}
	if asked.Load() != 0 {
		t.Error("it was asked without credentials")
	}
	write(t, file, "user:t0ken\n")
	must(t, r.FetchFrom(t.Context(), m, allHeads))
	if refused.Load() != 0 {
		t.Error("the first request came without them")
	}
	// They take the place of those in the URL, and of a helper's.
	do(t, r.Dir, "git", "config", "credential.helper", "!printf 'username=user\\npassword=wrong\\n'")
	m.URL = strings.Replace(m.URL, "http://", "http://someone:else@", 1)
	must(t, r.FetchFrom(t.Context(), m, allHeads))
	want = "git:alone"
	err = r.FetchFrom(t.Context(), m, allHeads)
	wantCode(t, err, fleet.Local, fleet.CodeUnauthorized)
	if e := err.(*fleet.Error); !strings.Contains(e.Hint, file) || strings.Contains(err.Error(), "t0ken") || strings.Contains(err.Error(), "else") {
		t.Errorf("%v, %s", err, e.Hint)
	}
	write(t, file, "alone")
	must(t, r.FetchFrom(t.Context(), m, allHeads))
	if tags, err := git.ListTags(t.Context(), m, "x"); err != nil || len(tags) != 0 {
		t.Errorf("%v, %v", tags, err)
	}
	if leaked {
		t.Error("the arguments of a program show the token")
	}
}

// TestSSHFiles: the key and the known hosts that are named are used, and no others.
func TestSSHFiles(t *testing.T) {
	_, origin := newClone(t)
	s := gittest.SSH(t)
	dir := t.TempDir() + "/with 'blanks'"
	must(t, os.Mkdir(dir, 0o700))
	do(t, "", "cp", s.Key, s.OtherKey, dir)
	known, err := os.ReadFile(s.KnownHosts)
	must(t, err)
	other, err := os.ReadFile(s.OtherKey + ".pub")
	must(t, err)
	address, _, _ := strings.Cut(string(known), " ")
	stranger := write(t, filepath.Join(dir, "stranger"), address+" "+string(other))
	r, err := git.Init(t.Context(), filepath.Join(t.TempDir(), "r.git"))
	must(t, err)
	m := git.Remote{URL: s.URL + origin, SSHKeyFile: filepath.Join(dir, "key"), KnownHostsFile: write(t, filepath.Join(dir, "known"), string(known))}
	must(t, r.FetchFrom(t.Context(), m, allHeads))
	t.Setenv("GIT_SSH_COMMAND", "false") // somebody's own ssh is not asked when we name a key
	must(t, r.FetchFrom(t.Context(), m, allHeads))
	with := func(change func(*git.Remote)) git.Remote {
		c := m
		change(&c)
		return c
	}
	wantCode(t, r.FetchFrom(t.Context(), with(func(m *git.Remote) { m.SSHKeyFile = filepath.Join(dir, "other") }), allHeads), fleet.Local, fleet.CodeUnauthorized)
	wantCode(t, r.FetchFrom(t.Context(), with(func(m *git.Remote) { m.SSHKeyFile = filepath.Join(dir, "none") }), allHeads), fleet.Local, fleet.CodeKey)
	wantCode(t, r.FetchFrom(t.Context(), with(func(m *git.Remote) { m.KnownHostsFile = filepath.Join(dir, "none") }), allHeads), fleet.Local, fleet.CodeKey)
	if err := r.FetchFrom(t.Context(), with(func(m *git.Remote) { m.KnownHostsFile = stranger }), allHeads); err == nil {
		t.Error("a remote with another host key was believed")
	}
}
