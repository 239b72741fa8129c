package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/garrison-nix/garrison/examples"
)

// exampleCmd makes $WORK/example, a repository of the example fleet without its garrison.toml, in which an editor reads the secrets whose private key is
// $WORK/editor; its remote is $WORK/forge/lair/fleet.git. $SOPS is sops.
func exampleCmd(ts *testscript.TestScript, _ bool, _ []string) {
	work := ts.Getenv("WORK")
	sops, err := exec.Command("../../scripts/fetch-sops").Output()
	ts.Check(err)
	ts.Setenv("SOPS", strings.TrimSpace(string(sops)))
	ts.Check(os.CopyFS(filepath.Join(work, "copy"), examples.Fleet))
	ts.Check(os.Rename(filepath.Join(work, "copy/fleet"), filepath.Join(work, "example")))
	ts.Check(ts.Exec("sh", "-euc", `
		ssh-keygen -q -t ed25519 -N '' -C editor -f $WORK/editor
		cd $WORK/example
		rm garrison.toml
		for f in secrets/*.age; do echo secret | age -R $WORK/editor.pub -o $f; done
		git init --quiet --bare --initial-branch=main $WORK/forge/lair/fleet.git
		git init --quiet --initial-branch=main
		git remote add origin $WORK/forge/lair/fleet.git
		git add --all
		git commit --quiet --message 'The fleet'
		git push --quiet origin main`))
}
