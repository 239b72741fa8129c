package nix

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestProgressOfRealBuilds has nix build something that works and something that does not.
func TestProgressOfRealBuilds(t *testing.T) {
	store := "local?root=" + t.TempDir()
	t.Setenv("NIX_CONFIG", "build-users-group =\nsubstituters =\nsandbox-paths = /bin/sh=/bin/busybox\n")
	expr := `map (s: derivation { name = s; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo this is ${s}; ${s} > $out" ]; }) [ "true" "frobnicate" ]`
	out, err := exec.Command("nix-instantiate", "--store", store, "--expr", expr).Output()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	var events []Event
	p := &Progress{Log: &log, On: func(e Event) { events = append(events, e) }}
	cmd := exec.Command("nix-store", append([]string{"--store", store, "--realise", "--keep-going", "--log-format", "internal-json"}, strings.Fields(string(out))...)...)
	cmd.Stderr = p
	if err := cmd.Run(); err == nil {
		t.Fatal("the build should fail")
	}
	if !strings.Contains(p.ErrorText(), "error: builder for '/nix/store/") && !strings.Contains(p.ErrorText(), "frobnicate") {
		t.Errorf("error text: %q", p.ErrorText())
	}
	if !strings.Contains(p.ErrorText(), "> this is frobnicate") || strings.Contains(p.ErrorText(), "this is true") {
		t.Errorf("error text: %q", p.ErrorText())
	}
	if !strings.Contains(log.String(), "true> this is true\n") || strings.Contains(log.String(), "@nix") || strings.Contains(log.String(), "\x1b") {
		t.Errorf("log:\n%s", log.String())
	}
	var ended, running []string
	for _, e := range events {
		if e.Ended != "" {
			ended = append(ended, e.Ended)
		}
		for _, name := range e.Building {
			if !slices.Contains(running, name) {
				running = append(running, name)
			}
		}
	}
	slices.Sort(ended)
	slices.Sort(running)
	if want := []string{"frobnicate", "true"}; !slices.Equal(ended, want) || !slices.Equal(running, want) {
		t.Errorf("ended %q, running %q", ended, running)
	}
	last := events[len(events)-1]
	if last.Builds.Done != 1 || last.Builds.Failed != 1 || last.Builds.Running != 0 || len(last.Building) != 0 {
		t.Errorf("at the end: %+v", last)
	}
}

// TestProgressOfRealFetches has nix fetch a path from a cache in a folder.
func TestProgressOfRealFetches(t *testing.T) {
	from, to, dir := "local?root="+t.TempDir(), "local?root="+t.TempDir(), "file://"+t.TempDir()
	t.Setenv("NIX_CONFIG", "substituters = "+dir+"\nrequire-sigs = false\nbuild-users-group =\nexperimental-features = nix-command\nnarinfo-cache-negative-ttl = 0")
	run := func(program string, args ...string) string {
		t.Helper()
		out, err := exec.Command(program, args...).Output()
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		return strings.TrimSpace(string(out))
	}
	path := run("nix-instantiate", "--store", from, "--eval", "--read-write-mode", "--expr", `builtins.toFile "text" "fetch me"`)
	path = strings.Trim(path, `"`)
	run("nix", "copy", "--from", from, "--to", dir, path)
	var last Event
	p := &Progress{On: func(e Event) { last = e }}
	cmd := exec.Command("nix-store", "--store", to, "--realise", path, "--log-format", "internal-json")
	cmd.Stderr = p
	if err := cmd.Run(); err != nil {
		t.Fatal(err, p.ErrorText())
	}
	if last.Fetches != (Count{Done: 1, Expected: 1}) || last.Builds.Done != 0 {
		t.Errorf("%+v", last)
	}
}

func TestProgressPassesOtherLinesOn(t *testing.T) {
	var log bytes.Buffer
	p := &Progress{Log: &log}
	for _, part := range []string{"warning: plain\n@nix {bro", "ken\n", "@nix {\"action\":\"stop\",\"id\":7}\n", "last"} {
		if _, err := p.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if want := "warning: plain\n@nix {broken\n"; log.String() != want {
		t.Errorf("got %q, want %q", log.String(), want)
	}
}

func FuzzProgress(f *testing.F) {
	f.Add([]byte("@nix {\"action\":\"start\",\"id\":1,\"type\":105,\"fields\":[\"/nix/store/x.drv\",\"\",1,1]}\n@nix {\"action\":\"result\",\"id\":1,\"type\":101,\"fields\":[\"hi\"]}\n@nix {\"action\":\"stop\",\"id\":1}\n"))
	f.Add([]byte("@nix {\"action\":\"msg\",\"level\":0,\"msg\":\"\\u001b[31merror\"}\nplain"))
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, pieces := &bytes.Buffer{}, &bytes.Buffer{}
		p, q := &Progress{Log: whole}, &Progress{Log: pieces}
		p.Write(b)
		for i := range b {
			q.Write(b[i : i+1])
		}
		if !bytes.Equal(whole.Bytes(), pieces.Bytes()) {
			t.Fatalf("whole %q, in pieces %q", whole, pieces)
		}
	})
}
