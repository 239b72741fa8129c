package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// machineDirs hold the machine's programs. Where one is a link, the host gets the link.
var machineDirs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// machineFiles are further files that programs of the machine need, where they exist.
var machineFiles = []string{"/etc/alternatives", "/etc/ld.so.cache", "/etc/os-release"}

var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// rootBuilder mounts a host's root; after the first error its methods do nothing.
type rootBuilder struct {
	root string
	err  error
}

// enterRoot makes cfg.Root the / of this process, which must be alone in its mount
// namespace, with the machine's programs, the binds and kernel file systems in it.
func enterRoot(cfg initConfig) error {
	b := &rootBuilder{root: cfg.Root}
	b.mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	b.mount(cfg.Root, cfg.Root, "", unix.MS_BIND, "")
	for _, dir := range machineDirs {
		b.machineDir(dir)
	}
	for _, file := range machineFiles {
		if exists(file) {
			b.bind(Bind{Source: file, Target: file})
		}
	}
	b.kernelFileSystems()
	for _, bind := range cfg.Binds {
		b.bind(bind)
	}
	b.pivot()
	return b.err
}

func (b *rootBuilder) kernelFileSystems() {
	b.mount("proc", b.in("/proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	b.mount("sysfs", b.in("/sys"), "sysfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	b.mount("tmpfs", b.in("/run"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
	b.mount("tmpfs", b.in("/tmp"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	b.mount("tmpfs", b.in("/dev"), "tmpfs", unix.MS_NOSUID, "mode=0755")
	for _, name := range devices {
		b.bind(Bind{Source: "/dev/" + name, Target: "/dev/" + name, Writable: true})
	}
	b.mkdir("/dev/pts")
	b.mount("devpts", b.in("/dev/pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
	b.mkdir("/dev/shm")
	b.mount("tmpfs", b.in("/dev/shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		b.symlink(target, "/dev/"+name)
	}
}

// machineDir gives the host one of machineDirs: a copy of the link or a read-only bind.
func (b *rootBuilder) machineDir(dir string) {
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) || b.err != nil:
	case err != nil:
		b.err = err
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(dir)
		if err != nil {
			b.err = err
			return
		}
		b.symlink(target, dir)
	default:
		b.bind(Bind{Source: dir, Target: dir})
	}
}

// in is where a path of the host is before the pivot.
func (b *rootBuilder) in(path string) string { return filepath.Join(b.root, path) }

func (b *rootBuilder) mount(source, target, kind string, flags uintptr, data string) {
	if b.err != nil {
		return
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		b.err = fmt.Errorf("mount %s %s on %s: %w", kind, source, target, err)
	}
}

// bind mounts a file or folder with what is mounted below it.
func (b *rootBuilder) bind(m Bind) {
	if b.err != nil {
		return
	}
	info, err := os.Stat(m.Source)
	if err != nil {
		b.err = fmt.Errorf("nothing to bind at %s: %w", m.Target, err)
		return
	}
	target := b.in(m.Target)
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		err = touch(target)
	}
	if err != nil {
		b.err = err
		return
	}
	b.mount(m.Source, target, "", unix.MS_BIND|unix.MS_REC, "")
	if b.err == nil && !m.Writable {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(-1, target, unix.AT_RECURSIVE, &attr); err != nil {
			b.err = fmt.Errorf("make %s read-only: %w", target, err)
		}
	}
}

func (b *rootBuilder) mkdir(path string) {
	if b.err == nil {
		b.err = os.MkdirAll(b.in(path), 0o755)
	}
}

// symlink makes a link unless it is there.
func (b *rootBuilder) symlink(target, path string) {
	if b.err != nil {
		return
	}
	if old, err := os.Readlink(b.in(path)); err == nil && old == target {
		return
	}
	b.err = os.Symlink(target, b.in(path))
}

// pivot makes the root the process's / and lets go of the machine's.
func (b *rootBuilder) pivot() {
	if b.err != nil {
		return
	}
	if b.err = os.Chdir(b.root); b.err != nil {
		return
	}
	if err := unix.PivotRoot(".", "."); err != nil { // the old root lies now over the new one
		b.err = fmt.Errorf("pivot_root: %w", err)
		return
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		b.err = fmt.Errorf("let go of the machine's root: %w", err)
		return
	}
	b.err = os.Chdir("/")
}

// touch makes an empty file unless something is there.
func touch(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// exists says whether following links at path leads to something.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
