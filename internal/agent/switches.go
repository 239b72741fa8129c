package agent

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watcher sees that the link of the running system or the profile is replaced, so that a switch by hand is noticed at once. It
// sleeps in the kernel meanwhile. What it misses, where inotify is not to be had say, the next look at git notices: the host is
// looked at then, too.
type watcher struct {
	links []string
	f     *os.File // nil without inotify
}

func newWatcher(links ...string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return &watcher{}, err
	}
	w := &watcher{links: links, f: os.NewFile(uintptr(fd), "inotify")}
	w.aim()
	return w, nil
}

// aim watches the links' folders as they are now: one may have been missing, or was made anew.
func (w *watcher) aim() {
	if w.f == nil {
		return
	}
	raw, err := w.f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // closed: nobody waits for it any more
		for _, link := range w.links {
			_, _ = unix.InotifyAddWatch(int(fd), filepath.Dir(link), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_ONLYDIR) // else later
		}
	})
}

// watch wakes switched until the watcher is closed.
func (w *watcher) watch(switched chan<- struct{}) {
	if w.f == nil {
		return
	}
	names := map[string]bool{}
	for _, link := range w.links {
		names[filepath.Base(link)] = true
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			return
		}
		if named(buf[:n], names) {
			select {
			case switched <- struct{}{}:
			default:
			}
		}
	}
}

func (w *watcher) close() {
	if w.f != nil {
		w.f.Close()
	}
}

// named says whether one of inotify's events is about one of names, or whether some were lost.
func named(events []byte, names map[string]bool) bool {
	const head = int(unsafe.Sizeof(unix.InotifyEvent{}))
	for len(events) >= head {
		mask := binary.NativeEndian.Uint32(events[4:])
		end := min(head+int(binary.NativeEndian.Uint32(events[12:])), len(events))
		name, _, _ := bytes.Cut(events[head:end], []byte{0})
		if names[string(name)] || mask&unix.IN_Q_OVERFLOW != 0 {
			return true
		}
		events = events[end:]
	}
	return false
}

// newKernel says whether a reboot would bring another kernel, initrd or kernel modules than were booted: what a
// switch cannot change.
func newKernel(booted, current string) bool {
	for _, part := range []string{"kernel", "initrd", "kernel-modules"} {
		was, err := filepath.EvalSymlinks(filepath.Join(booted, part))
		is, err2 := filepath.EvalSymlinks(filepath.Join(current, part))
		if err == nil && err2 == nil && was != is {
			return true
		}
	}
	return false
}
