package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/garrison-nix/garrison/internal/ci"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/secret"
)

// patient is a fleet's repository that doctor looks at, here or in a CI job. What several checks need is found out once, by whichever comes first.
type patient struct {
	*app
	doctorFlags
	secrets *ciSecrets
	repo    *git.Repo
	top     string // the work tree; "" in a CI job that has none
	commit  string
	address string // of the remote, to fetch from, with the job's credentials in CI
	pushTo  string // the same, to push to
	needs   bool   // this is a CI job, which must have what it releases with
	config  release.Config
	noGood  error // why garrison.toml cannot be used
	keys    keysFolder
	forge   forge.Config
	isForge bool

	nix   func() (*nix.Nix, error)
	flake func() (*release.Declared, error)
}

func inRepository(ctx context.Context, dir string) bool {
	_, err := git.TopLevel(ctx, dir)
	return err == nil
}

// repositoryInspections are the checks for a repository, or a CI job.
func (a *app) repositoryInspections(ctx context.Context, f doctorFlags) (side string, all []inspection, done func(), err error) {
	event, inCI, err := ci.Read(os.Getenv, openFile)
	if err != nil {
		return "", nil, nil, err
	}
	p := &patient{app: a, doctorFlags: f, needs: inCI && event.Kind != ci.Pull}
	if p.secrets, err = takeSecrets(f.given, event.Kind == ci.Pull, false, a.Err); err != nil {
		return "", nil, nil, err
	}
	temp := ""
	clean := func() {
		p.secrets.close()
		if temp != "" {
			_ = os.RemoveAll(temp) // it only takes room
		}
	}
	if temp, err = p.open(ctx, event); err != nil {
		clean()
		return "", nil, nil, err
	}
	a.Out = p.secrets.hide(a.Out)
	evaluation, stop := context.WithTimeout(ctx, evaluateTime)
	p.nix = sync.OnceValues(func() (*nix.Nix, error) { return nix.Find(evaluation) })
	p.flake = sync.OnceValues(func() (*release.Declared, error) {
		n, err := p.nix()
		if err != nil {
			return nil, err
		}
		return release.DeclaredSecrets(evaluation, release.Options{Repo: p.repo, Remote: p.remote, Source: p.commit, Nix: n, Jobs: p.jobs, EvalMemory: int64(p.memory)})
	})
	side = "repository"
	if inCI {
		side = "ci"
	}
	all = []inspection{
		{"nix", 0, p.lookNix}, {"git", 0, lookGit}, {release.ConfigPath, 0, p.lookConfig},
		{"flake", evaluateTime, p.lookFlake}, {"agents", evaluateTime, p.lookAgents}, {"host keys", evaluateTime, p.lookHostKeys},
		{"secrets", evaluateTime, p.lookSecrets}, {"release key", evaluateTime, p.lookKey}, {"remote", 0, p.lookRemote}, {"push", 0, p.lookPush},
	}
	all = append(all, p.forgeInspections()...)
	all = append(all, p.cacheInspections()...)
	all = append(all, hubInspections(p.hubURL(), tokenFrom(p.secrets.files["GARRISON_HUB_TOKEN"]), "wake")...)
	all = append(all, clockInspections(p.servers())...)
	for n := range all {
		all[n].look = p.named(all[n].look)
	}
	return side, all, func() { stop(); clean() }, nil
}

// open reads what all checks begin with. In a CI job without a repository one is fetched, into a folder that is to be removed.
func (p *patient) open(ctx context.Context, event ci.Event) (temp string, err error) {
	home := forge.Config{Kind: event.Forge.Kind, URL: event.Forge.URL, API: event.Forge.API, Repo: event.Forge.Repo}
	p.repo, err = git.Open(ctx, p.doctorFlags.repo)
	if fleet.CodeOf(err) == fleet.CodeGit && home.Repo != "" {
		temp, err = p.fetch(ctx, event)
	} else if err == nil {
		err = p.openHere(ctx)
	}
	if err != nil {
		return temp, err
	}
	text, err := p.read(release.ConfigPath)
	if err == nil {
		p.config, err = release.ParseConfig(release.ConfigPath, []byte(text))
	}
	if p.noGood = err; err != nil {
		p.config, _ = release.ParseConfig(release.ConfigPath, nil)
	}
	if p.address != "" {
		if p.keys, err = findKeysFolder(p.address, p.top); err != nil {
			return temp, err
		}
	}
	if p.forge, p.isForge = forge.Detect(p.address); home.Repo != "" {
		p.forge, p.isForge = home, true
		p.address, p.pushTo = p.secrets.letIn(p.address, home.Kind, home.URL), p.secrets.letIn(p.pushTo, home.Kind, home.URL)
	}
	if p.secrets.token != "" {
		p.forge.Token = func() (string, error) { return p.secrets.token, nil }
	}
	return temp, nil
}

// openHere is for a repository with a work tree.
func (p *patient) openHere(ctx context.Context) (err error) {
	if p.top, err = git.TopLevel(ctx, p.doctorFlags.repo); err != nil {
		return err
	}
	if p.commit, _, err = git.WorkTree(ctx, p.top); err != nil {
		return err
	}
	if p.address, err = p.repo.RemoteURL(ctx, p.remote, false); err == nil {
		p.pushTo, err = p.repo.RemoteURL(ctx, p.remote, true)
	}
	return err
}

// fetch gets the repository that a CI job is about.
func (p *patient) fetch(ctx context.Context, event ci.Event) (temp string, err error) {
	if temp, err = os.MkdirTemp("", "garrison-doctor-"); err != nil {
		return "", err
	}
	if p.repo, err = git.Init(ctx, filepath.Join(temp, "fleet.git")); err != nil {
		return temp, err
	}
	p.address = event.Forge.CloneURL()
	p.pushTo = p.address
	if err := p.repo.Fetch(ctx, p.secrets.letIn(p.address, event.Forge.Kind, event.Forge.URL), "+refs/heads/*:refs/heads/*"); err != nil {
		return temp, err
	}
	rev := cmp.Or(event.Commit, event.Ref, "refs/heads/main")
	commit, there, err := p.repo.Resolve(ctx, rev+"^{commit}")
	if err == nil && !there {
		err = fleet.Errorf(fleet.Bad, fleet.CodeNotFound, "%s does not have %s", git.Redact(p.address), rev).WithHint("push it first")
	}
	p.commit = commit
	return temp, err
}

// read is a file of the work tree, or of the commit where there is none; "" for one that is not there.
func (p *patient) read(path string) (string, error) {
	if p.top != "" {
		return readConf(filepath.Join(p.top, path))
	}
	data, _, err := p.repo.ReadFile(context.Background(), p.commit, path)
	return string(data), err
}

// named calls files that stand for what the environment gave by the variable's name.
func (p *patient) named(look func(context.Context) diagnosis) func(context.Context) diagnosis {
	var names []string
	for env, file := range p.secrets.files {
		if strings.HasPrefix(file, "/proc/") {
			names = append(names, file, env)
		}
	}
	r := strings.NewReplacer(names...)
	return func(ctx context.Context) diagnosis {
		d := look(ctx)
		d.Seen, d.Remedy = r.Replace(d.Seen), r.Replace(d.Remedy)
		return d
	}
}

func openFile(name string) (io.ReadCloser, error) { return os.Open(name) }

func (p *patient) hubURL() string {
	return cmp.Or(p.doctorFlags.hub, os.Getenv("GARRISON_HUB"), p.config.Hub.URL)
}

// servers are the web servers that this side speaks with; their clocks are compared with ours.
func (p *patient) servers() (list []string) {
	if p.isForge {
		list = append(list, p.forge.URL)
	}
	if strings.Contains(p.config.Cache.URL, "http") {
		list = append(list, p.config.Cache.URL[strings.Index(p.config.Cache.URL, "http"):])
	}
	return append(list, p.hubURL())
}

func (p *patient) lookNix(ctx context.Context) diagnosis {
	n, err := p.nix()
	if err != nil {
		return because(broken, err, "install Nix 2.8 or newer")
	}
	return nixSettings(ctx, n)
}

// nixSettings looks at what builds and evaluations depend on.
func nixSettings(ctx context.Context, n *nix.Nix) diagnosis {
	s, err := n.Settings(ctx)
	switch {
	case err != nil:
		return because(broken, err, "nix config show says why")
	case s["sandbox"] == "false":
		return ill(doubt, "set sandbox = true in nix.conf (NixOS: nix.settings.sandbox = true)", "Nix %s builds without a sandbox: what is built may depend on this machine", n.Version)
	case !slices.Contains(strings.Fields(s["experimental-features"]), "flakes"):
		return ill(doubt, "set experimental-features = nix-command flakes in nix.conf", "Nix %s, in a sandbox; flakes are not enabled but by Garrison itself", n.Version)
	}
	return well("Nix %s, in a sandbox, with flakes", n.Version)
}

func lookGit(ctx context.Context) diagnosis {
	v, err := git.Version(ctx)
	if err != nil {
		return because(broken, err, "install git "+git.Oldest+" or newer")
	}
	return gitVersion(v)
}

func gitVersion(v string) diagnosis {
	var have, need [2]int
	_, err := fmt.Sscanf(v, "%d.%d", &have[0], &have[1])
	_, _ = fmt.Sscanf(git.Oldest, "%d.%d", &need[0], &need[1])
	if err != nil || slices.Compare(have[:], need[:]) < 0 {
		return ill(broken, "install git "+git.Oldest+" or newer", "git %s cannot sign and verify by SSH keys", v)
	}
	return well("git %s", v)
}

func (p *patient) lookConfig(context.Context) diagnosis {
	if p.noGood != nil {
		return because(broken, p.noGood, "mend garrison.toml")
	}
	if text, err := p.read(release.ConfigPath); err == nil && text == "" {
		return ill(doubt, "garrison init", "there is none: everything has its default")
	}
	return well("source branch %s, release branch %s", p.config.Branches.Source, p.config.Branches.Release)
}

func (p *patient) lookFlake(context.Context) diagnosis {
	if p.noGood != nil {
		return notLookedAt(release.ConfigPath)
	}
	d, err := p.flake()
	if err != nil {
		return because(broken, err, "garrison check")
	}
	for _, h := range p.config.Hosts.Manual {
		if !slices.Contains(d.Names, h) {
			return ill(broken, "correct hosts.manual in garrison.toml", "garrison.toml names %s, which the flake does not have", h)
		}
	}
	return well("%d hosts: %s", len(d.Names), strings.Join(d.Names, ", "))
}

// followed are the hosts that agents deploy.
func (p *patient) followed(d *release.Declared) []string {
	return slices.DeleteFunc(slices.Clone(d.Names), func(h string) bool { return slices.Contains(p.config.Hosts.Manual, h) })
}

func (p *patient) lookAgents(context.Context) diagnosis {
	d, err := p.flake()
	if err != nil {
		return notLookedAt("flake")
	}
	var without, old []string
	for _, h := range p.followed(d) {
		if !d.Agents[h].Enable {
			without = append(without, h)
		} else if !d.Agents[h].Rings {
			old = append(old, h)
		}
	}
	if rings := p.config.RingNames(); len(rings) > 0 && len(old) > 0 {
		return ill(broken, "nix flake update garrison (or what the flake calls that input), and release it before there are rings", "the agents of %s do not know rings, and would take each release at once", strings.Join(old, ", "))
	}
	if len(without) > 0 {
		return ill(doubt, "garrison init writes a patch for flake.nix; or leave them out: hosts.manual in garrison.toml", "services.garrison.agent is not enabled on %s", strings.Join(without, ", "))
	}
	return well("services.garrison.agent is enabled on %s", strings.Join(p.followed(d), ", "))
}

func (p *patient) lookHostKeys(context.Context) diagnosis {
	d, err := p.flake()
	if err != nil {
		return notLookedAt("flake")
	}
	wanting := map[string]bool{}
	for file, hosts := range d.Hosts {
		for _, h := range hosts {
			if len(d.HostKeys[h]) == 0 {
				wanting[h] = true
			}
			for _, k := range d.HostKeys[h] {
				if _, _, err := secret.ParseRecipient(k); err != nil {
					return ill(broken, "garrison secrets scan-host "+h+" --write", "the public key of %s, which declares %s, cannot be used: %s", h, file, err)
				}
			}
		}
	}
	if missing := slices.Sorted(maps.Keys(wanting)); len(missing) > 0 {
		return ill(broken, "garrison secrets scan-host "+missing[0]+" --write", "no public key is known of %s, which declare secrets", strings.Join(missing, ", "))
	}
	return well("known of all hosts that declare secrets")
}

func (p *patient) lookSecrets(ctx context.Context) diagnosis {
	d, err := p.flake()
	if err != nil {
		return notLookedAt("flake")
	}
	if len(d.Hosts) == 0 {
		return well("hosts declare none")
	}
	identity := p.secrets.files["GARRISON_IDENTITY"]
	if identity == "" {
		if len(d.Editors()) == 0 {
			return ill(broken, "name them in garrison.toml: secrets.editors = [\"age1…\"]", "%d files are declared, and nothing says who may read them on %s", len(d.Hosts), p.config.Branches.Source)
		}
		return ill(p.unless(p.needs), "garrison doctor --identity FILE; in CI: the secret GARRISON_IDENTITY", "%d files are declared; whether CI can read them was not tried: there is no private key here", len(d.Hosts))
	}
	ids, err := secret.LoadIdentities(identity)
	if err != nil {
		return because(broken, err, "give --identity the private key of an editor")
	}
	blobs, err := p.repo.Blobs(ctx, p.commit)
	if err != nil {
		return because(broken, err, "git fsck")
	}
	var closed []string
	for _, file := range slices.Sorted(maps.Keys(d.Hosts)) {
		data, err := p.repo.ReadBlob(ctx, blobs[file])
		if err != nil {
			return because(broken, err, "git add "+file)
		}
		opened, err := secret.Open(file, data, ids)
		if err != nil {
			closed = append(closed, file)
			continue
		}
		opened.Wipe()
	}
	if len(closed) > 0 {
		return ill(broken, "an editor who can runs: garrison secrets rekey --identity THEIRS", "the private key given cannot read %d of %d files: %s", len(closed), len(d.Hosts), strings.Join(closed, ", "))
	}
	return well("the private key given reads all %d files", len(d.Hosts))
}

// releaseKey is the public half of the key that signs releases, and where it is from.
func (p *patient) releaseKey() (public, from string, err error) {
	file := p.secrets.files["GARRISON_KEY"]
	if file == "" && p.keys != "" {
		file = p.keys.file(releaseKeyFile)
	}
	fi, err := os.Stat(file)
	if err != nil {
		return "", file, err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return "", file, fleet.Errorf(fleet.Local, fleet.CodeKey, "%s can be read by others (mode %04o)", file, fi.Mode().Perm()).WithHint("chmod 600 %s; if others were here, make another key", file)
	}
	data, err := readSmall(file)
	if err != nil {
		return "", file, err
	}
	public, err = publicHalf(data)
	return public, file, err
}

// publicHalf never repeats what it is given.
func publicHalf(private []byte) (string, error) {
	if !strings.HasSuffix(string(private), "\n") {
		private = append(slices.Clip(private), '\n')
	}
	k, err := ssh.ParsePrivateKey(private)
	if err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeKey, "it is no OpenSSH private key without a passphrase").WithHint("ssh-keygen -t ed25519 -N '' -f release-key")
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.PublicKey()))), nil
}

func (p *patient) lookKey(context.Context) diagnosis {
	public, from, err := p.releaseKey()
	switch {
	case os.IsNotExist(err) && !p.needs:
		return ill(doubt, "garrison init makes one; or give --key", "there is none at %s: whether hosts trust it was not looked at", orElse(from, "any place that is known"))
	case os.IsNotExist(err):
		return ill(broken, "set the secret GARRISON_KEY, and hand it to the job", "this job has no key to sign with")
	case err != nil:
		return because(broken, err, "give --key a private key that can be read")
	}
	d, err := p.flake()
	if err != nil {
		return notLookedAt("flake")
	}
	word := strings.Fields(public)[1]
	var not []string
	trusted := 0
	for _, h := range p.followed(d) {
		switch signers := d.Agents[h].Signers; {
		case !d.Agents[h].Enable || signers == "":
		case slices.Contains(strings.Fields(signers), word):
			trusted++
		default:
			not = append(not, h)
		}
	}
	switch {
	case len(not) > 0:
		return ill(broken, fmt.Sprintf("add %q to services.garrison.agent.allowedSigners, and release that signed by the old key", public), "the key in %s is not among those that %s trust", from, strings.Join(not, ", "))
	case trusted == 0:
		return ill(doubt, fmt.Sprintf("set services.garrison.agent.allowedSigners = [ %q ]", public), "the key in %s can be used; the flake does not say of any host whom it trusts", from)
	}
	return well("the key in %s is trusted by %d hosts", from, trusted)
}

func (p *patient) lookRemote(ctx context.Context) diagnosis {
	if p.address == "" {
		return ill(broken, "git remote add "+p.remote+" URL", "the repository has no remote %s", p.remote)
	}
	tags, err := git.ListTags(ctx, git.Remote{URL: p.address}, fleet.TagPrefix)
	if err != nil {
		return because(broken, err, "git ls-remote "+p.remote)
	}
	return well("%s answers; it has %d tags of releases", git.Redact(p.address), len(tags))
}

func (p *patient) lookPush(ctx context.Context) diagnosis {
	if p.address == "" {
		return notLookedAt("remote")
	}
	err := p.repo.MayPush(ctx, p.pushTo, p.commit)
	switch {
	case err != nil && !p.needs && fleet.CodeOf(err) == fleet.CodeUnauthorized:
		return because(doubt, err, "only CI need be able to")
	case err != nil:
		return because(broken, err, "git push --dry-run "+p.remote)
	}
	return well("%s would take a push", git.Redact(p.pushTo))
}
