package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrDamaged is wrapped by errors that say that a file was read but does not hold
// what it should: cut short, not JSON, or larger than anything we write.
var ErrDamaged = errors.New("damaged")

// tempPattern marks the temporary files of WriteFile, for Sweep to find.
const tempPattern = ".durable-"

// WriteFile replaces path by data: written to a temporary file beside it, synced,
// renamed over it, and the directory synced. The file gets exactly perm, whatever
// the umask. If path is a symbolic link, the link is replaced, not what it points to.
//
// After an error path holds what it held before; only when the very last step, the
// sync of the directory, failed may it hold data already. The temporary file is
// removed on every error; one left by a crash is Sweep's.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	tmp, err := writeTemp(path, data, perm)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(filepath.Dir(path))
}

// WriteJSON is WriteFile of v as indented JSON with a final newline.
func WriteJSON(path string, v any, perm os.FileMode) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return WriteFile(path, append(data, '\n'), perm)
}

// Place gives the file from, once the disk has its content, the name to as well, durably. Nothing may be there of that name.
func Place(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// ReadJSON reads the JSON document in path into v, which must be a pointer.
// It returns (false, nil) when there is no such file, and an error that wraps
// ErrDamaged when it has more than maxBytes or is not one JSON document that
// fits v; v is then undefined. Unknown fields are allowed: a newer version may
// have written the file.
func ReadJSON(path string, maxBytes int64, v any) (found bool, err error) {
	data, err := readBounded(path, maxBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return true, fmt.Errorf("read %s: %w: %w", path, ErrDamaged, err)
	}
	return true, nil
}

// Sweep removes what writers that crashed have left in dir. Call it at start,
// while nobody else writes there. A directory that does not exist has nothing left.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPattern) && e.Type().IsRegular() {
			failed = append(failed, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(failed...)
}

// writeTemp writes data to a new, synced and closed file beside path and returns
// its name, or an error and leaves nothing.
func writeTemp(path string, data []byte, perm os.FileMode) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), tempPattern+filepath.Base(path)+"-*")
	if err != nil {
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	err = fill(f, data, perm)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func fill(f *os.File, data []byte, perm os.FileMode) error {
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// syncDir has the disk confirm the names in dir.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closed := d.Close(); err == nil {
		err = closed
	}
	return err
}

// readBounded reads all of path, or fails with ErrDamaged if that is more than maxBytes.
func readBounded(path string, maxBytes int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > maxBytes {
		return nil, fmt.Errorf("read %s: %w: more than %d bytes", path, ErrDamaged, maxBytes)
	}
	return data, nil
}
