package release_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// TestBadCommits: each is refused with a message that leads to its cause, nothing is published, and the next good commit is.
func TestBadCommits(t *testing.T) {
	type change map[string]string
	toml := func(text string) change { return change{"garrison.toml": text} }
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		w := newWorld(t, n)
		good := w.push("Good")
		twoHosts := func(name, keys string) change {
			return change{"garrison.toml": "", "secrets/punchline-joker.age": w.sealed("x"), "secrets/punchline-ursula.age": w.sealed("x"), "flake.nix": `{ outputs = { self }: {
				nixosConfigurations = builtins.mapAttrs (name: _: { config = {
					age.secrets.x.file = ./secrets + "/` + name + `-${name}.age"; services.garrison.hostKeys = ` + keys + `;
					system.build.toplevel = derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; }; }; }) { joker = 1; ursula = 2; }; }; }`}
		}
		for _, c := range []struct {
			name   string
			change change
			code   fleet.Code
			says   []string
		}{
			{"two hosts do not evaluate", change{"hosts/joker/default.nix": `throw "joker: no frobnicator"`, "hosts/ursula/default.nix": `throw "ursula: no tentacle"`},
				fleet.CodeEvaluate, []string{"2 hosts do not evaluate: joker, ursula", "no frobnicator", "no tentacle"}},
			{"a host does not build", change{"hosts/joker/build.sh": `echo "joker: cannot compile" >&2; exit 3`},
				fleet.CodeBuild, []string{"joker does not build:", "joker: cannot compile"}},
			{"two hosts do not build", change{"hosts/joker/build.sh": "exit 3", "hosts/ratched/build.sh": "exit 4"},
				fleet.CodeBuild, []string{"joker, ratched does not build:"}},
			{"no nixosConfigurations", change{"flake.nix": "{ outputs = { self }: { }; }"}, fleet.CodeNoHosts, []string{"nixosConfigurations.<name>"}},
			{"no hosts", change{"flake.nix": "{ outputs = { self }: { nixosConfigurations = { }; }; }"}, fleet.CodeNoHosts, nil},
			{"no flake", change{"flake.nix": "{"}, fleet.CodeEvaluate, []string{"the flake does not evaluate:", "flake.nix"}},
			{"no toplevel", change{"flake.nix": `{ outputs = { self }: { nixosConfigurations.x.config.system.build.toplevel = { drvPath = "a"; outPath = "b"; system = "c"; }; }; }`, "garrison.toml": ""},
				fleet.CodeEvaluate, []string{"host x: its toplevel is not a derivation"}},
			{"a host that cannot be one", change{"flake.nix": `{ outputs = { self }: { nixosConfigurations."a/b" = { }; }; }`, "garrison.toml": ""}, fleet.CodeNoSuchHost, []string{`"a/b"`}},
			{"only manual hosts", toml("[hosts]\nmanual = ['drhorrible', 'joker', 'ratched', 'ursula']\n"), fleet.CodeNoHosts, []string{"makes every host manual"}},
			{"an unknown key", toml("# x\n[hosts]\nmanaul = []\n"), fleet.CodeConfig, []string{"garrison.toml:3", `did you mean "manual"?`}},
			{"a bad branch", toml("[branches]\nrelease = '../x'\n"), fleet.CodeConfig, []string{"branches.release"}},
			{"a branch twice", toml("[branches]\nrelease = 'main'\n"), fleet.CodeConfig, []string{`both "main"`}},
			{"a host that is not there", toml("[hosts]\nmanual = ['drhorrible', 'jocker']\n"), fleet.CodeNoSuchHost, []string{"names jocker", "joker"}},
			{"a key of a host that is not there", toml("[secrets.hostKeys]\nnobody = 'x'\n"), fleet.CodeNoSuchHost, []string{"names nobody"}},
			{"a bad host key", change{"hosts/joker/host.pub": "ssh-ed25519 AAAA\n"}, fleet.CodeKey, []string{"joker", "secrets/punchline.age"}},
			{"a secret that is not in git", change{"garrison.toml": "", "flake.nix": `{ outputs = { self }: { nixosConfigurations.joker.config = { age.secrets.punchline.file = "/etc/x.age";
				system.build.toplevel = derivation { name = "t"; system = "x86_64-linux"; builder = "/bin/sh"; }; }; }; }`},
				fleet.CodeSecret, []string{"host joker: the file of age.secrets.punchline is", "not in the repository", "relative path"}},
			{"secrets that are not there", twoHosts("none", "[ ./hosts/joker/host.pub ]"), fleet.CodeSecret,
				[]string{"secrets/none-joker.age, declared by joker, is not in the source commit", "secrets/none-ursula.age, declared by ursula", "add it to git"}},
			{"hosts without keys", twoHosts("punchline", "[ ]"), fleet.CodeKey,
				[]string{"host joker has no public key, but declares secrets/punchline-joker.age", "host ursula has no public key", "ssh_host_ed25519_key.pub"}},
			{"a placeholder for a key", twoHosts("punchline", `"age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq"`), fleet.CodeKey, []string{"joker", "ursula", "placeholder"}},
			{"secrets that nobody here can decrypt", change{"secrets/punchline.age": foreign(t), "secrets/ward-key.age": foreign(t)}, fleet.CodeSecret,
				[]string{"secrets/punchline.age (for joker) can be decrypted by none", "secrets/ward-key.age (for ratched) can be decrypted by none"}},
			{"empty secrets", change{"secrets/punchline.age": w.sealed(""), "secrets/ward-key.age": w.sealed("")}, fleet.CodeSecret,
				[]string{"secrets/punchline.age (for joker) decrypts to nothing", "secrets/ward-key.age (for ratched) decrypts to nothing"}},
			{"a secret in plain text", change{"secrets/punchline.age": "hunter2\n"}, fleet.CodeSecret, []string{"secrets/punchline.age (for joker) is not an age file"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				for path, text := range c.change {
					w.write(path, text)
				}
				w.push(c.name)
				sub := *w
				sub.t = t
				err := sub.refuse(fleet.Bad, c.code, c.says)
				if strings.Contains(err.Error(), "hunter2") {
					t.Errorf("the error shows a secret: %v", err)
				}
				w.do("git", "checkout", "--quiet", good, "--", ".")
				w.do("git", "clean", "--quiet", "-fd")
				if extra := w.do("git", "diff", "--name-only", "--diff-filter=A", good); extra != "" {
					w.do("git", append([]string{"rm", "--quiet", "-f", "--"}, strings.Fields(extra)...)...)
				}
			})
		}
		w.push("Good again")
		w.release()
	})
}

// foreign is an age file that nobody in a world can decrypt.
func foreign(t *testing.T) string {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return (&world{t: t, editor: id}).sealed("x")
}

// TestBadMeans is about what a release is made with.
func TestBadMeans(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	locked := filepath.Join(w.dir, "locked")
	w.do("ssh-keygen", "-q", "-t", "ed25519", "-N", "a passphrase", "-f", locked)
	w.write("../loose", "not a key")
	stranger, err := age.GenerateX25519Identity()
	w.must(err)
	key := func(file string) func(*release.Options) {
		return func(o *release.Options) { o.SigningKey = filepath.Join(w.dir, file) }
	}
	for _, c := range []struct {
		name   string
		change func(*release.Options)
		class  fleet.Class
		code   fleet.Code
		says   []string
	}{
		{"no key", key("nowhere"), fleet.Local, fleet.CodeKey, []string{"nowhere", "ssh-keygen -t ed25519"}},
		{"not a key", key("loose"), fleet.Local, fleet.CodeKey, []string{"loose"}},
		{"a locked key", key("locked"), fleet.Local, fleet.CodeKey, []string{"without a passphrase"}},
		{"no identity", func(o *release.Options) { o.Identities = identitiesOf() }, fleet.Local, fleet.CodeKey, []string{"no identity"}},
		{"a stranger's identity", func(o *release.Options) { o.Identities = identitiesOf(stranger) }, fleet.Bad, fleet.CodeSecret, []string{"secrets/punchline.age", "joker"}},
		{"no cache there", func(o *release.Options) { o.Cache = w.pushTo(gone.URL+"/c", "t", nil) }, fleet.Transient, fleet.CodeCache, []string{gone.URL}},
		{"a token that the cache refuses", func(o *release.Options) { o.Cache = w.pushTo(w.cache.CacheURL(), "s3cret-t0ken", nil) }, fleet.Local, fleet.CodeUnauthorized, []string{w.cache.URL}},
		{"no remote there", func(o *release.Options) { o.Remote = filepath.Join(w.dir, "nowhere.git") }, fleet.Transient, fleet.CodeRemote, []string{"nowhere.git"}},
		{"no such commit", func(o *release.Options) { o.Source = strings.Repeat("a", 40) }, fleet.Bad, fleet.CodeNotFound, []string{"push it first"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := *w
			sub.t = t
			err := sub.refuse(c.class, c.code, c.says, c.change)
			if strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "a passphrase") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
	w.release()
}

func TestCommitThatIsNotOnTheBranch(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	main := w.do("git", "rev-parse", "HEAD")
	w.do("git", "checkout", "--quiet", "-b", "feature")
	feature := w.change("Feature")
	w.refuse(fleet.Bad, fleet.CodeNotFound, []string{"is not on the branch main"}, func(o *release.Options) { o.Source = feature })
	w.do("git", "push", "--quiet", "origin", "feature:main")
	if out := w.release(func(o *release.Options) { o.Source = main }); out.Manifest.Source.Commit != main {
		t.Errorf("released %+v", out.Manifest.Source)
	}
	w.release() // the tip, later

	// Now the older commit is not a descendant, and neither is a main that was rewritten.
	w.refuse(fleet.Bad, fleet.CodeNotDescendant, []string{"does not descend from"}, func(o *release.Options) { o.Source = main })
	w.do("git", "checkout", "--quiet", "main")
	w.do("git", "commit", "--quiet", "--allow-empty", "-m", "Rewritten")
	w.do("git", "push", "--quiet", "--force", "origin", "main")
	w.refuse(fleet.Bad, fleet.CodeNotDescendant, []string{"main was rewritten"})
}

// TestUntrustedRelease: what others wrote to the release branch is neither built on nor overwritten.
func TestUntrustedRelease(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	first := w.release()
	w.change("Second")
	second := w.release()
	w.change("Third")
	restore := func() {
		w.do("git", "push", "--quiet", "--force", "origin", second.Release.Commit+":refs/heads/release")
	}
	w.do("git", "fetch", "--quiet", "--tags", "origin", "release")

	w.do("git", "push", "--quiet", "--force", "origin", first.Release.Commit+":refs/heads/release")
	w.refuse(fleet.Bad, fleet.CodeForcePushed, []string{"cannot be built on", "release-2", "git push --force-with-lease"})

	w.do("git", "push", "--quiet", "--force", "origin", "main:refs/heads/release")
	w.refuse(fleet.Bad, fleet.CodeSignature, []string{"release-2"})
	restore()

	other := filepath.Join(w.dir, "other")
	w.keygen("other")
	w.byHand(second.Manifest, 3, other)
	w.refuse(fleet.Bad, fleet.CodeSignature, []string{"cannot be built on"})
	restore()

	// A true tag under a false name is worth nothing, and the release goes on.
	w.do("git", "push", "--quiet", "origin", first.Release.Tag+":refs/tags/release-9")
	w.refuse(fleet.Bad, fleet.CodeUnknownKey, nil, func(o *release.Options) { o.SigningKey = filepath.Join(w.dir, "joker") })
	signers := filepath.Join(w.dir, "both-signers")
	var both []byte
	for _, k := range []string{"joker.pub", "release.pub"} {
		pub, err := os.ReadFile(filepath.Join(w.dir, k))
		w.must(err)
		both = append(append(both, "garrison "...), pub...)
	}
	w.must(os.WriteFile(signers, both, 0o600))
	w.key = filepath.Join(w.dir, "joker") // a new key follows the old one
	if out := w.release(func(o *release.Options) { o.AllowedSigners = signers }); out.Release.Number != 4 {
		t.Errorf("%+v", out.Release)
	}
}

func TestBusy(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	var inner []error
	w.release(func(o *release.Options) {
		o.Cache = w.pushTo(w.cache.CacheURL(), "push-token", func() error {
			_, run := release.Run(t.Context(), w.options())
			_, plan := release.Plan(t.Context(), release.PlanOptions{Options: w.options()})
			_, check := release.Check(t.Context(), release.CheckOptions{Repo: w.repo, Nix: w.nix})
			_, look := release.Secrets(t.Context(), w.options(), "")
			inner = []error{run, plan, check, look}
			return nil
		})
	})
	if len(inner) != 4 {
		t.Fatal("nothing was tried meanwhile")
	}
	for _, err := range inner {
		w.wantError(err, fleet.Transient, fleet.CodeBusy, "another garrison is at work")
	}

	w.repo.Dir = filepath.Join(w.dir, "nowhere")
	w.refuse(fleet.Local, fleet.CodeState, []string{"cannot write to"})
	if held, err := durable.Held(filepath.Join(w.dir, "ci.git", "garrison.lock")); held || err != nil {
		t.Errorf("the lock is left: %v, %v", held, err)
	}
}

// TestRace: somebody publishes between our fetch and our push. One wins; the other says so, and can be run again.
func TestRace(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	older := w.do("git", "rev-parse", "HEAD")
	newer := w.change("Newer")
	var won release.Outcome
	racing := func(o *release.Options) {
		o.Source = newer
		o.Cache = w.pushTo(w.cache.CacheURL(), "push-token", func() (err error) {
			won, err = release.Run(t.Context(), w.with(func(o *release.Options) { o.Repo, o.Source = w.newRepo("rival.git"), older }))
			return err
		})
	}
	_, err := release.Run(t.Context(), w.with(racing))
	w.wantError(err, fleet.Transient, fleet.CodeRace, "moved by somebody else", "run it again")
	w.wantWhole(won)
	out := w.release()
	if out.Release.Number != 2 || out.Manifest.Source.Commit != newer || w.parents(out)[0] != won.Release.Commit {
		t.Errorf("%+v", out.Release)
	}
}
