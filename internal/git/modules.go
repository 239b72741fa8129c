package git

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// maxModuleDepth bounds submodules of submodules.
const maxModuleDepth = 8

func (r *Repo) setConfig(ctx context.Context, name, value string) error {
	_, err := r.run(ctx, call{args: []string{"config", "--local", "--replace-all", name, value}})
	return err
}

// gathering is the fetching of all submodules of one commit.
type gathering struct {
	root  *Repo
	from  Remote            // the fleet's
	local bool              // the fleet's remote is on this machine: then submodules may be as well
	below string            // the folder with the checkout, which git resolves relative URLs against
	found map[string]string // URL, as git or Nix come to see it → folder of the repository that stands in for it
}

// gather fetches the submodules of commit in repo, and theirs. base is where repo came from, and seen what git and Nix may take that for.
func (g *gathering) gather(ctx context.Context, repo *Repo, commit, within, base string, seen []string, depth int) error {
	modules, err := repo.modules(ctx, commit)
	if err != nil {
		return err
	}
	for _, m := range modules {
		path := within + m.path
		if m.url == "" || depth == maxModuleDepth {
			return fleet.Errorf(fleet.Bad, fleet.CodeGit, "the submodule %s cannot be had: .gitmodules of %.12s has no URL for it, or they are nested without end", path, commit).
				WithHint("mend .gitmodules")
		}
		url := relativeURL(base, m.url)
		dir, err := g.fetch(ctx, path, url, m.commit)
		if err != nil {
			return err
		}
		var names []string
		for _, s := range seen {
			names = append(names, relativeURL(s, m.url))
		}
		for _, n := range names {
			if err := g.standIn(n, dir); err != nil {
				return err
			}
		}
		if err := g.gather(ctx, &Repo{Dir: dir}, m.commit, path+"/", url, names, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// standIn makes dir stand in for a URL. git does not translate what is a path for it.
func (g *gathering) standIn(url, dir string) error {
	if !strings.HasPrefix(url, g.below) {
		g.found[url] = dir
		if strings.HasPrefix(url, "/") {
			g.found["file://"+url] = dir
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(url), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(dir, url); err != nil && !os.IsExist(err) {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot write to %s", url).WithCause(err)
	}
	return nil
}

// fetch brings one commit of a submodule into a repository of its own, unless it is there.
func (g *gathering) fetch(ctx context.Context, path, url, commit string) (dir string, err error) {
	m, err := initAt(ctx, filepath.Join(g.root.Dir, modulesDir, fmt.Sprintf("%x", sha256.Sum256([]byte(url)))[:20]), true)
	if err != nil {
		return "", err
	}
	ref := "refs/heads/garrison-" + commit
	if _, there, err := m.Resolve(ctx, commit+"^{commit}"); err != nil {
		return "", err
	} else if there {
		return m.Dir, m.UpdateRef(ctx, ref, commit)
	}
	// Whatever git was told for the fleet's repository (a key, a header with a token) holds for its submodules too.
	if err := m.setConfig(ctx, "include.path", filepath.Join(g.root.Dir, "config")); err != nil {
		return "", err
	}
	m.fromModules, m.allowFile = true, g.local
	from := g.from.lettingInto(url)
	if err = m.FetchFrom(ctx, from, "+"+commit+":"+ref); err == nil {
		return m.Dir, nil
	}
	// A server that does not give single commits, perhaps.
	all := m.FetchFrom(ctx, from, "+refs/heads/*:refs/garrison/heads/*", "+refs/tags/*:refs/garrison/tags/*")
	if _, there, rerr := m.Resolve(ctx, commit+"^{commit}"); rerr != nil {
		return "", rerr
	} else if there {
		return m.Dir, m.UpdateRef(ctx, ref, commit)
	}
	if all == nil {
		return "", fleet.Errorf(fleet.Bad, fleet.CodeGit, "the submodule %s cannot be had: %s does not have its commit %.12s", path, Redact(url), commit).
			WithHint("push the submodule's commit there").WithCause(redacted(err))
	}
	if ctx.Err() != nil {
		return "", all
	}
	e := fleet.Errorf(fleet.ClassOf(all), fleet.CodeOf(all), "the submodule %s cannot be had from %s", path, Redact(url)).WithCause(all)
	if strings.Contains(proc.Said(all)+all.Error(), "transport 'file' not allowed") {
		e.Class = fleet.Local
		return "", e.WithHint("git does not let submodules name repositories on this machine: if you trust .gitmodules, git config --global protocol.file.allow always")
	}
	return "", e.WithHint("its URL stands in .gitmodules: is it reachable from here, with the credentials that git has here?")
}

// env tells git by its environment to take the fetched repositories for the submodules' URLs.
func (g *gathering) env() []string {
	n, _ := strconv.Atoi(os.Getenv("GIT_CONFIG_COUNT")) // these may be in use
	var env []string
	add := func(name, value string) {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", n, name), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", n, value))
		n++
	}
	add("protocol.file.allow", "always")
	for url, dir := range g.found {
		add("url."+dir+".insteadOf", url)
	}
	return append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", n))
}

// module is a submodule of a commit.
type module struct{ path, url, commit string }

// modules are the submodules of commit; those that .gitmodules does not tell of have no URL.
func (r *Repo) modules(ctx context.Context, commit string) ([]module, error) {
	files, err := r.tree(ctx, commit)
	if err != nil {
		return nil, err
	}
	var list []module
	for path, e := range files {
		if e.mode == "160000" {
			list = append(list, module{path: path, commit: e.id})
		}
	}
	if list == nil || files[".gitmodules"].id == "" {
		return nil, nil // links that no .gitmodules explains are empty folders, for git and Nix alike
	}
	out, err := r.run(ctx, call{args: []string{"config", "--blob", files[".gitmodules"].id, "-z", "--get-regexp", `^submodule\..*\.(path|url)$`}})
	if code, ran := proc.ExitCode(err); err != nil && (!ran || code != 1) {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeGit, ".gitmodules of %.12s cannot be read", commit).WithCause(err)
	}
	paths, urls := map[string]string{}, map[string]string{}
	for entry := range strings.SplitSeq(out, "\x00") {
		key, value, _ := strings.Cut(entry, "\n")
		if name, ok := strings.CutSuffix(key, ".path"); ok {
			paths[strings.TrimSuffix(value, "/")] = name
		} else if name, ok := strings.CutSuffix(key, ".url"); ok {
			urls[name] = value
		}
	}
	var known []module
	for _, m := range list {
		if name, ok := paths[m.path]; ok {
			m.url = urls[name]
			known = append(known, m)
		}
	}
	return known, nil
}

// relativeURL is a submodule's URL as git resolves it: relative to base if it begins with ./ or ../.
func relativeURL(base, url string) string {
	if !strings.HasPrefix(url, "./") && !strings.HasPrefix(url, "../") {
		return url
	}
	base = strings.TrimRight(base, "/")
	for {
		if rest, ok := strings.CutPrefix(url, "./"); ok {
			url = rest
		} else if rest, ok := strings.CutPrefix(url, "../"); ok {
			at := max(strings.LastIndexByte(base, '/'), strings.LastIndexByte(base, ':'))
			if at < 0 {
				return url
			}
			sep := base[at]
			base, url = base[:at], rest
			if sep == ':' && !strings.HasPrefix(url, "../") && !strings.HasPrefix(url, "./") {
				return base + ":" + url
			}
		} else {
			return base + "/" + url
		}
	}
}

// isLocal says whether git reads remote from this machine's disk.
func isLocal(remote string) bool {
	return strings.HasPrefix(remote, "/") || strings.HasPrefix(remote, ".") || strings.HasPrefix(remote, "file://")
}
