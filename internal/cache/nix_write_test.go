package cache_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
)

// machine is a store with a Nix and a netrc that lets it push.
type machine struct {
	cachetest.Store
	t      *testing.T
	netrc  string
	server *cachetest.Server
}

// eachNix runs f with the system's Nix and with the newest, on a cache of its own.
func eachNix(t *testing.T, f func(t *testing.T, m *machine)) {
	for name, bin := range map[string]string{"system": "", "newest": nixtest.Newest(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, newMachine(t, bin, cachetest.Start(t, cache.Options{Alone: true}, nil))) // what it remembers of absence must not last
		})
	}
}

func newMachine(t *testing.T, bin string, server *cachetest.Server) *machine {
	m := &machine{Store: cachetest.NewStore(t), t: t, netrc: filepath.Join(t.TempDir(), "netrc"), server: server}
	m.Bin = bin
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.netrc, []byte("machine "+u.Hostname()+" password "+cachetest.PushToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

// another is another machine with the same Nix and cache.
func (m *machine) another() *machine { return newMachine(m.t, m.Bin, m.server) }

func (m *machine) nix(args ...string) string {
	m.t.Helper()
	return strings.TrimSpace(m.Nix(m.t, append([]string{"--option", "netrc-file", m.netrc, "--option", "trusted-public-keys", m.server.Key.String()}, args...)...))
}

// build builds an expression and returns its output and derivation.
func (m *machine) build(expr string, args ...string) (out, drv string) {
	m.t.Helper()
	var built []struct {
		DrvPath string            `json:"drvPath"`
		Outputs map[string]string `json:"outputs"`
	}
	text := m.nix(append([]string{"build", "--no-link", "--json", "--impure", "--expr", expr}, args...)...)
	if err := json.Unmarshal([]byte(text), &built); err != nil || len(built) != 1 {
		m.t.Fatalf("%s: %v", text, err)
	}
	return built[0].Outputs["out"], built[0].DrvPath
}

// fleetOf is a small system of three paths, one of which refers to itself.
func fleetOf(salt string) string {
	return strings.ReplaceAll(`
let
  sh = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; };
  lib = sh "lib" "echo building lib; echo SALT > $out";
  app = sh "app" "echo uses ${lib} and $out > $out";
in sh "top" "echo building top; echo ${app} ${lib} > $out"`, "SALT", salt)
}

// TestNixCopyTo: what Nix writes by itself, with each compression, arrives elsewhere and is signed by the cache;
// and the machine that pushed it, which remembers what it called the archives, can fetch it again.
func TestNixCopyTo(t *testing.T) {
	eachNix(t, func(t *testing.T, m *machine) {
		cacheURL := m.server.CacheURL()
		for _, compression := range []string{"", "none", "zstd", "gzip", "bzip2"} { // the default is xz
			top, _ := m.build(fleetOf("a" + compression))
			settings := "?write-nar-listing=true"
			if compression != "" {
				settings += "&compression=" + compression
			}
			remember := []string{"--option", "narinfo-cache-positive-ttl", "3600"}
			m.nix(append(remember, "copy", "--to", cacheURL+settings, top)...)
			other := m.another()
			other.nix("copy", "--from", cacheURL, top)
			other.nix("store", "verify", "--recursive", "--sigs-needed", "1", top)
			if compression == "gzip" || compression == "bzip2" {
				continue // what Nix calls such files does not tell how they are compressed, or nothing here compresses like that
			}
			m.nix("store", "delete", "--ignore-liveness", top)
			m.nix(append(remember, "copy", "--no-check-sigs", "--from", cacheURL, top)...) // it remembers no signature
		}
		m.server.WantClean(t)
		top, _ := m.build(fleetOf("bad"))
		if _, err := m.TryNix(t, "--option", "netrc-file", m.netrc, "copy", "--to", cacheURL+"?compression=lzip", top); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("an unknown compression was taken: %v", err)
		}
		if _, err := m.TryNix(t, "copy", "--to", cacheURL, top); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("pushed without a token: %v", err)
		}
	})
}

// TestNixRemembersNames: the names that Nix gave archives are asked for by what it remembers, and by nothing else.
func TestNixRemembersNames(t *testing.T) {
	m := newMachine(t, "", cachetest.NewServer(t, nil))
	top, _ := m.build(fleetOf("names"))
	dir := t.TempDir()
	m.nix("copy", "--to", "file://"+dir, top)
	m.nix("copy", "--to", m.server.CacheURL(), top)
	hash, err := nar.HashPart(top)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, hash+".narinfo"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := nar.ParseNarInfo(text)
	if err != nil {
		t.Fatal(err)
	}
	call(t, m.server, "HEAD", "/c/"+info.URL, nil).want(t, 200, "")
	a := call(t, m.server, "GET", "/c/nar/"+info.NarHash.Nix32()+".nar", nil)
	checked, err := nar.Check(strings.NewReader(a.body), 1<<20)
	if err != nil || checked.Hash != info.NarHash || a.header.Get("Content-Length") != fmt.Sprint(info.NarSize) {
		t.Errorf("unpacked: %+v, %v, %v", checked, err, a.header)
	}
	call(t, m.server, "GET", "/c/nar/"+strings.Repeat("0", 52)+".nar.xz", nil).want(t, 404, "NoSuchObject")
}

// TestPostBuildHook: a hook that runs nix copy pushes what is built.
func TestPostBuildHook(t *testing.T) {
	eachNix(t, func(t *testing.T, m *machine) {
		hook := filepath.Join(t.TempDir(), "hook")
		program, err := exec.LookPath(filepath.Join(m.Bin, "nix"))
		if err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf("#!/bin/sh\nset -e\nexport NIX_REMOTE='%s' HOME='%s'\n"+
			"outputs=${OUT_PATHS:-$(%s-store --query --outputs \"$DRV_PATH\")}\n"+ // Nix 2.8 does not tell OUT_PATHS
			"exec %s copy --option netrc-file %s --to %s $outputs\n", m.URL(), m.Root, program, program, m.netrc, m.server.CacheURL())
		if err := os.WriteFile(hook, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		top, _ := m.build(fleetOf("hook"), "--option", "post-build-hook", hook)
		m.another().nix("copy", "--from", m.server.CacheURL(), top)
	})
}

// TestListings: those that the cache makes are those that Nix makes.
func TestListings(t *testing.T) {
	eachNix(t, func(t *testing.T, m *machine) {
		tree, dir := filepath.Join(t.TempDir(), "tree"), t.TempDir()
		for _, d := range []string{"empty", "a/deeper/still"} {
			if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for name, mode := range map[string]os.FileMode{"a.b": 0o644, "a/x": 0o755, "a/deeper/none": 0o444, "a-b": 0o711, `q"uo<te`: 0o644, "ünï": 0o644} {
			if err := os.WriteFile(filepath.Join(tree, name), []byte(strings.Repeat(name, 1000*len(name)*int(mode&1))), mode); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(`no"where/<at> all`, filepath.Join(tree, "link")); err != nil {
			t.Fatal(err)
		}
		out, _ := m.build(fleetOf("ls"))
		for _, p := range []string{m.nix("store", "add-path", tree), out} {
			m.nix("copy", "--to", "file://"+dir+"?write-nar-listing=true", p)
			m.nix("copy", "--to", m.server.CacheURL()+"?write-nar-listing=true", p)
			hash, err := nar.HashPart(p)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join(dir, hash+".ls"))
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // made, then kept
				got := call(t, m.server, "GET", "/c/"+hash+".ls", nil)
				got.want(t, 200, "narOffset")
				if !sameJSON(t, got.body, string(want)) {
					t.Errorf("of %s:\n%s, Nix has\n%s", p, got.body, want)
				}
			}
			args := []string{"store", "ls", "--json", "--recursive", p}
			if there, here := m.nix(append(args, "--store", m.server.CacheURL())...), m.nix(args...); strings.Contains(here, "narOffset") && !sameJSON(t, there, here) {
				t.Errorf("nix store ls: %s, locally %s", there, here)
			}
		}
		if got, want := m.nix("store", "cat", "--store", m.server.CacheURL(), out), m.nix("store", "cat", out); got != want || got == "" {
			t.Errorf("nix store cat: %q, locally %q", got, want)
		}
	})
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal([]byte(a), &x); err != nil {
		t.Fatalf("%s: %v", a, err)
	}
	if err := json.Unmarshal([]byte(b), &y); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return reflect.DeepEqual(x, y)
}

// TestLogs: a log that Nix copies here, compressed or not, is one that Nix shows.
func TestLogs(t *testing.T) {
	eachNix(t, func(t *testing.T, m *machine) {
		top, drv := m.build(fleetOf("log"))
		url := m.server.CacheURL()
		m.nix("copy", "--to", url, "--derivation", drv)
		m.nix("copy", "--to", url, top)
		for _, settings := range []string{"", "?log-compression=br", "?log-compression=gzip"} {
			m.nix("store", "copy-log", "--to", url+settings, drv)
			call(t, m.server, "GET", "/c/log/"+filepath.Base(drv), nil).want(t, 200, "building top\n")
			if got := m.another().nix("log", "--store", url, drv); got != "building top" {
				t.Errorf("%s: nix log: %q", settings, got)
			}
		}
	})
}

// TestContentAddressed: an output whose path only its realisation tells comes from the cache, unbuilt, for it is signed.
func TestContentAddressed(t *testing.T) {
	const expr = `
let
  sh = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ];
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
in sh "top" "echo ${sh "lib" "echo built > $out"} > $out"`
	eachNix(t, func(t *testing.T, m *machine) {
		url := m.server.CacheURL()
		out, _ := m.build(expr)
		m.nix("copy", "--impure", "--to", url, "--expr", expr)
		other := m.another()
		if got, _ := other.build(expr, "--option", "substitute", "true", "--option", "substituters", url, "--max-jobs", "0"); got != out {
			t.Errorf("%s came, %s was pushed", got, out)
		}
	})
}
