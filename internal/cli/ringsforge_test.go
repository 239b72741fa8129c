package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge/forgetest"
)

// TestRingsAtForge: where a Gitea protects release*, the hub whose user may push gives rings their releases, and its mirror everything, also one that was
// away in the midst of it; a hub whose user may not says which branches, and what to change, and moves nothing.
func TestRingsAtForge(t *testing.T) {
	w := newHubTown(t)
	w.write("fleet/garrison.toml", fmt.Sprintf("mirrors = [%q]\n[[rings]]\nname = \"canary\"\nhosts = [\"joker\"]\n[[rings]]\nname = \"rest\"\n", w.mirror))
	w.do("git", "init", "--quiet", "--bare", w.mirror)
	writer := w.forge.User(t, "writer")
	w.repo.Collaborator(t, writer, "write")
	w.repo.Protect(t, "release*", forgetest.Protection{Push: []string{w.repo.Owner}})
	mays := w.hub("hub", fmt.Sprintf("[ci]\nremote = %q\nsigningKey = %q\npoll = \"1h\"\n[follow]\npoll = \"1h\"\n", w.repo.URL+".git", filepath.Join(w.dir, "key")))
	w.repo.Hook(t, mays.url+"/api/v1/webhook", webhookSecret)

	refs := func(at string) string {
		return w.do("git", "ls-remote", at, "refs/heads/release", "refs/heads/release-*", "refs/tags/release-*")
	}
	given := func(ring, release string) {
		t.Helper()
		w.until(ring+" is given "+release, func() bool {
			tag := w.do("git", "ls-remote", w.repo.Push, "refs/tags/"+release+"^{}")
			return tag != "" && strings.HasPrefix(tag, w.repo.Refs(t)["refs/heads/release-ring-"+ring])
		})
	}
	mirrored := func() {
		t.Helper()
		w.until("the mirror has everything", func() bool { return refs(w.mirror) == refs(w.repo.Push) })
	}
	rolls := func(release string) {
		t.Helper()
		m := w.manifest(release)
		w.until("the canary passes "+release, func() bool {
			mays.says("joker", m, fleet.PhaseIdle)
			return w.repo.Refs(t)["refs/heads/release-ring-rest"] == w.do("git", "rev-parse", release+"^{}")
		})
	}
	w.push("main", "one")
	given("canary", "release-1")
	rolls("release-1")
	mirrored()
	if got := refs(w.mirror); !strings.Contains(got, "refs/heads/release-rollout") || !strings.Contains(got, "refs/heads/release-ring-rest") {
		t.Errorf("the mirror has\n%s", got)
	}

	w.must(os.Rename(w.mirror, w.mirror+".away"))
	second := w.push("main", "two")
	given("canary", "release-2")
	w.statuses(second, "garrison/publish success")
	w.must(os.Rename(w.mirror+".away", w.mirror))
	if refs(w.mirror) == refs(w.repo.Push) {
		t.Fatal("the mirror was not away")
	}
	rolls("release-2")
	mirrored()
	mays.stop()

	// Another hub has the token of somebody who may not.
	before := refs(w.repo.Push)
	w.write("forge-token", w.forge.Token(t, writer, "write:repository"))
	w.write("credentials", writer+":"+w.forge.Token(t, writer, "write:repository"))
	maynot := w.hub("other", fmt.Sprintf("[rollout]\nenable = true\n[follow]\nremote = %q\ncredentialsFile = %q\npoll = \"1h\"\n", w.repo.URL+".git", filepath.Join(w.dir, "credentials")))
	w.until("it knows the rings", func() bool {
		var v fleet.Rollout
		status, answer := maynot.tries(http.MethodGet, "/api/v1/rollout", "read", "")
		return status == http.StatusOK && json.Unmarshal([]byte(answer), &v) == nil && v.Release == 2 && len(v.Rings) == 2
	})
	status, said := maynot.tries(http.MethodPost, "/api/v1/rollout/orders", "rollout", `{"act":"pause","reason":"to see"}`)
	if status != http.StatusConflict || !strings.Contains(said, "does not let us move these refs: release-rollout") || !strings.Contains(said, "let the release user, and the hub's, write to them") {
		t.Errorf("%d %s", status, said)
	}
	if got := refs(w.repo.Push); got != before {
		t.Errorf("it moved\n%s\nto\n%s", before, got)
	}
}
