package release_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"github.com/garrison-nix/garrison/examples"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

func TestMain(m *testing.M) { os.Exit(nixtest.Main(m)) }

// secrets of the example fleet: which hosts declare each.
var secrets = map[string][]string{
	"punchline": {"joker"}, "ward-key": {"ratched"}, "lair-wifi": {"ratched", "ursula"}, "freeze-ray": {"drhorrible"},
}

// world is the example fleet with an origin, a cache, keys, and a repository in which releases are made.
type world struct {
	t             testing.TB
	dir           string
	origin, clone string
	key           string // the release key's file
	editor        *age.X25519Identity
	nix           *nix.Nix
	cache         *cachetest.Server
	repo          *git.Repo
}

func newWorld(t testing.TB, n *nix.Nix) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), nix: n, cache: cachetest.NewServer(t, nil)}
	w.origin, w.clone, w.key = filepath.Join(w.dir, "origin.git"), filepath.Join(w.dir, "clone"), filepath.Join(w.dir, "release")
	w.do("git", "init", "--quiet", "--bare", "--initial-branch=main", w.origin)
	w.do("git", "clone", "--quiet", w.origin, w.clone)
	w.keygen("release")
	fleetFiles, err := fs.Sub(examples.Fleet, "fleet")
	w.must(err)
	w.must(os.CopyFS(w.clone, fleetFiles))
	w.editor, err = age.GenerateX25519Identity()
	w.must(err)
	w.must(os.WriteFile(filepath.Join(w.dir, "editor"), []byte(w.editor.String()+"\n"), 0o600))
	for _, h := range []string{"ratched", "joker", "ursula", "drhorrible"} {
		w.write("hosts/"+h+"/host.pub", w.keygen(h))
	}
	for name := range secrets {
		w.writeSecret(name, "plain "+name)
	}
	w.push("First")
	w.repo = w.newRepo("ci.git")
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// do runs a program in the clone and returns what it printed.
func (w *world) do(program string, args ...string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), program, args...)
	if _, err := os.Stat(w.clone); err == nil {
		cmd.Dir = w.clone
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// keygen makes the key pair of that name, in place of one that is there, and returns the public half.
func (w *world) keygen(name string) string {
	file := filepath.Join(w.dir, name)
	_ = os.Remove(file)
	w.do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file)
	pub, err := os.ReadFile(file + ".pub")
	w.must(err)
	return string(pub)
}

func (w *world) write(path, text string) {
	w.t.Helper()
	file := filepath.Join(w.clone, path)
	w.must(os.MkdirAll(filepath.Dir(file), 0o755))
	w.must(os.WriteFile(file, []byte(text), 0o644))
}

func (w *world) writeSecret(name, plain string) {
	w.t.Helper()
	w.write("secrets/"+name+".age", w.sealed(plain))
}

// sealed is an age file for the editor.
func (w *world) sealed(plain string) string {
	w.t.Helper()
	var b bytes.Buffer
	to, err := age.Encrypt(&b, w.editor.Recipient())
	w.must(err)
	_, err = io.WriteString(to, plain)
	w.must(errors.Join(err, to.Close()))
	return b.String()
}

// push commits everything and pushes the branch that the clone is on. It returns the commit.
func (w *world) push(subject string) string {
	w.t.Helper()
	w.do("git", "add", "--all")
	w.do("git", "commit", "--quiet", "--allow-empty", "-m", subject)
	w.do("git", "push", "--quiet", "origin", "HEAD")
	return w.do("git", "rev-parse", "HEAD")
}

// change pushes a change that each host sees.
func (w *world) change(text string) string {
	w.t.Helper()
	w.write("gitops-test", text+"\n")
	return w.push(text)
}

func (w *world) newRepo(name string) *git.Repo {
	w.t.Helper()
	r, err := git.Init(w.t.Context(), filepath.Join(w.dir, name))
	w.must(err)
	return r
}

// realStore pushes paths of a store that is not in /nix.
type realStore struct {
	*client.Client
	root string
	fail func() error // asked before each push; may be nil
}

func (r realStore) Push(ctx context.Context, paths []nar.PathInfo, o client.PushOptions) (client.Stats, error) {
	if r.fail != nil {
		if err := r.fail(); err != nil {
			return client.Stats{}, err
		}
	}
	o.RealStoreDir = filepath.Join(r.root, "nix/store")
	return r.Client.Push(ctx, paths, o)
}

func (w *world) options() release.Options {
	return release.Options{
		Repo: w.repo, Remote: w.origin, SigningKey: w.key, Nix: w.nix,
		Identities: func() ([]age.Identity, error) { return []age.Identity{w.editor}, nil },
		Cache:      w.pushTo(w.cache.CacheURL(), cachetest.PushToken, nil),
	}
}

func (w *world) pushTo(url, token string, fail func() error) func(release.Config) (release.Cache, error) {
	return func(release.Config) (release.Cache, error) {
		c, err := client.New(client.Config{URL: url, Token: func() (string, error) { return token, nil }})
		return realStore{c, nixtest.StoreRoot(w.nix), fail}, err
	}
}

// release makes one that must succeed, and looks at all of it.
func (w *world) release(change ...func(*release.Options)) release.Outcome {
	w.t.Helper()
	o := w.options()
	for _, f := range change {
		f(&o)
	}
	out, err := release.Run(w.t.Context(), o)
	if err != nil {
		w.t.Fatalf("the release failed: %v", err)
	}
	w.wantWhole(out)
	return out
}

// refuse makes one that must fail so, and leave the origin as it was.
func (w *world) refuse(class fleet.Class, code fleet.Code, says []string, change ...func(*release.Options)) error {
	w.t.Helper()
	before := w.refs()
	o := w.options()
	for _, f := range change {
		f(&o)
	}
	_, err := release.Run(w.t.Context(), o)
	w.wantError(err, class, code, says...)
	if after := w.refs(); after != before {
		w.t.Errorf("the origin was\n%s\nand is\n%s", before, after)
	}
	return err
}

func (w *world) wantError(err error, class fleet.Class, code fleet.Code, says ...string) {
	w.t.Helper()
	if fleet.CodeOf(err) != code || fleet.ClassOf(err) != class {
		w.t.Fatalf("got code %s, class %s, want %s, %s: %v", fleet.CodeOf(err), fleet.ClassOf(err), code, class, err)
	}
	var e *fleet.Error
	errors.As(err, &e)
	for _, s := range says {
		if !strings.Contains(err.Error()+"\n"+e.Hint, s) {
			w.t.Errorf("the error does not say %q: %v → %s", s, err, e.Hint)
		}
	}
}

// refs are all of the origin's, as bytes.
func (w *world) refs() string {
	return w.do("git", "--git-dir", w.origin, "for-each-ref", "--format=%(objectname) %(refname)")
}

// wantWhole looks at what a release promises, at the origin and in the cache.
func (w *world) wantWhole(out release.Outcome) {
	w.t.Helper()
	ctx := w.t.Context()
	name := fleet.TagName(out.Release.Number)
	tip := w.do("git", "--git-dir", w.origin, "rev-parse", "release")
	if tag := w.do("git", "--git-dir", w.origin, "rev-parse", name); tip != out.Release.Commit || tag != out.Release.Tag {
		w.t.Fatalf("the origin has %s and %s, the outcome is %+v", tip, tag, out.Release)
	}
	signers := filepath.Join(w.dir, "signers")
	pub, err := os.ReadFile(w.key + ".pub")
	w.must(err)
	w.must(os.WriteFile(signers, append([]byte("garrison "), pub...), 0o600))
	origin := &git.Repo{Dir: w.origin}
	w.must(origin.VerifyTag(ctx, out.Release.Tag, signers))
	tag, err := origin.ReadTag(ctx, out.Release.Tag)
	w.must(err)
	m, err := fleet.ParseTagMessage(tag.Message)
	w.must(err)
	if tag.Name != name || tag.Commit != tip || m.Number != out.Release.Number || m.Source.Commit != out.Release.Source.Commit {
		w.t.Errorf("the tag %s of %s has the manifest %+v", tag.Name, tag.Commit, m)
	}
	if !slices.Equal(m.Manual, []string{"drhorrible"}) || len(m.Hosts) != 3 {
		w.t.Errorf("hosts %v, manual %v", m.Hosts, m.Manual)
	}
	w.wantSecrets(tip)
	w.wantInCache(m)
}

// wantSecrets wants each secret of a commit to be readable for its hosts and nobody else.
func (w *world) wantSecrets(commit string) {
	w.t.Helper()
	for name, hosts := range secrets {
		data, ok, err := (&git.Repo{Dir: w.origin}).ReadFile(w.t.Context(), commit, "secrets/"+name+".age")
		if err != nil || !ok {
			w.t.Fatalf("%s: %v, %v", name, ok, err)
		}
		for _, h := range []string{"ratched", "joker", "ursula", "drhorrible"} {
			pem, err := os.ReadFile(filepath.Join(w.dir, h))
			w.must(err)
			id, err := agessh.ParseIdentity(pem)
			w.must(err)
			r, err := age.Decrypt(bytes.NewReader(data), id)
			if slices.Contains(hosts, h) != (err == nil) {
				w.t.Errorf("%s on %s: %v", name, h, err)
			}
			if err == nil {
				plain, err := io.ReadAll(r)
				if err != nil || !strings.HasPrefix(string(plain), "plain "+name) {
					w.t.Errorf("%s on %s is %q, %v", name, h, plain, err)
				}
			}
		}
		if _, err := age.Decrypt(bytes.NewReader(data), w.editor); err == nil {
			w.t.Errorf("%s: the editors can still read it", name)
		}
	}
}

// wantInCache wants the whole closure of each host to be in the cache, and counted right.
func (w *world) wantInCache(m *fleet.Manifest) {
	w.t.Helper()
	c, err := client.New(client.Config{URL: w.cache.CacheURL(), Token: func() (string, error) { return cachetest.PushToken, nil }})
	w.must(err)
	for host, e := range m.Hosts {
		closure, err := w.nix.Closure(w.t.Context(), []string{e.OutPath})
		w.must(err)
		var hashes []string
		var bytes int64
		for _, p := range closure {
			hash, err := nar.HashPart(p.StorePath)
			w.must(err)
			hashes = append(hashes, hash)
			bytes += p.NarSize
		}
		missing, err := c.Missing(w.t.Context(), hashes)
		if err != nil || len(missing) > 0 {
			w.t.Errorf("%s: missing in the cache: %v, %v", host, missing, err)
		}
		if !e.Built || e.ClosurePaths != len(closure) || e.ClosureBytes != bytes || e.System != "x86_64-linux" {
			w.t.Errorf("%s: %+v, its closure has %d paths and %d bytes", host, e, len(closure), bytes)
		}
	}
}
