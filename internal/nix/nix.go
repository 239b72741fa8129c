// Package nix is the only package that runs nix: evaluating hosts of a flake,
// building, asking about store paths, substituting, setting profiles.
//
// It speaks to every Nix from 2.8 on by commands that all of them have. Start at Find.
package nix

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/proc"
)

// needed is the oldest Nix that works: major and minor.
var needed = [2]int{2, 8}

// Nix is a Nix found on PATH.
type Nix struct {
	Version string
	// Store is a store URL to work on; empty means the machine's own.
	Store string
	// EvalHeap bounds the heap of one evaluation, in bytes; 0 does not.
	EvalHeap int64
	// MaxStdout bounds what nix prints in answer to one question, in bytes; 0 stands for 512 MiB, half a million paths.
	MaxStdout int
	// Idle has it work when nobody else has use for the processor and the disk.
	Idle bool
	// Env is added to its environment.
	Env []string
	// OnEvent is told how far it is while it builds; may be nil.
	OnEvent func(Event)
	held    *os.File // of a temporary folder's lock
	// Log gets what nix says while it evaluates, builds and fetches; nil drops it.
	Log io.Writer
}

// version is the last word of the first line of nix --version. Others stand before it: "nix (Lix, like Nix) 2.93.3",
// "nix (Determinate Nix 3.8.5) 2.30.2".
var version = regexp.MustCompile(`^[^\n]*?(?:^|[\s])v?([0-9]+)\.([0-9]+)([a-z0-9_.+-]*)\s*(?:\n|$)`)

// Find looks for nix, checks its version, and removes what evaluations that were killed have left. Errors: CodeMissingTool, CodeNixTooOld, both class host.
func Find(ctx context.Context) (*Nix, error) {
	out, err := proc.Run(ctx, proc.Cmd{Program: "nix", Args: []string{"--version"}})
	if err != nil {
		if fleet.CodeOf(err) == fleet.CodeMissingTool {
			return nil, fleet.Errorf(fleet.Local, fleet.CodeMissingTool, "there is no nix here").
				WithHint("install Nix %d.%d or newer, or put it on PATH", needed[0], needed[1]).WithCause(err)
		}
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, fleet.Errorf(fleet.Local, fleet.CodeMissingTool, "nix --version fails").WithCause(err)
	}
	sweep()
	v, err := parseVersion(strings.TrimSpace(string(out)))
	return &Nix{Version: v}, err
}

// parseVersion reads what nix --version says. Errors: CodeNixTooOld.
func parseVersion(said string) (string, error) {
	m := version.FindStringSubmatch(said)
	if m == nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeNixTooOld, "nix --version says %.100q, which names no version", said).
			WithHint("Garrison needs Nix %d.%d or newer", needed[0], needed[1])
	}
	v := m[1] + "." + m[2] + m[3]
	if (&Nix{Version: v}).older(needed) {
		return "", fleet.Errorf(fleet.Local, fleet.CodeNixTooOld, "this is Nix %s, Garrison needs %d.%d or newer", v, needed[0], needed[1]).
			WithHint("upgrade Nix on this machine")
	}
	return v, nil
}

// older says whether this Nix is older than a version.
func (n *Nix) older(than [2]int) bool {
	var v [2]int
	_, _ = fmt.Sscanf(n.Version, "%d.%d", &v[0], &v[1]) // as parseVersion wrote it
	return slices.Compare(v[:], than[:]) < 0
}

// maxStdout is MaxStdout where nothing else was asked for.
const maxStdout = 512 << 20

func (n *Nix) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	global := []string{"--extra-experimental-features", "nix-command flakes"}
	if n.Store != "" {
		global = append(global, "--store", n.Store)
	}
	if program == "nix-env" || program == "nix-store" {
		// the old commands take the same settings, behind the operation
		args = append(args, "--option", "extra-experimental-features", "nix-command flakes")
		if n.Store != "" {
			args = append(args, "--store", n.Store)
		}
	} else {
		args = append(global, args...)
	}
	env := append([]string{"NO_COLOR=1", "LC_ALL=C"}, n.Env...)
	if n.EvalHeap > 0 {
		env = append(env, fmt.Sprintf("GC_MAXIMUM_HEAP_SIZE=%d", n.EvalHeap)) // of the Boehm collector that nix uses
	}
	return proc.Run(ctx, proc.Cmd{Program: program, Args: args, Stderr: n.Log, MaxStdout: cmp.Or(n.MaxStdout, maxStdout), Env: env, Keep: n.held, Idle: n.Idle})
}

// Message is Nix's own complaint in what it said on standard error: from its first line that
// begins with "error:" on, at most maxBytes; all of it when there is no such line.
func Message(err error, maxBytes int) string {
	said := proc.Redact(proc.Said(err))
	if i := strings.Index("\n"+said, "\nerror:"); i >= 0 {
		said = said[i:]
	}
	said = strings.TrimSpace(said)
	if said == "" && err != nil {
		said = err.Error()
	}
	return shorten(said, maxBytes)
}

// shorten keeps the end of s.
func shorten(s string, maxBytes int) string {
	if len(s) > maxBytes {
		s = "…" + strings.ToValidUTF8(s[len(s)-maxBytes:], "")
	}
	return s
}

// Closure asks about paths and all that they refer to, each once, sorted by path.
// A path that is not valid is an error.
func (n *Nix) Closure(ctx context.Context, paths []string) ([]nar.PathInfo, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	quiet := *n
	quiet.Log = nil // it warns of the form of its output, which we read either way
	args := append([]string{"path-info", "--recursive", "--json"}, paths...)
	out, err := quiet.run(ctx, "nix", args...)
	if strings.Contains(proc.Said(err), "--json-format") { // announced to become mandatory; older ones do not know it
		out, err = quiet.run(ctx, "nix", append(args, "--json-format", "1")...)
	}
	if err == nil || ctx.Err() != nil {
		var infos []nar.PathInfo
		if err == nil {
			infos, err = parsePathInfo(out)
		}
		return infos, err
	}
	return nil, fleet.Errorf(fleet.Local, fleet.CodeBuild, "cannot ask Nix about what was built: %s", Message(err, maxEvalMessage))
}

// pathInfo is one entry of nix path-info --json.
type pathInfo struct {
	Path       string   `json:"path"`
	NarHash    string   `json:"narHash"`
	NarSize    int64    `json:"narSize"`
	References []string `json:"references"`
	Deriver    string   `json:"deriver"`
	CA         string   `json:"ca"`
	Signatures []string `json:"signatures"`
}

// parsePathInfo reads both forms: up to 2.18 a list, later an object by path in which null means not valid.
func parsePathInfo(out []byte) ([]nar.PathInfo, error) {
	byPath := map[string]*pathInfo{}
	if out = bytes.TrimSpace(out); bytes.HasPrefix(out, []byte("[")) {
		var list []pathInfo
		if err := json.Unmarshal(out, &list); err != nil {
			return nil, fmt.Errorf("nix path-info: %w", err)
		}
		for _, p := range list {
			byPath[p.Path] = &p
		}
	} else if err := json.Unmarshal(out, &byPath); err != nil {
		return nil, fmt.Errorf("nix path-info: %w", err)
	}
	infos := make([]nar.PathInfo, 0, len(byPath))
	for _, path := range slices.Sorted(maps.Keys(byPath)) {
		p := byPath[path]
		if p == nil || p.NarHash == "" {
			return nil, fmt.Errorf("nix path-info: %s is not valid", path)
		}
		hash, err := nar.ParseHash(p.NarHash)
		if err != nil {
			return nil, fmt.Errorf("nix path-info: %s: %w", path, err)
		}
		infos = append(infos, nar.PathInfo{StorePath: path, NarHash: hash, NarSize: p.NarSize,
			References: p.References, Deriver: p.Deriver, CA: p.CA, Sigs: p.Signatures})
	}
	return infos, nil
}

// storeDir is what every store path begins with.
const storeDir = "/nix/store"

// RealStoreDir is where the files of the store's paths are: storeDir, but for a store that
// Store or NIX_REMOTE puts below a folder ("local?root=DIR", or just an absolute DIR).
func (n *Nix) RealStoreDir() string {
	store := n.Store
	if store == "" {
		store = os.Getenv("NIX_REMOTE")
	}
	kind, query, _ := strings.Cut(store, "?")
	if filepath.IsAbs(kind) {
		return filepath.Join(kind, storeDir)
	}
	params, err := url.ParseQuery(query)
	switch {
	case err != nil || kind != "local":
		return storeDir
	case params.Get("real") != "":
		return params.Get("real")
	}
	return filepath.Join(params.Get("root"), storeDir)
}

// Valid says whether path is in the store, whole. An error means that this could not be found out.
func (n *Nix) Valid(ctx context.Context, path string) (bool, error) {
	if n.Store == "" {
		if _, err := os.Lstat(filepath.Join(n.RealStoreDir(), filepath.Base(path))); os.IsNotExist(err) {
			return false, nil // spares a process in the usual case
		}
	}
	valid, err := n.ValidOf(ctx, []string{path})
	return len(valid) > 0, err
}

// ValidOf returns those of the paths that are in the store, whole.
func (n *Nix) ValidOf(ctx context.Context, paths []string) (valid []string, err error) {
	for some := range slices.Chunk(paths, 1000) { // the kernel bounds what a program is given
		out, err := n.run(ctx, "nix-store", append([]string{"--check-validity", "--print-invalid"}, some...)...)
		if err != nil {
			return nil, err
		}
		invalid := strings.Fields(string(out))
		valid = append(valid, slices.DeleteFunc(slices.Clone(some), func(p string) bool { return slices.Contains(invalid, p) })...)
	}
	return valid, nil
}

// Outputs returns the paths that valid derivations build.
func (n *Nix) Outputs(ctx context.Context, drvs []string) (outputs []string, err error) {
	for some := range slices.Chunk(drvs, 1000) {
		out, err := n.run(ctx, "nix-store", append([]string{"--query", "--outputs"}, some...)...)
		if err != nil {
			return nil, err
		}
		outputs = append(outputs, strings.Fields(string(out))...)
	}
	return outputs, nil
}

// classOf says what becomes of a failure that Nix has no exit status for: its words are all there is.
// otherwise is for those that say nothing of network or machine.
func classOf(err error, otherwise fleet.Class) fleet.Class {
	said := proc.Said(err)
	for _, w := range []struct {
		words string
		class fleet.Class
	}{
		{"No space left on device", fleet.Local},
		{"cannot connect to daemon", fleet.Local},
		{"cannot connect to socket", fleet.Local},
		{"cannot build on '", fleet.Transient}, // a remote builder that is not reached
		{"Failed to find a machine for remote build", fleet.Local},
		{"unable to download '", fleet.Transient},
		{"Could not resolve host", fleet.Transient},
		{"Couldn't resolve host", fleet.Transient},
	} {
		if strings.Contains(said, w.words) {
			return w.class
		}
	}
	return otherwise
}

// SetProfile makes path the newest generation of profile. An unchanged path makes no new one.
func (n *Nix) SetProfile(ctx context.Context, profile, path string) error {
	if _, err := n.run(ctx, "nix-env", "--profile", profile, "--set", path); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeActivate, "cannot set the profile %s to %s", profile, path).
			WithHint("is the disk of /nix full, or read-only?").WithCause(err)
	}
	return nil
}
