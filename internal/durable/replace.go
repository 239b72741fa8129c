package durable

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// ReplaceFiles replaces files that are there, each with the permissions that it has: all of them, or, after an
// error, none. All are written and synced beside the old ones before the first is renamed. A crash between two renames
// leaves some old and some new, each of them whole; what it leaves besides is Sweep's.
func ReplaceFiles(files map[string][]byte) (err error) {
	paths := slices.Sorted(maps.Keys(files))
	var temps, kept []string // the new content of each, and then the old
	defer func() {
		for _, name := range slices.Concat(temps, kept) {
			if rerr := os.Remove(name); rerr != nil && !os.IsNotExist(rerr) {
				err = errors.Join(err, rerr)
			}
		}
	}()
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a regular file", path)
		}
		if err != nil {
			return err
		}
		tmp, err := writeTemp(path, files[path], info.Mode().Perm())
		if err != nil {
			return err
		}
		temps = append(temps, tmp)
		if err := os.Link(path, tmp+".old"); err != nil {
			return err
		}
		kept = append(kept, tmp+".old")
	}
	if err := renameAll(temps, paths, kept); err != nil {
		return err
	}
	var failed []error
	for _, dir := range dirsOf(paths) {
		failed = append(failed, syncDir(dir))
	}
	return errors.Join(failed...)
}

// renameAll gives files their paths; after an error the paths have what is kept.
func renameAll(files, paths, kept []string) error {
	for i, path := range paths {
		if err := os.Rename(files[i], path); err != nil {
			for j := range i {
				err = errors.Join(err, os.Rename(kept[j], paths[j]))
			}
			return err
		}
	}
	return nil
}

func dirsOf(paths []string) []string {
	var dirs []string
	for _, p := range paths {
		dirs = append(dirs, filepath.Dir(p))
	}
	return slices.Compact(slices.Sorted(slices.Values(dirs)))
}
