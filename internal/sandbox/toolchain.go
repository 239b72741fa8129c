package sandbox

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// DefaultTools are the machine's programs that hosts need.
var DefaultTools = []string{
	"nix", "nix-store", "git", "ssh-keygen", "age", "busybox",
	"sh", "env", "cat", "cp", "mv", "ln", "rm", "ls", "mkdir", "chmod", "chown", "readlink", "dirname", "sync", "sleep", "cmp", "flock",
}

const storeDir = "/nix/store/"

// systemPath is where programs are on a machine that keeps them in /usr.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Toolchain says where the machine keeps the programs that hosts need. Those in /usr
// hosts see there; those in /nix/store are copied to each host's own store, with what
// they refer to and nothing else, and valid there.
type Toolchain struct {
	Path    []string // folders of programs in the store, for PATH
	Roots   []string // store paths whose closures hosts need
	Busybox string   // a busybox without dynamic libraries, or one in the store

	prepared string // a root whose store holds the closures; "" when there are none
}

// FindToolchain looks the programs up in PATH. It fails with CodeMissingTool, naming
// all that are missing.
func FindToolchain(tools []string) (*Toolchain, error) {
	t := &Toolchain{}
	var missing []string
	for _, tool := range tools {
		program, err := exec.LookPath(tool)
		if err != nil {
			missing = append(missing, tool)
			continue
		}
		if err := t.add(tool, program); err != nil {
			return nil, err
		}
	}
	if len(missing) > 0 {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeMissingTool, "hosts need programs that are not in PATH: %s",
			strings.Join(missing, ", ")).WithHint("scripts/setup installs them on Debian")
	}
	for _, program := range []string{"/bin/sh", "/usr/bin/env"} { // what scripts name by path
		if exists(program) {
			if err := t.add("", program); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

// add follows a program's links and notes the store paths on the way.
func (t *Toolchain) add(tool, program string) error {
	real, err := filepath.EvalSymlinks(program)
	if err != nil {
		return err
	}
	if tool == "busybox" {
		t.Busybox = real
	}
	root, ok := storePathOf(real)
	if !ok {
		return nil
	}
	if !slices.Contains(t.Roots, root) {
		t.Roots = append(t.Roots, root)
	}
	if tool == "" {
		return nil
	}
	dir := filepath.Dir(real)
	if !exists(filepath.Join(dir, tool)) {
		return fleet.Errorf(fleet.Local, fleet.CodeMissingTool, "%s is a link to %s, beside which there is no %s", program, real, tool)
	}
	if !slices.Contains(t.Path, dir) {
		t.Path = append(t.Path, dir)
	}
	return nil
}

func storePathOf(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, storeDir)
	if !ok {
		return "", false
	}
	name, _, _ := strings.Cut(rest, "/")
	return storeDir + name, true
}

// SearchPath is PATH in a host.
func (t *Toolchain) SearchPath() string {
	return strings.Join(append(append([]string{binDir}, t.Path...), systemPath), ":")
}

// prepare copies the closures of the roots into a store under dir, once for all hosts.
func (t *Toolchain) prepare(ctx context.Context, dir string) error {
	if len(t.Roots) == 0 {
		return nil
	}
	args := append([]string{"copy", "--extra-experimental-features", "nix-command", "--no-check-sigs",
		"--to", "local?root=" + dir}, t.Roots...)
	if out, err := exec.CommandContext(ctx, "nix", args...).CombinedOutput(); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeInternal, "cannot copy the programs in /nix/store for the hosts: %s",
			strings.TrimSpace(string(out))).WithCause(err)
	}
	t.prepared = dir
	return nil
}

// install gives a host's disk a store with the closures of the roots, unless it has
// one. Files are linked where the file system allows it: a store never writes to them.
func (t *Toolchain) install(disk string) error {
	done := filepath.Join(disk, "nix/var/nix/db")
	if t.prepared == "" || exists(done) {
		return nil
	}
	if err := cloneTree(filepath.Join(t.prepared, "nix/store"), filepath.Join(disk, "nix/store"), true); err != nil {
		return fmt.Errorf("copy programs: %w", err)
	}
	return cloneTree(filepath.Join(t.prepared, "nix/var/nix"), filepath.Join(disk, "nix/var/nix"), false)
}

// NixConf is a nix.conf for a host: no build users, only the substituters given, and
// busybox as the shell of the build sandbox, under the names that builders use.
func NixConf(busybox string, substituters, trustedKeys []string) string {
	var shell strings.Builder
	for _, applet := range []string{"sh", "mkdir", "cat", "ln", "chmod", "cp", "mv", "rm", "ls", "sleep"} {
		fmt.Fprintf(&shell, " /bin/%s=%s", applet, busybox)
	}
	return strings.Join([]string{
		"experimental-features = nix-command flakes",
		"build-users-group =",
		"sandbox = true",
		"sandbox-paths =" + shell.String(),
		"substituters = " + strings.Join(substituters, " "),
		"trusted-public-keys = " + strings.Join(trustedKeys, " "),
		"connect-timeout = 5",
		"use-registries = false",
		"narinfo-cache-negative-ttl = 0", // what the cache did not have a moment ago it may have now
	}, "\n") + "\n"
}

// cloneTree makes to a copy of from; with link, files are hard links where possible.
func cloneTree(from, to string, link bool) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			if err := os.MkdirAll(target, 0o755); err != nil {
				return err
			}
			return os.Chmod(target, info.Mode().Perm())
		case d.Type()&os.ModeSymlink != 0:
			text, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(text, target)
		case link && os.Link(path, target) == nil:
			return nil
		case d.Type().IsRegular():
			return copyFile(path, target, info)
		}
		return nil // sockets and the like
	})
}

func copyFile(from, to string, info os.FileInfo) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		return err
	}
	if err := os.Chmod(to, info.Mode().Perm()); err != nil {
		return err
	}
	return os.Chtimes(to, info.ModTime(), info.ModTime()) // a store's validity does not need it, its users expect it
}
