package git

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// maxPointer is more than a pointer of git-lfs ever has, in bytes.
const maxPointer = 1024

// pointer is what git-lfs commits in place of a file's content.
var pointer = regexp.MustCompile(`^version https://git-lfs\.github\.com/spec/v1\n(?:[^\n]*\n)*?oid sha256:([0-9a-f]{64})\n`)

// Pointers lists the files of a commit whose contents git-lfs keeps elsewhere: path → SHA-256 of the content, in hex.
// files are the commit's, as Blobs lists them.
func (r *Repo) Pointers(ctx context.Context, commit string, files map[string]string) (map[string]string, error) {
	var attributes []string
	for path, id := range files {
		if filepath.Base(path) == ".gitattributes" {
			attributes = append(attributes, id)
		}
	}
	texts, err := r.ReadBlobs(ctx, attributes)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(slices.Collect(maps.Values(texts)), func(b []byte) bool { return bytes.Contains(b, []byte("lfs")) }) {
		return nil, nil // as for most fleets, without looking at every file
	}
	filtered, err := r.filteredByLFS(ctx, commit, slices.Collect(maps.Keys(files)))
	if err != nil {
		return nil, err
	}
	small, err := r.small(ctx, filtered, files)
	if err != nil {
		return nil, err
	}
	blobs, err := r.ReadBlobs(ctx, small)
	if err != nil {
		return nil, err
	}
	pointers := map[string]string{}
	for _, path := range filtered {
		if m := pointer.FindSubmatch(blobs[files[path]]); m != nil {
			pointers[path] = string(m[1])
		}
	}
	return pointers, nil
}

// filteredByLFS are those of a commit's files whose attributes, in that commit, give them to git-lfs.
func (r *Repo) filteredByLFS(ctx context.Context, commit string, paths []string) ([]string, error) {
	index, done, err := r.tempIndex(ctx, commit)
	if err != nil {
		return nil, err
	}
	defer done()
	out, err := r.run(ctx, call{args: []string{"check-attr", "--cached", "--stdin", "-z", "filter"}, env: index,
		stdin: strings.NewReader(strings.Join(paths, "\x00") + "\x00"), most: 256 << 20})
	if err != nil {
		return nil, err
	}
	var filtered []string
	for f := strings.Split(out, "\x00"); len(f) >= 3; f = f[3:] { // path, attribute, value
		if f[2] == "lfs" {
			filtered = append(filtered, f[0])
		}
	}
	return filtered, nil
}

// small are the blobs of paths that are no larger than a pointer may be.
func (r *Repo) small(ctx context.Context, paths []string, files map[string]string) ([]string, error) {
	var ids strings.Builder
	for _, p := range paths {
		ids.WriteString(files[p] + "\n")
	}
	out, err := r.run(ctx, call{args: []string{"cat-file", "--batch-check=%(objectname) %(objectsize)"}, stdin: strings.NewReader(ids.String())})
	var small []string
	for line := range strings.Lines(out) {
		var id string
		var size int
		if n, _ := fmt.Sscan(line, &id, &size); n == 2 && size <= maxPointer {
			small = append(small, id)
		}
	}
	return small, err
}

// fetchContents brings what git-lfs keeps of a commit's files from m into the repository, as far as it is not there. ids are the
// contents' SHA-256. Errors: CodeMissingTool without git-lfs, CodeRemote, CodeUnauthorized, CodeKey.
func (r *Repo) fetchContents(ctx context.Context, m Remote, commit string, ids []string) error {
	missing := func() (n int) {
		for _, id := range ids {
			if _, err := os.Stat(r.content(id)); err != nil {
				n++
			}
		}
		return n
	}
	if missing() == 0 {
		return nil
	}
	if _, err := proc.Run(ctx, proc.Cmd{Program: "git", Args: []string{"lfs", "version"}, Env: env()}); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return fleet.Errorf(fleet.Local, fleet.CodeMissingTool, "the fleet keeps files with git-lfs, which is not here").
			WithHint("install git-lfs, or put it on PATH").WithCause(err)
	}
	if strings.HasPrefix(m.URL, "/") {
		m.URL = "file://" + m.URL // as git-lfs wants it
	}
	command := []string{"lfs", "fetch"}
	if url, ok, err := r.lfsURL(ctx, commit); err != nil {
		return err
	} else if ok {
		command = append([]string{"-c", "lfs.url=" + url}, command...)
	}
	_, err := r.talk(ctx, m, append([]string{"--git-dir", r.Dir}, networkConfig...), command, []string{commit})
	if err == nil && missing() > 0 {
		err = fmt.Errorf("%d of them are not there", missing())
	}
	return talkError(ctx, "get what git-lfs keeps for", m, err)
}

// lfsURL is what .lfsconfig in a commit says of where git-lfs keeps contents.
func (r *Repo) lfsURL(ctx context.Context, commit string) (string, bool, error) {
	id, there, err := r.Resolve(ctx, commit+":.lfsconfig")
	if err != nil || !there {
		return "", false, err
	}
	url, err := r.line(ctx, "config", "--blob", id, "--default", "", "--get", "lfs.url")
	return url, url != "", err
}

// content is the file in which git-lfs keeps a content.
func (r *Repo) content(sha256 string) string {
	return filepath.Join(r.Dir, "lfs/objects", sha256[:2], sha256[2:4], sha256)
}
