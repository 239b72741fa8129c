package release

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/proc"
)

// logsKept is how many logs of releases a repository keeps.
const logsKept = 20

// openLog has all that nix says from now on written to a new file in the repository, besides where it goes already. end closes it, with
// the failure as its last words.
func (s *state) openLog(now time.Time) (end func(failure error), err error) {
	dir := filepath.Join(s.Repo.Dir, "garrison-logs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, stateError(s.Repo, err)
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.log"))
	slices.Sort(old) // their names begin with the time
	for len(old) >= logsKept && err == nil {
		err = os.Remove(old[0])
		old = old[1:]
	}
	name := filepath.Join(dir, fmt.Sprintf("%s-%.12s.log", now.UTC().Format("20060102T150405.000Z"), s.source))
	file, ferr := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err := errors.Join(err, ferr); err != nil {
		return nil, stateError(s.Repo, err)
	}
	n := *s.Nix
	n.Log = file
	if s.Nix.Log != nil {
		n.Log = io.MultiWriter(file, s.Nix.Log)
	}
	s.Nix, s.outcome.Log = &n, name
	return func(failure error) {
		if failure != nil {
			fmt.Fprintln(file, "garrison:", proc.Redact(failure.Error()))
		}
		_ = file.Close()
	}, nil
}
