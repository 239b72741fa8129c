package hub

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// The logs of runs that stay however old they are, and the most that there are.
const (
	leastRunLogs = 20
	mostRunLogs  = 1000
)

// PruneLogs removes logs of runs that were last written before that time, but for those of the newest runs.
func PruneLogs(dir string, before time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "the logs of runs in %s cannot be listed", dir).WithCause(err)
	}
	var ids []int64
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".log"); ok {
			if id, err := strconv.ParseInt(name, 10, 64); err == nil {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	var errs []error
	for i, id := range ids {
		if i < leastRunLogs {
			continue
		}
		if info, err := os.Stat(LogFile(dir, id)); i < mostRunLogs && (err != nil || !info.ModTime().Before(before)) {
			continue
		}
		if err := os.Remove(LogFile(dir, id)); err != nil && !os.IsNotExist(err) {
			errs = append(errs, fleet.Errorf(fleet.Local, fleet.CodeState, "the log of a run in %s cannot be removed", dir).WithCause(err))
		}
	}
	return errors.Join(errs...)
}
