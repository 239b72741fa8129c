package agent_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestRoundTrips: what a look costs, as a real server by HTTP counts it. Git's protocol takes two requests to say what a few refs
// are, whatever else the repository has; the next release is one more.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	for n := 1; n <= 30; n++ {
		o.publish(n)
	}
	for n := 31; n <= 1000; n++ { // tags of the past, as far as a server's answer goes
		if err := o.repo.UpdateRef(t.Context(), fmt.Sprintf("refs/tags/old-release-%d", n), o.tip); err != nil {
			t.Fatal(err)
		}
	}
	forge := newForge(t, filepath.Join(o.dir, "origin"))
	f := follow(t, o, "poll = \"1h\"\nremote = \""+forge.url()+"\"\n")
	s := f.follows(30)
	forge.took()
	looked := func() ([]string, int) {
		t.Helper()
		before := s.Remote.LastOK
		f.look()
		s = f.await("it looked", func(s fleet.Status) bool { return s.Remote.LastOK.After(before) })
		return forge.took()
	}
	for range 3 {
		requests, sent := looked()
		if len(requests) != 2 || sent > 2000 {
			t.Errorf("nothing moved: %d bytes by %q", sent, requests)
		}
	}
	o.publish(31)
	requests, sent := looked()
	if len(requests) > 4 || sent > 5000 {
		t.Errorf("release-31: %d bytes by %q", sent, requests)
	}
	f.follows(31)
	o.publish(32)
	o.publish(33)
	o.publish(34) // was away
	if requests, _ = looked(); len(requests) > 12 {
		t.Errorf("several: %q", requests)
	}
	f.follows(34)
	if requests, _ = looked(); len(requests) != 2 {
		t.Errorf("nothing moved again: %q", requests)
	}
}

// turns counts how often the direction changes on connections to a server.
func turns(t *testing.T, to string, count *atomic.Int64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			var asking atomic.Bool
			go func() {
				_, _ = io.Copy(writes(func(p []byte) (int, error) {
					if !asking.Swap(true) {
						count.Add(1)
					}
					return up.Write(p)
				}), c)
				_ = up.(*net.TCPConn).CloseWrite()
			}()
			go func() {
				_, _ = io.Copy(writes(func(p []byte) (int, error) {
					asking.Store(false)
					return c.Write(p)
				}), up)
				c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

type writes func([]byte) (int, error)

func (w writes) Write(p []byte) (int, error) { return w(p) }

// TestRoundTripsOfGit is the same by git's own protocol, where each is a change of direction on one connection: what the server can,
// and what the refs are. (The last word of the client, that it wants nothing, has no answer.)
func TestRoundTripsOfGit(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.publish(1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	daemon := exec.Command("git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1", fmt.Sprint("--port=", port), "--base-path="+filepath.Join(o.dir, "origin"))
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(os.Interrupt)
		_ = daemon.Wait() // it was interrupted
	})
	var count atomic.Int64
	f := follow(t, o, "poll = \"1s\"\nremote = \"git://"+turns(t, fmt.Sprint("127.0.0.1:", port), &count)+"/fleet.git\"\n")
	s := f.follows(1)
	count.Store(0)
	f.look()
	s = f.await("it looked", func(n fleet.Status) bool { return n.Remote.LastOK.After(s.Remote.LastOK) })
	before := count.Swap(0)
	if before > 3 {
		t.Errorf("%d round trips where nothing moved", before)
	}
	t.Logf("%d round trips", before)
}

// TestSeveralRemotes: the first with news wins, a mirror that lags is no alarm, one that was force-pushed is.
func TestSeveralRemotes(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.publish(1)
	lagging, bad := o.copy("lagging"), o.copy("bad")
	o.publish(2)
	f := follow(t, o, fmt.Sprintf(`poll = "1s"
remote = %q
[[remotes]]
name = "lagging"
url = %q
[[remotes]]
name = "bad"
url = %q
[[remotes]]
name = "dead"
url = "http://127.0.0.1:1/fleet.git"
`, o.repo.Dir, lagging, bad))
	remote := func(s fleet.Status, name string) fleet.Remote {
		i := slices.IndexFunc(s.Remotes, func(r fleet.Remote) bool { return r.Name == name })
		return s.Remotes[i]
	}
	f.follows(2)
	f.await("what each is", func(s fleet.Status) bool {
		return remote(s, "lagging").Behind && remote(s, "bad").Behind && remote(s, "dead").Failure != nil && remote(s, "fleet.git").Failure == nil && s.Remote.Failure == nil && s.Refused == nil
	})
	o.do("git", "--git-dir", bad, "fetch", "--quiet", "--prune", "origin")
	f.await("one caught up", func(s fleet.Status) bool { return !remote(s, "bad").Behind && remote(s, "bad").Tip == o.tip })

	// One goes back to what it was, and then elsewhere; nothing of that matters as long as another is in order.
	back := strings.TrimSpace(o.do("git", "--git-dir", bad, "rev-parse", "release^"))
	o.do("git", "--git-dir", bad, "update-ref", "refs/heads/release", back)
	s := f.await("it is refused", func(s fleet.Status) bool { return remote(s, "bad").Refused != nil })
	if r := remote(s, "bad").Refused; r.Tip != back || r.Failure.Code != fleet.CodeForcePushed || s.Refused != nil {
		t.Errorf("%+v; the host's: %+v", r, s.Refused)
	}
	if out, err := exec.Command(self, "status", "--socket", f.socket()).Output(); err != nil || !strings.Contains(string(out), "REFUSED, at "+back[:12]) || !strings.Contains(string(out), "behind, at ") || !strings.Contains(string(out), "UNREACHABLE") {
		t.Errorf("%v: %s", err, out)
	}
	if !strings.Contains(f.said(), "remote=bad") {
		t.Error("it is not in the log")
	}
	o.publish(3)
	f.follows(3)

	// Without the good one the bad one's word is all there is: refused, and followed in nothing.
	away := o.repo.Dir + ".away"
	if err := os.Rename(o.repo.Dir, away); err != nil {
		t.Fatal(err)
	}
	s = f.await("the host says so", func(s fleet.Status) bool { return s.Refused != nil })
	if !strings.Contains(s.Refused.Failure.Message, "remote bad: ") || s.Newest.Number != 3 || s.Remote.Failure != nil {
		t.Errorf("%+v", s)
	}
	if err := os.Rename(away, o.repo.Dir); err != nil {
		t.Fatal(err)
	}
	f.look()
	f.await("and that it is over", func(s fleet.Status) bool { return s.Refused == nil && remote(s, "fleet.git").Failure == nil })
}

// TestCredentials: a missing, refused, or renewed credential is a state that ends by itself, and no one gets to see it.
func TestCredentials(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.publish(1)
	forge := newForge(t, filepath.Join(o.dir, "origin"))
	forge.lock("t0ken-1")
	file := filepath.Join(o.dir, "credentials")
	f := follow(t, o, fmt.Sprintf("poll = \"1h\"\n[[remotes]]\nname = \"forge\"\nurl = %q\ncredentialsFile = %q\n", forge.url(), file))
	code := func(c fleet.Code) func(fleet.Status) bool {
		return func(s fleet.Status) bool { return s.Remote.Failure != nil && s.Remote.Failure.Code == c }
	}
	write := func(text string) {
		t.Helper()
		// As secrets are written: half of it is another state.
		if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	s := f.await("it is missing", code(fleet.CodeKey))
	if r := s.Remotes[0]; r.Failure.Class != fleet.Local || !strings.Contains(r.Failure.Hint, file) || r.Since.IsZero() {
		t.Errorf("%+v", r)
	}
	write("user:t0ken-0\n")
	f.await("it is refused", code(fleet.CodeUnauthorized))
	write("a token\nand more")
	f.await("it is nonsense", code(fleet.CodeKey))
	write("t0ken-1")
	f.follows(1)
	forge.took()
	f.look()
	s = f.await("it looked", func(n fleet.Status) bool { return n.Remote.LastOK.After(s.Remote.LastOK) && n.Remote.Failure == nil })
	forge.lock("t0ken-2") // it expires
	o.publish(2)
	f.look()
	f.await("it expired", code(fleet.CodeUnauthorized))
	if out, err := exec.Command(self, "status", "--socket", f.socket()).Output(); err == nil || !strings.Contains(string(out), "refuses our credentials") || !strings.Contains(string(out), "renew "+file) {
		t.Errorf("%v: %s", err, out)
	}
	write("anybody:t0ken-2\n")
	s = f.follows(2)
	f.stop()
	for _, word := range []string{"t0ken", "dDBrZW4"} {
		if strings.Contains(f.said(), word) {
			t.Errorf("the log shows %s", word)
		}
		if out, err := exec.Command("grep", "-rlF", word, f.state()).CombinedOutput(); err == nil {
			t.Errorf("%s stands in %s", word, out)
		}
	}
	if n := strings.Count(f.said(), "git remote forge cannot be used"); n != 4 {
		t.Errorf("the log tells it %d times for 4 changes:\n%s", n, f.said())
	}
}

// TestSilentRemote: one that accepts connections and says nothing delays no other, and is asked once at a time.
func TestSilentRemote(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var open atomic.Int64
	go func() {
		var kept []net.Conn // and never closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			kept = append(kept, c)
			open.Store(int64(len(kept)))
		}
	}()
	o := newOrigin(t)
	o.publish(1)
	config := fmt.Sprintf("poll = \"1s\"\nremote = %q\n", o.repo.Dir)
	for i := range 10 {
		config += fmt.Sprintf("[[remotes]]\nurl = \"http://%s/%d.git\"\n", l.Addr(), i)
	}
	f := follow(t, o, config)
	f.follows(1)
	for n := 2; n < 8; n++ {
		o.publish(n)
		f.look()
		f.follows(n)
		time.Sleep(200 * time.Millisecond)
	}
	if n := open.Load(); n > 10 {
		t.Errorf("%d connections to ten remotes that are silent", n)
	}
}

// TestDamagedRemote: what a remote cannot give whole is said of it, changes nothing here, and is had when it can.
func TestDamagedRemote(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.publish(1)
	f := follow(t, o, "poll = \"1s\"\nremote = \""+o.repo.Dir+"\"\n")
	f.follows(1)
	commit := o.make(2, o.tip, "release")
	object := filepath.Join(o.repo.Dir, "objects", commit[:2], commit[2:])
	whole, err := os.ReadFile(object)
	if err == nil {
		err = errors.Join(os.Remove(object), os.WriteFile(object, whole[:len(whole)/2], 0o600))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(o.repo.Dir, "refs/heads/release"), []byte(commit+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := f.await("it says so", func(s fleet.Status) bool { return s.Remote.Failure != nil })
	if s.Remote.Failure.Code != fleet.CodeDamaged || s.Newest.Number != 1 || s.Refused != nil {
		t.Errorf("%+v", s.Remote.Failure)
	}
	if strings.Contains(f.said(), "made anew") {
		t.Error("our repository was blamed")
	}
	if err := os.WriteFile(object, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s = f.follows(2)
	if s.Remote.Failure != nil {
		t.Errorf("%+v", s.Remote.Failure)
	}
}
