package git_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/git/gittest"
)

// wantNoOne wants no process of this machine to have a text among its arguments.
func wantNoOne(t *testing.T, text string) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), text) {
			t.Errorf("left behind: %q", b)
		}
	}
}

// TestSSH fetches as agents do, and publishes, by a key from a file; whatever is wrong is said, and nobody is asked.
func TestSSH(t *testing.T) {
	dir, origin := newClone(t)
	s := gittest.SSH(t)
	remote, r := s.URL+origin, open(t, dir)
	head := do(t, dir, "git", "rev-parse", "HEAD")
	look := []string{"+refs/heads/release*:refs/garrison/heads/release*", "+refs/tags/release-*:refs/garrison/tags/release-*"}
	fetch := func(ssh string) error {
		t.Setenv("GIT_SSH_COMMAND", ssh)
		return r.Fetch(t.Context(), remote, look...)
	}
	must(t, fetch(gittest.Command(s.Key, s.KnownHosts)))
	must(t, r.Push(t.Context(), remote, git.Move{Ref: "refs/heads/release", To: head}, git.Move{Ref: "refs/tags/release-1", To: head}))
	must(t, fetch(gittest.Command(s.Key, s.KnownHosts)))
	refs, err := r.Refs(t.Context(), "refs/garrison/heads/")
	if err != nil || refs["release"].Commit != head {
		t.Errorf("%v, %v", refs, err)
	}
	err = r.Push(t.Context(), remote, git.Move{Ref: "refs/heads/release", To: commit(t, dir, "Second")})
	wantCode(t, err, fleet.Transient, fleet.CodeRace)

	says := func(err error, class fleet.Class, code fleet.Code, text string) {
		t.Helper()
		wantCode(t, err, class, code)
		var e *fleet.Error
		if errors.As(err, &e); !strings.Contains(e.What, text) || e.Hint == "" {
			t.Errorf("%s → %s", e.What, e.Hint)
		}
	}
	says(fetch(gittest.Command(s.OtherKey, s.KnownHosts)), fleet.Local, fleet.CodeUnauthorized, "it refuses our credentials")
	nobody := filepath.Join(t.TempDir(), "known_hosts")
	says(fetch(gittest.Command(s.Key, nobody)), fleet.Local, fleet.CodeRemote, "its host key is not known here")
	// An ssh of the user's own that would ask: there is no terminal, and no program to ask with.
	t.Setenv("DISPLAY", ":0")
	says(fetch(strings.Replace(gittest.Command(s.Key, nobody), "-o BatchMode=yes", "", 1)), fleet.Local, fleet.CodeRemote, "its host key is not known here")
	known, err := os.ReadFile(s.KnownHosts)
	must(t, err)
	other, err := os.ReadFile(s.OtherKey + ".pub")
	must(t, err)
	address, _, _ := strings.Cut(string(known), " ")
	must(t, os.WriteFile(nobody, append([]byte(address+" "), other...), 0o600))
	says(fetch(gittest.Command(s.Key, nobody)), fleet.Local, fleet.CodeRemote, "its host key is another one than before")

	// The key as a repository's own setting, as CI systems leave it; a repository that is not there.
	must(t, os.Unsetenv("GIT_SSH_COMMAND"))
	do(t, dir, "git", "config", "core.sshCommand", gittest.Command(s.Key, s.KnownHosts))
	must(t, r.Fetch(t.Context(), remote, look...))
	wantCode(t, r.Fetch(t.Context(), s.URL+"/nowhere.git", look...), fleet.Transient, fleet.CodeRemote)
}

// TestSilentServers: one that takes connections and says nothing is given up; one that has gone silent later, when we are told to stop.
func TestSilentServers(t *testing.T) {
	dir, origin := newClone(t)
	r := open(t, dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	err = r.Fetch(t.Context(), "ssh://root@"+l.Addr().String()+"/x.git", "+refs/heads/*:refs/garrison/heads/*") // by the ssh that Garrison sets up
	wantCode(t, err, fleet.Transient, fleet.CodeRemote)

	s := gittest.SSH(t)
	asked := filepath.Join(t.TempDir(), "asked")
	must(t, os.WriteFile(filepath.Join(filepath.Dir(s.Key), "silent"), []byte("#!/bin/sh\ntouch "+asked+"\nexec cat > /dev/null\n"), 0o755))
	pub, err := os.ReadFile(s.Key + ".pub")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(filepath.Dir(s.Key), "authorized"), append([]byte(`command="`+filepath.Dir(s.Key)+`/silent" `), pub...), 0o600))
	t.Setenv("GIT_SSH_COMMAND", gittest.Command(s.Key, s.KnownHosts))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Fetch(ctx, s.URL+origin, "+refs/heads/*:refs/garrison/heads/*") }()
	for {
		if _, err := os.Stat(asked); err == nil {
			break
		}
		select {
		case err := <-done:
			t.Fatalf("it came back: %v", err)
		default:
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	wantNoOne(t, s.KnownHosts) // the ssh
}
