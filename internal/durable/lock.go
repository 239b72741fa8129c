package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// ErrLocked is wrapped by TryLock's error when somebody else holds the lock.
var ErrLocked = errors.New("locked by another process")

// FileLock is a lock that is held. The kernel frees it when its holder dies.
type FileLock struct{ f *os.File }

// Lock takes the lock at path and waits for as long as somebody else holds it.
// The file is made with mode 0600 if it is not there, and never removed.
func Lock(path string) (*FileLock, error) { return lock(path, syscall.LOCK_EX) }

// TryLock takes the lock at path or fails at once with an error that wraps ErrLocked.
// At once is a few hundredths of a second: Held may be looking at the lock just now,
// and shall not make TryLock fail.
func TryLock(path string) (*FileLock, error) {
	const tries, pause = 4, 10 * time.Millisecond
	for try := 1; ; try++ {
		l, err := lock(path, syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, ErrLocked) || try == tries {
			return l, err
		}
		time.Sleep(pause)
	}
}

// Held says whether somebody, this process included, holds the lock at path.
// The answer may be out of date when it is read.
func Held(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = flock(f, syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, ErrLocked) {
		return true, nil
	}
	return false, err
}

// File is what holds the lock: a program that inherits it holds the lock, too, for as long as it runs.
func (l *FileLock) File() *os.File { return l.f }

// Unlock frees the lock, unless a program has inherited it. A second call is an error.
func (l *FileLock) Unlock() error { return l.f.Close() }

func lock(path string, how int) (*FileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, how); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return &FileLock{f}, nil
}

// flock is flock(2), once more when a signal interrupts it.
func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return ErrLocked
		default:
			return err
		}
	}
}
