package secret

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/garrison-nix/garrison/internal/secret/sops"
)

// Revision is a file in a commit.
type Revision struct {
	Commit, Path, Blob string
}

// Finding is a blob that stood where a secret belongs and is not, or not surely, encrypted.
type Finding struct {
	Path    string   `json:"path"`
	Blob    string   `json:"blob"`
	Commits []string `json:"commits"` // in the order of the history, at most maxCommits
	Reason  string   `json:"reason"`  // repeats nothing of the blob
}

// String is what to tell an operator.
func (f Finding) String() string {
	return fmt.Sprintf("%s in commit %s %s", f.Path, f.Commits[0], f.Reason)
}

// maxCommits bounds how many commits of a blob a Finding names.
const maxCommits = 8

// FindPlaintext looks through a history for plaintext of secrets: blobs under a path that isSecret
// which are neither age nor sops files. Each blob is read once. Findings come in the order in which the history has
// them. An error of the history or of read ends it.
func FindPlaintext(isSecret func(path string) bool, history iter.Seq2[Revision, error], read func(blob string) ([]byte, error)) ([]Finding, error) {
	reasons := make(map[string]string) // blob → what is wrong with it
	index := make(map[[2]string]int)   // path, blob → its finding
	var found []Finding
	for r, err := range history {
		if err != nil {
			return nil, fmt.Errorf("the history cannot be read: %w", err)
		}
		if !isSecret(r.Path) {
			continue
		}
		reason, known := reasons[r.Blob]
		if !known {
			data, err := read(r.Blob)
			if err != nil {
				return nil, fmt.Errorf("%s of commit %s cannot be read: %w", r.Path, r.Commit, err)
			}
			reason = whyPlain(data)
			reasons[r.Blob] = reason
		}
		if reason == "" {
			continue
		}
		at, known := index[[2]string{r.Path, r.Blob}]
		if !known {
			at = len(found)
			index[[2]string{r.Path, r.Blob}] = at
			found = append(found, Finding{Path: r.Path, Blob: r.Blob, Reason: reason})
		}
		if f := &found[at]; len(f.Commits) < maxCommits && !slices.Contains(f.Commits, r.Commit) {
			f.Commits = append(f.Commits, r.Commit)
		}
	}
	return found, nil
}

// whyPlain says what is wrong with a blob that should be a secret; nothing if it is encrypted or empty.
func whyPlain(data []byte) string {
	switch KindOf(data) {
	case KindAge:
		if _, err := Stanzas(bytes.NewReader(data)); err != nil {
			return "begins like an age file, but its header is damaged"
		}
		return ""
	case KindSops:
		f, err := sops.Parse(data)
		if err == nil {
			err = f.Check()
		}
		if errors.Is(err, sops.ErrNotSops) {
			return "is not encrypted"
		}
		if err != nil {
			return "is a sops file, but " + err.Error()
		}
		return ""
	}
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return ""
	case bytes.HasPrefix(data, []byte("version https://git-lfs.github.com/")):
		return "is a pointer of git-lfs: what it points to was not looked at"
	default:
		return "is not encrypted"
	}
}
