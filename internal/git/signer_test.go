package git_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/git"
)

// TestSignerEnds: until when the key that signed a tag may sign, whatever else stands in the file.
func TestSignerEnds(t *testing.T) {
	dir := t.TempDir()
	repo, err := git.Init(t.Context(), filepath.Join(dir, "r.git"))
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the release's", "-f", key).CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	out, err := exec.Command("sh", "-c", "git --git-dir "+repo.Dir+" mktree </dev/null").Output()
	if err != nil {
		t.Fatal(err)
	}
	commit, err := repo.WriteCommit(t.Context(), git.Commit{Tree: strings.TrimSpace(string(out)), Message: "m", When: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	id, err := repo.SignTag(t.Context(), "refs/tags/t", "t", commit, []byte("m\n"), key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	got, err := repo.TagSigner(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(public))
	if want, err := base64.StdEncoding.DecodeString(words[1]); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%x, want %x", got, want)
	}
	line := strings.Join(words[:2], " ")
	end := time.Date(2030, 1, 2, 0, 0, 0, 0, time.Local)
	for text, want := range map[string]time.Time{
		"":                                      {},
		"g " + line:                             {},
		"# g valid-before=\"20200101\" " + line: {},
		"g valid-before=\"20300102\" " + line + " comment\n":                            end,
		"g namespaces=\"git\",valid-before=\"203001020300Z\" " + line:                   time.Date(2030, 1, 2, 3, 0, 0, 0, time.UTC),
		"g Valid-Before=\"20200101\" " + line + "\nh valid-before=\"20300102\" " + line: end,
		"g valid-before=\"20200101\" " + line + "\nh " + line:                           {},
		"g valid-before=\"20200101\" ssh-ed25519 AAAA":                                  {},
		"g valid-before=\"soon\" " + line:                                               {},
	} {
		if ends, ok := git.SignerEnds(text, got); !ends.Equal(want) || ok == want.IsZero() {
			t.Errorf("%q: %s, %v", text, ends, ok)
		}
	}
	if _, err := repo.TagSigner(t.Context(), commit); err == nil {
		t.Error("a commit has a signer")
	}
}
