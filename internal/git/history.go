package git

import (
	"context"
	"iter"
	"strings"
)

// Revision is a file in a commit.
type Revision struct{ Commit, Path, Blob string }

// History lists the blobs that files came to have in the commits that refs lead to, newest first; of those files
// that wanted names. It is all read before the first is given.
func (r *Repo) History(ctx context.Context, refs []string, wanted func(path string) bool) iter.Seq2[Revision, error] {
	return func(yield func(Revision, error) bool) {
		args := append([]string{"-c", "log.showSignature=false", "log", "--format=%x01%H", "--raw", "--no-abbrev", "--no-renames", "-m", "-z", "--end-of-options"}, refs...)
		out, err := r.run(ctx, call{args: args, most: maxHistory})
		if err != nil {
			yield(Revision{}, err)
			return
		}
		commit, blob := "", ""
		for field := range strings.SplitSeq(out, "\x00") { // "\x01<commit>", then ":<modes and blobs>" and the path in turn
			field = strings.TrimPrefix(field, "\n")
			switch {
			case strings.HasPrefix(field, "\x01"):
				commit = field[1:]
			case strings.HasPrefix(field, ":"):
				blob = newBlob(field)
			case blob != "" && wanted(field):
				if !yield(Revision{Commit: commit, Path: field, Blob: blob}, nil) {
					return
				}
			}
		}
	}
}

// maxHistory bounds what git prints of a history, in bytes: some ten million changes of files.
const maxHistory = 1 << 30

// newBlob is the blob that a line of git log --raw says a file came to have; "" when it went, or is no file.
func newBlob(raw string) string {
	f := strings.Fields(raw) // ":100644 100644 <old> <new> M"
	if len(f) < 5 || !strings.HasPrefix(f[1], "100") {
		return ""
	}
	return f[3]
}
