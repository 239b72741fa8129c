package nix

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// Build realises derivations, all that can be (a failure of one does not stop the others), and
// keeps their outputs from garbage collection by links in rootDir. When it fails, FailedBuilds tells which.
func (n *Nix) Build(ctx context.Context, drvs []string, rootDir string) error {
	args := append([]string{"--realise", "--keep-going"}, drvs...)
	if rootDir != "" {
		args = append(args, "--add-root", filepath.Join(rootDir, "result"), "--indirect")
	}
	_, err := n.run(ctx, "nix-store", nil, args...)
	return err
}

// BuildAll is Build that tells for each derivation that failed what nix said of it. Its error means that nothing can be said.
// rootDir may be empty: then what is built is not kept from garbage collection.
func (n *Nix) BuildAll(ctx context.Context, drvs []string, rootDir string) (failed map[string]string, err error) {
	if err = n.Build(ctx, drvs, rootDir); err == nil {
		return nil, nil
	}
	if _, ran := proc.ExitCode(err); !ran || ctx.Err() != nil {
		return nil, err
	}
	failed = map[string]string{}
	said := Message(err, maxEvalMessage)
	for _, drv := range drvs {
		outs, qerr := n.run(ctx, "nix-store", nil, "--query", "--outputs", drv)
		if qerr != nil {
			return nil, qerr
		}
		for _, out := range strings.Fields(string(outs)) {
			ok, verr := n.Valid(ctx, out)
			if verr != nil {
				return nil, verr
			}
			if !ok {
				failed[drv] = said
			}
		}
	}
	if len(failed) == 0 {
		return nil, err
	}
	return failed, nil
}

// Substitution says where a closure may come from.
type Substitution struct {
	Caches     []string // URLs, asked besides those of nix.conf
	PublicKeys []string // that one of must have signed each path
	Timeout    time.Duration
	Root       string // link to keep it from garbage collection
}

// Substitute makes path valid by fetching what is missing of its closure; it never builds.
// Errors: CodeSubstitute; class host when the disk is full, else transient: the cache may have it later.
func (n *Nix) Substitute(ctx context.Context, path string, s Substitution) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.Timeout, fleet.Errorf(fleet.Transient, fleet.CodeTimeout, "fetching took longer than %s", s.Timeout))
	defer cancel()
	_, err := n.run(ctx, "nix-store", nil, "--realise", path, "--add-root", s.Root, "--indirect",
		"--max-jobs", "0",
		"--option", "builders", "",
		"--option", "substitute", "true",
		"--option", "extra-substituters", strings.Join(s.Caches, " "),
		"--option", "extra-trusted-public-keys", strings.Join(s.PublicKeys, " "),
		"--option", "require-sigs", "true",
		"--option", "narinfo-cache-negative-ttl", "0",
		"--option", "connect-timeout", "5",
		"--option", "stalled-download-timeout", strconv.Itoa(60))
	if err == nil {
		return nil
	}
	said := proc.Said(err)
	if strings.Contains(said, "No space left on device") {
		return fleet.Errorf(fleet.Local, fleet.CodeSubstitute, "no space left to fetch %s", path).
			WithHint("make room: nix-collect-garbage -d").WithCause(err)
	}
	return fleet.Errorf(fleet.Transient, fleet.CodeSubstitute, "cannot fetch %s from %s", path, strings.Join(s.Caches, ", ")).
		WithHint("is the cache up, does it have the path, and is its key among the agent's?").WithCause(err)
}
