package agent

import (
	"slices"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// TestAfterDeployOfEveryResult: commands that were made for comin know two, and a test that is well is done.
func TestAfterDeployOfEveryResult(t *testing.T) {
	a := &Agent{looker: &looker{repo: &git.Repo{Dir: "/r"}}}
	for result, want := range map[fleet.Result]string{fleet.Committed: "done", fleet.Tested: "done", fleet.RebootNeeded: "done",
		fleet.RolledBack: "failed", fleet.NotActivated: "failed", fleet.RollbackFailed: "failed"} {
		vars := a.afterDeployEnv(fleet.Deployment{Result: result, Release: fleet.ReleaseRef{Test: "release-joker-test-3"}})
		for _, v := range []string{"COMIN_STATUS=" + want, "COMIN_GENERATION=release-joker-test-3"} {
			if !slices.Contains(vars, v) {
				t.Errorf("%s: not told %s: %q", result, v, vars)
			}
		}
	}
}
