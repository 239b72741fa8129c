package agent

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
)

// What build.when can be.
const (
	buildAuto  = "auto"
	buildNever = "never"
)

const (
	// buildRef leads to the commit that is evaluated, as nix wants it.
	buildRef = "refs/garrison/building"
	// maxBuildLog bounds what is kept of what builders say, in bytes.
	maxBuildLog = 16 << 20
	probeTime   = 10 * time.Second
)

// obtain brings a target's closure into the store: from the caches or, where CI did not build it or they lack a part of it, by
// building it here.
func (a *Agent) obtain(ctx context.Context, target fleet.Target, s nix.Substitution) error {
	err := a.named(ctx, a.nix.Substitute(ctx, target.OutPath, s), s)
	if err == nil || ctx.Err() != nil || fleet.ClassOf(err) != fleet.Transient || target.Release.Commit == "" {
		return err
	}
	if a.Config.Build.When == buildNever {
		if !target.Built {
			return fleet.Errorf(fleet.Local, fleet.CodeSubstitute, "CI did not build this host's system, no cache has it, and build.when = %q", buildNever).
				WithHint("push it to a cache from a machine that can build it, or set build.when to %q in the agent's configuration", buildAuto).WithCause(err)
		}
		return err
	}
	up, away := a.answering(ctx)
	if target.Built && away != "" && time.Since(target.At) < time.Duration(a.Config.Build.After) {
		return fleet.Errorf(fleet.Transient, fleet.CodeSubstitute, "cannot fetch %s: the cache %s does not answer", target.OutPath, away).
			WithHint("it is tried again; after %s the host builds the system itself", time.Duration(a.Config.Build.After)).WithCause(err)
	}
	s.Caches = up // Nix up to 2.8 aborts over one that is down, with fallback as well
	return a.build(ctx, target, s, err)
}

// answering tells the caches that answer from those that do not, of which it names one. Only when all of them answer it is
// known that they lack something.
func (a *Agent) answering(ctx context.Context) (up []string, away string) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	for _, c := range a.Config.Caches {
		if strings.HasPrefix(c.URL, "http") && !answers(ctx, c.URL) {
			away = c.URL
			continue
		}
		up = append(up, c.URL)
	}
	return up, away
}

func answers(ctx context.Context, cache string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(cache, "/")+"/nix-cache-info", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode < http.StatusInternalServerError
}

// build evaluates this host at the release's commit and builds it. What comes out must be what the signed release says.
func (a *Agent) build(ctx context.Context, target fleet.Target, s nix.Substitution, why error) error {
	reason := "no cache has all of it"
	if !target.Built {
		reason = "CI could not build for it"
	}
	a.Log.Info("building this host's system here", "stage", fleet.Staging, "release", target.Release.Number, "storePath", target.OutPath, "reason", reason, "err", why)
	h, err := a.evaluate(ctx, target)
	if err != nil {
		return err
	}
	if h.OutPath != target.OutPath {
		return fleet.Errorf(fleet.Bad, fleet.CodeEvaluate, "this host's system is %s by evaluation here, and %s by the release", h.OutPath, target.OutPath).
			WithHint("the flake is not pure, or CI and this host have versions of Nix that differ in what they compute")
	}
	log, err := os.OpenFile(a.buildLog(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return stateError(err)
	}
	defer log.Close()
	builder := *a.nix
	builder.Log = &bounded{to: log, left: maxBuildLog}
	s.Timeout = time.Duration(a.Config.Build.Time)
	if err := builder.BuildHere(ctx, h.DrvPath, s); err != nil {
		return err
	}
	a.pusher.add(a.Log, target.OutPath)
	return nil
}

// evaluate evaluates this host at the release's commit, as CI did: with submodules and what git-lfs keeps, if so. It may take as long as a build.
func (a *Agent) evaluate(ctx context.Context, target fleet.Target) (nix.Host, error) {
	most := time.Duration(a.Config.Build.Time)
	ctx, cancel := context.WithTimeoutCause(ctx, most,
		fleet.Errorf(fleet.Bad, fleet.CodeTimeout, "evaluating this host took longer than %s", most).WithHint("allow more by build.time in the agent's configuration, and try again: garrison retry"))
	defer cancel()
	commit := target.Release.Commit
	if err := a.looker.repo.UpdateRef(ctx, buildRef, commit); err != nil {
		return nix.Host{}, err
	}
	source, err := a.checkout(ctx, commit, target.Submodules, target.LFS)
	if err != nil {
		return nix.Host{}, err
	}
	defer source.Close()
	evaluator := *a.nix
	evaluator.Env = source.Env
	flake := nix.Flake{GitDir: source.Dir, Ref: buildRef, Commit: commit, Dir: target.Flake, Submodules: target.Submodules, LFS: source.LFS, LFSHash: source.LFSHash}
	if flake.LFS != "" {
		if _, err := evaluator.Contents(ctx, flake, ""); err != nil { // this Nix would take pointers for contents
			return nix.Host{}, err
		}
	}
	return evaluator.Host(ctx, flake, nix.NixOS, a.Config.Host)
}

// checkout makes what nix is to read of a commit, with the help of the first remote that has what it needs; those that fail now come last.
func (a *Agent) checkout(ctx context.Context, commit string, submodules, lfs bool) (*git.Checkout, error) {
	repo := a.looker.repo
	var pointers map[string]string
	if lfs {
		files, err := repo.Blobs(ctx, commit)
		if err != nil {
			return nil, err
		}
		if pointers, err = repo.Pointers(ctx, commit, files); err != nil {
			return nil, err
		}
	}
	var why error
	seen := a.Status().Remotes
	for _, failing := range []bool{false, true} {
		for _, m := range a.remotes {
			if (seen[m.at].Failure != nil) != failing {
				continue
			}
			c, err := repo.Checkout(ctx, m.Remote, buildRef, commit, submodules, pointers)
			if err == nil || ctx.Err() != nil {
				return c, err
			}
			why = cmp.Or(why, err)
		}
	}
	return nil, why
}

// buildLog is where the log of the last build on this host is.
func (a *Agent) buildLog() string { return filepath.Join(a.Config.StateDir, "build.log") }

// bounded passes on so many bytes and drops the rest.
type bounded struct {
	to   *os.File
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	part := p[:min(len(p), b.left)]
	b.left -= len(part)
	if n, err := b.to.Write(part); err != nil {
		return n, err
	}
	return len(p), nil
}
