package nix_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/examples"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
)

func TestMain(m *testing.M) { os.Exit(nixtest.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// exampleFleet commits the example fleet in a folder whose name a URL must escape.
func exampleFleet(t *testing.T, change map[string]string) nix.Flake {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a fleet & 100%")
	must(t, os.CopyFS(dir, examples.Fleet))
	dir = filepath.Join(dir, "fleet")
	for path, text := range change {
		must(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644))
	}
	git := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "--quiet", "--initial-branch=main")
	git("add", ".")
	git("commit", "--quiet", "-m", "Fleet")
	return nix.Flake{GitDir: filepath.Join(dir, ".git"), Ref: "refs/heads/main", Commit: git("rev-parse", "HEAD")}
}

func TestEvaluateAndBuild(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		ctx, flake := t.Context(), exampleFleet(t, map[string]string{"gitops-test": t.Name()})
		c, err := n.Contents(ctx, flake, "")
		if err != nil || !slices.Equal(c.NixOS, []string{"drhorrible", "joker", "ratched", "ursula"}) {
			t.Fatalf("%+v, %v", c, err)
		}
		h, err := n.Host(ctx, flake, nix.NixOS, "ratched")
		must(t, err)
		var files []string
		for _, file := range h.Secrets {
			path, ok := c.SecretPath(file.File)
			if !ok {
				t.Errorf("%s is not in %s", file.File, c.Source)
			}
			files = append(files, path)
		}
		slices.Sort(files)
		if !slices.Equal(files, []string{"secrets/lair-wifi.age", "secrets/ward-key.age"}) || len(h.HostKeys) != 1 || !strings.HasPrefix(h.HostKeys[0], "ssh-ed25519 ") || h.System != "x86_64-linux" {
			t.Errorf("%+v: %v", h, files)
		}

		if ok, err := n.Valid(ctx, h.OutPath); ok || err != nil {
			t.Errorf("before it is built: %v, %v", ok, err)
		}
		_, err = n.Closure(ctx, []string{h.OutPath})
		if fleet.CodeOf(err) != fleet.CodeBuild {
			t.Errorf("the closure of what is not built: %v", err)
		}
		roots := t.TempDir()
		must(t, n.Build(ctx, []string{h.DrvPath}, roots))
		if ok, err := n.Valid(ctx, h.OutPath); !ok || err != nil {
			t.Errorf("when it is built: %v, %v", ok, err)
		}
		if to, err := os.Readlink(filepath.Join(roots, "result")); err != nil || !strings.HasSuffix(to, h.OutPath) {
			t.Errorf("rooted is %s, %v", to, err)
		}
		closure, err := n.Closure(ctx, []string{h.OutPath})
		if err != nil || len(closure) < 5 || !slices.ContainsFunc(closure, func(p nar.PathInfo) bool { return p.StorePath == h.OutPath }) {
			t.Errorf("%+v, %v", closure, err)
		}
		if none, err := n.Closure(ctx, nil); none != nil || err != nil {
			t.Errorf("%v, %v", none, err)
		}
		profile := filepath.Join(t.TempDir(), "system")
		must(t, n.SetProfile(ctx, profile, h.OutPath))
		must(t, n.SetProfile(ctx, profile, h.OutPath))
		if links, _ := filepath.Glob(profile + "-*-link"); len(links) != 1 {
			t.Errorf("generations: %v", links)
		}
		fetch(t, n, h.OutPath, closure)
	})
}

// TestHostKeys reads a host's keys in every form that they may be declared in.
func TestHostKeys(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		flake := exampleFleet(t, map[string]string{"k.pub": "of file\n", "flake.nix": `{ outputs = { self }: {
			nixosConfigurations = builtins.mapAttrs (name: declared: { config = declared // {
				system.build.toplevel = derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; };
			}; }) {
				none = { };
				rekey.age.rekey.hostPubkey = "of agenix-rekey";
				rekeyFile.age.rekey.hostPubkey = ./k.pub;
				one.services.garrison.hostKeys = "one ";
				file.services.garrison.hostKeys = ./k.pub;
				two = { services.garrison.hostKeys = [ "old" ./k.pub ]; age.rekey.hostPubkey = "not this"; };
				empty = { services.garrison.hostKeys = [ ]; age.rekey.hostPubkey = "of agenix-rekey"; };
				blank.services.garrison.hostKeys = "";
			};
		}; }`})
		for host, want := range map[string][]string{
			"none": {}, "blank": {}, "rekey": {"of agenix-rekey"}, "rekeyFile": {"of file"}, "empty": {"of agenix-rekey"},
			"one": {"one"}, "file": {"of file"}, "two": {"old", "of file"},
		} {
			h, err := n.Host(t.Context(), flake, nix.NixOS, host)
			if err != nil || !slices.Equal(h.HostKeys, want) {
				t.Errorf("%s: %q, want %q: %v", host, h.HostKeys, want, err)
			}
		}
	})
}

// fetch pushes a closure to a cache and lets Nix fetch it into an empty store.
func fetch(t *testing.T, n *nix.Nix, top string, closure []nar.PathInfo) {
	ctx, server, root := t.Context(), cachetest.NewServer(t, nil), filepath.Join(t.TempDir(), "gcroot")
	c, err := client.New(client.Config{URL: server.CacheURL(), Token: func() (string, error) { return cachetest.PushToken, nil }})
	must(t, err)
	_, err = c.Push(ctx, closure, client.PushOptions{RealStoreDir: filepath.Join(nixtest.StoreRoot(n), "nix/store")})
	must(t, err)
	there := *n
	there.Store = server.CacheURL()
	if got, err := there.Closure(ctx, []string{top}); err != nil || len(got) != len(closure) || got[0].NarSize != closure[0].NarSize {
		t.Errorf("the cache tells of %d of %d paths, %v", len(got), len(closure), err)
	}
	there.MaxStdout = 100
	if _, err := there.Closure(ctx, []string{top}); err == nil {
		t.Error("there is no bound to what the cache may tell")
	}
	empty := *n
	empty.Store = cachetest.NewStore(t).URL()
	from := nix.Substitution{Caches: []string{server.CacheURL()}, PublicKeys: []string{server.Key.String()}, Timeout: time.Minute, Root: root}

	unknown := from
	unknown.PublicKeys = nil
	if err := empty.Substitute(ctx, top, unknown); fleet.CodeOf(err) != fleet.CodeSubstitute || fleet.ClassOf(err) != fleet.Local {
		t.Errorf("from a cache that is not trusted: %v", err)
	}
	must(t, empty.Substitute(ctx, top, from))
	if got, err := empty.Closure(ctx, []string{top}); err != nil || len(got) != len(closure) {
		t.Errorf("%d of %d paths arrived, %v", len(got), len(closure), err)
	}

	hung := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer hung.Close()
	other := *n
	other.Store = cachetest.NewStore(t).URL()
	from.Caches, from.Timeout = []string{strings.Replace(hung.URL, "http://", "http://user:s3cret@", 1)}, time.Second
	err = other.Substitute(ctx, top, from)
	if fleet.CodeOf(err) != fleet.CodeSubstitute || !strings.Contains(err.Error(), "longer than 1s") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("from a cache that hangs: %v", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	time.AfterFunc(200*time.Millisecond, cancel)
	from.Timeout = time.Minute
	if err := other.Substitute(ctx, top, from); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}

// TestBuildTellsFaultsApart: a builder's from the machine's.
func TestBuildTellsFaultsApart(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		flake := exampleFleet(t, map[string]string{"hosts/joker/build.sh": "echo joker: no >&2; exit 1 # " + t.Name()})
		var drvs []string
		var good nix.Host
		for _, name := range []string{"joker", "ursula"} {
			h, err := n.Host(t.Context(), flake, nix.NixOS, name)
			must(t, err)
			drvs, good = append(drvs, h.DrvPath), h
		}
		var log strings.Builder
		n.Log = &log
		err := n.Build(t.Context(), drvs, t.TempDir())
		if fleet.ClassOf(err) != fleet.Bad || fleet.CodeOf(err) != fleet.CodeBuild || !strings.Contains(err.Error(), "joker: no") || !strings.Contains(log.String(), "joker: no") {
			t.Errorf("%v\nlog: %s", err, &log)
		}
		if ok, err := n.Valid(t.Context(), good.OutPath); !ok || err != nil {
			t.Errorf("the other host was not built: %v, %v", ok, err)
		}
		err = n.Build(t.Context(), []string{"/nix/store/g76zcpqc540lrc8i6g7xy6ip0npn2hnp-gone.drv"}, t.TempDir())
		if fleet.ClassOf(err) != fleet.Local || fleet.CodeOf(err) != fleet.CodeBuild {
			t.Errorf("a derivation that is gone: %v", err)
		}
	})
}

func TestValidTellsFailureFromAbsence(t *testing.T) {
	n := nixtest.System(t)
	n.Store = "local?root=/proc/nowhere"
	if ok, err := n.Valid(t.Context(), "/nix/store/g76zcpqc540lrc8i6g7xy6ip0npn2hnp-a"); ok || err == nil {
		t.Errorf("%v, %v", ok, err)
	}
}
