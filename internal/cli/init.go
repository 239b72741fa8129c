package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/comin"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
)

func (a *app) initialize() *cobra.Command {
	var from, dir string
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Set a fleet's repository up for Garrison, or make a host's configuration of one for comin",
		Long: `Init finds out what there is (hosts, remote and forge, source branch, who reads the secrets) and writes what is missing: garrison.toml and
the workflow for the forge's Actions into the work tree; the keys that sign releases and, for a cache that is new, what it
has, into $XDG_CONFIG_HOME/garrison/, never into the repository; and beside them a patch that puts the agent's module into
flake.nix, which you apply yourself. A file that is there is never overwritten: where it differs, the difference is shown,
and the exit code is 4. It can be run again at any time.

With --from-comin it reads a configuration of comin instead, and prints a NixOS module with the options of Garrison's agent
that do the same; its first lines say what did not carry over, and why. docs/MIGRATION.md has the steps. FILE is the YAML file
that comin runs with (systemctl cat comin names it), or a Nix file, ending in .nix, that sets services.comin. With --write the
module and an agent.toml go into a folder.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" {
				return a.initFleet(cmd.Context(), f)
			}
			p, err := readComin(cmd.Context(), from)
			if err != nil {
				return err
			}
			if dir == "" {
				_, err := fmt.Fprint(a.Out, p.Nix())
				return err
			}
			if err := writeNew(dir, map[string]string{"garrison.nix": p.Nix(), "agent.toml": p.TOML()}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.Out, "wrote garrison.nix and agent.toml to %s\n%s", dir, p.Explain(""))
			return err
		},
	}
	cmd.Flags().StringVar(&from, "from-comin", "", "comin's configuration: its YAML file, or a .nix file that sets services.comin")
	cmd.Flags().StringVar(&dir, "write", "", "folder to write garrison.nix and agent.toml to; nothing is overwritten")
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "the fleet's repository on this machine")
	fl.StringVar(&f.remote, "remote", "origin", "name of the remote that hosts fetch releases from")
	fl.StringVar(&f.forge, "forge", "", "forgejo, gitea, github or none (default: the remote's server is asked)")
	fl.StringVar(&f.runner, "runner", "", "label of the runners that have nix and garrison (default: nixos)")
	fl.StringVar(&f.cache, "cache", "", "URL of the cache, with its name (default: none)")
	fl.StringVar(&f.pushToken, "cache-token-file", "", "file with the token that may push to the cache")
	fl.StringVar(&f.identity, "identity", "", "private key (age or SSH) that reads the secrets on the source branch, for CI")
	fl.StringVar(&f.moduleURL, "module-url", "github:garrison-nix/garrison", "flake with Garrison's modules")
	fl.BoolVar(&f.setSecrets, "set-secrets", false, "set the secrets of the forge's Actions (Forgejo, Gitea)")
	fl.StringVar(&f.tokenFile, "forge-token-file", "", "file with a token for the forge, of the scope write:repository (default: $GARRISON_FORGE_TOKEN)")
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would be written, and write nothing")
	f.evalFlags.add(fl)
	return cmd
}

// readComin reads either form.
func readComin(ctx context.Context, file string) (comin.Plan, error) {
	unreadable := func(err error) error {
		return fleet.Errorf(fleet.Local, fleet.CodeUsage, "cannot read %s", file).WithCause(err)
	}
	if filepath.Ext(file) == ".nix" {
		path, err := filepath.Abs(file)
		if err != nil {
			return comin.Plan{}, unreadable(err)
		}
		if _, err := os.Stat(path); err != nil {
			return comin.Plan{}, unreadable(err)
		}
		n, err := nix.Find(ctx)
		if err != nil {
			return comin.Plan{}, err
		}
		data, err := n.Options(ctx, path, "comin")
		var e *fleet.Error
		if errors.As(err, &e) && e.Hint == "" {
			err = e.WithHint("give the YAML file that comin runs with: systemctl cat comin names it")
		}
		if err != nil {
			return comin.Plan{}, err
		}
		return comin.FromNix(file, data)
	}
	f, err := os.Open(file)
	if err != nil {
		return comin.Plan{}, unreadable(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, comin.MaxBytes+1))
	if err != nil {
		return comin.Plan{}, unreadable(err)
	}
	return comin.FromYAML(file, data)
}

// writeNew writes files that are not there yet, all or none.
func writeNew(dir string, files map[string]string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeUsage, "cannot make the folder %s", dir).WithCause(err)
	}
	var written []string
	defer func() {
		if err != nil {
			for _, path := range written {
				_ = os.Remove(path)
			}
		}
	}()
	for name, text := range files {
		path := filepath.Join(dir, name)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			return fleet.Errorf(fleet.Local, fleet.CodeUsage, "%s is there already; nothing was written", path).WithHint("remove it, or name another folder")
		}
		if err == nil {
			written = append(written, path)
			_, err = f.WriteString(text)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot write %s", path).WithCause(err)
		}
	}
	return nil
}
