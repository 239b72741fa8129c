package nix

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// Build realises derivations, all that can be (a failure of one does not stop the others), and
// keeps their outputs from garbage collection by links in rootDir. Errors: CodeBuild, with Nix's words in it;
// class release when a builder failed, else what the machine or the network is to blame for.
func (n *Nix) Build(ctx context.Context, drvs []string, rootDir string) error {
	args := append([]string{"--realise", "--keep-going"}, drvs...)
	if rootDir != "" {
		args = append(args, "--add-root", filepath.Join(rootDir, "result"), "--indirect")
	}
	return n.realise(ctx, args)
}

// realise has nix-store build, and finds out who is to blame when it does not.
func (n *Nix) realise(ctx context.Context, args []string) error {
	progress := &Progress{Log: n.Log, On: n.OnEvent}
	told := *n
	told.Log = progress
	_, err := told.run(ctx, "nix-store", append(args, "--log-format", "internal-json")...)
	if err == nil || ctx.Err() != nil {
		return err
	}
	class := fleet.Local
	if code, ok := proc.ExitCode(err); ok && code >= builderFailed {
		class = fleet.Bad
	}
	said := progress.ErrorText()
	if said == "" {
		said = Message(err, maxBuildMessage)
	}
	return fleet.Errorf(classOf(err, class), fleet.CodeBuild, "%s", shorten(proc.Redact(said), maxBuildMessage))
}

// builderFailed is the least exit status of nix-store --realise that blames a builder: 100 failed, 101 timed out,
// 102 made something else than it promised, 104 not twice the same (nix-store(1)). 1 is anything else.
const builderFailed = 100

// maxBuildMessage bounds what is kept of a failed build's words, in bytes.
const maxBuildMessage = 8 << 10

// Unbuilt are those of the derivations some output of which is not in the store.
func (n *Nix) Unbuilt(ctx context.Context, drvs []string) (map[string]bool, error) {
	missing := map[string]bool{}
	for _, drv := range drvs {
		outs, err := n.run(ctx, "nix-store", "--query", "--outputs", drv)
		if err != nil {
			return nil, err
		}
		for _, out := range strings.Fields(string(outs)) {
			ok, err := n.Valid(ctx, out)
			if err != nil {
				return nil, err
			}
			if !ok {
				missing[drv] = true
			}
		}
	}
	return missing, nil
}

// Substitution says where a closure may come from.
type Substitution struct {
	Caches     []string // URLs, asked besides those of nix.conf
	PublicKeys []string // that one of must have signed each path
	Timeout    time.Duration
	Root       string // link to keep it from garbage collection
	Rate       int64  // of the network that Substitute takes at most, in bytes a second; 0 is no bound. What nix reads of files, or a daemon fetches for it, has none
}

// args realise a path or a derivation, with what can be had from caches.
func (s Substitution) args(path string) []string {
	return []string{"--realise", path, "--add-root", s.Root, "--indirect",
		"--option", "substitute", "true",
		"--option", "extra-substituters", strings.Join(s.Caches, " "),
		"--option", "extra-trusted-public-keys", strings.Join(s.PublicKeys, " "),
		"--option", "require-sigs", "true",
		"--option", "narinfo-cache-negative-ttl", "0",
		"--option", "narinfo-cache-positive-ttl", "0", // a cache that was mended is believed at once
		"--option", "connect-timeout", "5",
		"--option", "stalled-download-timeout", "60"}
}

// BuildHere realises one derivation, and builds what caches do not have or do not give. Errors: CodeBuild as of Build; CodeTimeout,
// class release, when it took longer than s.Timeout.
func (n *Nix) BuildHere(parent context.Context, drv string, s Substitution) error {
	ctx, cancel := context.WithTimeoutCause(parent, s.Timeout,
		fleet.Errorf(fleet.Bad, fleet.CodeTimeout, "building took longer than %s", s.Timeout).WithHint("allow more by build.time in the agent's configuration, and try again: garrison retry"))
	defer cancel()
	return n.realise(ctx, append(s.args(drv), "--option", "fallback", "true"))
}

// Untrusted is the cause of an error of Substitute: a cache has Path, and no key that is trusted signed it.
type Untrusted struct {
	Path string
	Said error // of nix
}

// Error is what nix said.
func (u *Untrusted) Error() string { return u.Said.Error() }

// Unwrap returns it.
func (u *Untrusted) Unwrap() error { return u.Said }

// untrusted finds out whether nix was content with no signature of a path, of those that it wanted for path; nil if it was.
func untrusted(err error, path string) *Untrusted {
	for line := range strings.Lines(proc.Said(err)) {
		for _, words := range []string{"does not have a valid signature", "not signed by any of the keys"} { // up to 2.8, and later
			if strings.Contains(line, words) {
				if _, of, found := strings.Cut(line, "'/nix/store/"); found {
					of, _, _ = strings.Cut(of, "'")
					path = "/nix/store/" + of
				}
				return &Untrusted{Path: path, Said: err}
			}
		}
	}
	return nil
}

// Substitute makes path valid by fetching what is missing of its closure; it never builds.
// Errors: CodeSubstitute; class host when the disk is full or what a cache has is signed by nobody who is trusted, else transient: the cache may have it later.
func (n *Nix) Substitute(parent context.Context, path string, s Substitution) error {
	ctx, cancel := context.WithTimeoutCause(parent, s.Timeout, fleet.Errorf(fleet.Transient, fleet.CodeTimeout, "fetching took longer than %s", s.Timeout))
	defer cancel()
	nix, end := *n, func() error { return nil }
	if s.Rate > 0 {
		var env []string
		var err error
		if env, end, err = throttled(ctx, s.Rate, http.ProxyFromEnvironment); err != nil {
			return fleet.Errorf(fleet.Local, fleet.CodeSubstitute, "cannot listen on loopback, to fetch slowly through that").WithCause(err)
		}
		nix.Env = slices.Concat(n.Env, env)
	}
	_, err := nix.run(ctx, "nix-store", append(s.args(path), "--max-jobs", "0", "--option", "builders", "")...)
	unreached := end()
	if err == nil || parent.Err() != nil {
		return err
	}
	if strings.Contains(proc.Said(err), "No space left on device") {
		return fleet.Errorf(fleet.Local, fleet.CodeSubstitute, "no space left to fetch %s", path).
			WithHint("make room: nix-collect-garbage -d").WithCause(err)
	}
	if u := untrusted(err, path); u != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeSubstitute, "a cache has %s, signed by a key that is not trusted here", u.Path).
			WithHint("its public key must be among the agent's caches, or trusted-public-keys of nix.conf").WithCause(u)
	}
	return fleet.Errorf(fleet.Transient, fleet.CodeSubstitute, "cannot fetch %s from %s", path, proc.Redact(strings.Join(s.Caches, ", "))).
		WithHint("is the cache up, does it have the path, and is its key among the agent's?").WithCause(errors.Join(err, unreached))
}
