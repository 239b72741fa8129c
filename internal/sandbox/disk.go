package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Places in every host.
const (
	binDir   = "/opt/garrison/bin"
	certFile = "/etc/ssl/certs/ca-certificates.crt"
)

// certSources are where systems keep the certificates that they trust.
var certSources = []string{certFile, "/etc/ssl/certs/ca-bundle.crt", "/etc/pki/tls/certs/ca-bundle.crt"}

// disk is the folder that holds what the host keeps.
func (h *Host) disk() string {
	if h.opts.Base != "" {
		return filepath.Join(h.opts.Dir, "upper")
	}
	return h.opts.Dir
}

func (h *Host) logFile() string {
	if h.opts.Base != "" {
		return filepath.Join(h.opts.Dir, "init.log")
	}
	return filepath.Join(h.opts.Dir, "var/log/init.log")
}

// writeDisk brings a host's disk up to what its options say. What the host itself
// wrote there stays.
func (h *Host) writeDisk() error {
	dirs := []string{"etc/nix", "etc/ssh", "etc/ssl/certs", "var/log", "boot", "root", "nix/store", "nix/var/nix"}
	if h.opts.Base == "" {
		dirs = append(dirs, "usr", "proc", "sys", "dev", "run", "tmp", "var/lib", "var/tmp", "opt/garrison/bin")
	}
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(h.disk(), d), 0o755); err != nil {
			return err
		}
	}
	if h.opts.Base != "" {
		if err := os.MkdirAll(filepath.Join(h.opts.Dir, "work"), 0o755); err != nil {
			return err
		}
	} else if err := h.lan.tools.install(h.disk()); err != nil {
		return err
	}
	files := h.defaultFiles()
	if h.opts.Base != "" {
		files = append(files, h.units()...)
		if err := h.enableUnits(); err != nil {
			return err
		}
	}
	for _, f := range append(files, h.opts.Files...) {
		if err := writeFile(h.disk(), f); err != nil {
			return err
		}
	}
	return nil
}

// defaultFiles are the files of /etc that nobody gave and that are not there yet; of
// those made of the options, always the present text.
func (h *Host) defaultFiles() []File {
	given := func(path string) bool {
		return slices.ContainsFunc(h.opts.Files, func(f File) bool { return filepath.Clean(f.Path) == path })
	}
	var files []File
	add := func(path, text string) {
		if !given(path) {
			files = append(files, File{Path: path, Data: []byte(text)})
		}
	}
	add("/etc/hosts", h.hostsFile())
	add("/etc/hostname", h.opts.Hostname+"\n")
	if h.opts.Base != "" {
		add("/etc/nix/nix.conf", NixConf("/usr/bin/busybox", nil, nil))
		return files
	}
	add("/etc/nix/nix.conf", h.lan.NixConf(nil, nil))
	add("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
	add("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
	add("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
	add("/etc/resolv.conf", "")
	for _, source := range certSources {
		if certs, err := os.ReadFile(source); err == nil {
			add(certFile, string(certs))
			break
		}
	}
	return files
}

func (h *Host) hostsFile() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	fmt.Fprintf(&b, "%s %s\n", h.opts.Addr, h.opts.Hostname)
	names := make([]string, 0, len(h.lan.opts.Names))
	for name := range h.lan.opts.Names {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "%s %s\n", h.lan.opts.Names[name], name)
	}
	return b.String()
}

// writeFile writes a file under root unless it is just so already. A link in its place
// is replaced, never followed.
func writeFile(root string, f File) error {
	if f.Mode == 0 {
		f.Mode = 0o644
	}
	path := filepath.Join(root, f.Path)
	if info, err := os.Lstat(path); err == nil {
		old, readErr := os.ReadFile(path)
		if info.Mode() == f.Mode && readErr == nil && bytes.Equal(old, f.Data) {
			return nil
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, f.Data, 0o600); err != nil {
		return err
	}
	return os.Chmod(path, f.Mode)
}
