// Package gittest serves repositories to tests as forges do: by git's own HTTP backend, by a real sshd, and git-lfs's contents, all on loopback.
//
// They end with the test. Start at HTTP, SSH and LFS; SSHD is for those who want a host key only.
package gittest

import (
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// HTTP serves the repositories below root, to user with password if they are given, and returns the URL that has both. answer, when
// set, handles pushes.
func HTTP(t testing.TB, root, user, password string, answer func(w http.ResponseWriter, r *http.Request, push http.Handler)) string {
	t.Helper()
	exe, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(exe)), "git-http-backend"), Stderr: os.Stderr,
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=user"}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); user != "" && (u != user || p != password) {
			w.Header().Set("WWW-Authenticate", "Basic realm=x")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if answer != nil && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "git-receive-pack") {
			answer(w, r, backend)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	if user == "" {
		return s.URL
	}
	return strings.Replace(s.URL, "http://", "http://"+user+":"+password+"@", 1)
}
