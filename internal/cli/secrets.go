package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/secret"
)

func (a *app) secrets() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secrets",
		Short: "Look at who can read the fleet's secrets, and edit them",
		Args:  noCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.secretsStatus(), a.secretsVerify(), a.secretsEdit(), a.secretsRekey(), a.secretsScanHost())
	return cmd
}

// inspectFlags are of the commands that look at a release.
func inspectFlags(cmd *cobra.Command) *releaseFlags {
	f := &releaseFlags{}
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "the fleet's repository on this machine")
	fl.StringVar(&f.remote, "remote", "origin", "name or URL of the remote with the releases")
	fl.StringVar(&f.signer, "allowed-signers", "", "file with the keys that may have signed releases (default: their signatures are not checked)")
	f.evalFlags.add(fl)
	return f
}

func (a *app) inspectOptions(ctx context.Context, f *releaseFlags) (release.Options, error) {
	n, err := nix.Find(ctx)
	if err != nil {
		return release.Options{}, err
	}
	repo, err := git.Open(ctx, f.repo)
	return release.Options{Repo: repo, Remote: f.remote, AllowedSigners: f.signer, Jobs: f.jobs, EvalMemory: int64(f.memory), Nix: n, Log: a.logger()}, err
}

// verifyWith adds --verify-with to a command.
func verifyWith(cmd *cobra.Command) *[]string {
	return cmd.Flags().StringArray("verify-with", nil, "[HOST=]FILE: a host's private key, to see what it can decrypt; may be repeated")
}

// hostKeys loads the private keys that --verify-with names.
func hostKeys(named []string) ([]release.HostKey, error) {
	var keys []release.HostKey
	for _, name := range named {
		k := release.HostKey{File: name}
		if host, file, ok := strings.Cut(name, "="); ok && fleet.ValidHostName(host) {
			k.Host, k.File = host, file
		}
		var err error
		if k.Identities, err = secret.LoadIdentities(k.File); err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// oneRelease takes the name of one release at most.
func oneRelease(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usage(cmd, fmt.Errorf("%s takes one release at most, %d given", cmd.CommandPath(), len(args)))
	}
	return nil
}

func tagOf(args []string) string { return strings.Join(args, "") }

func (a *app) secretsStatus() *cobra.Command {
	cmd := &cobra.Command{Use: "status [RELEASE]", Short: "Say who can read what in a release (default: the newest)", Args: oneRelease}
	format := output(cmd)
	f := inspectFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := a.inspectOptions(cmd.Context(), f)
		if err != nil {
			return err
		}
		found, err := release.Secrets(cmd.Context(), o, tagOf(args))
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(found)
		}
		fmt.Fprintf(a.Out, "in %s:\n", fleet.TagName(found.Release.Number))
		for _, s := range found.Access {
			names := make([]string, len(s.Readers))
			for i, r := range s.Readers {
				names[i] = r.Name()
			}
			slices.Sort(names)
			fmt.Fprintf(a.Out, "  %-32s %s\n", s.Path, strings.Join(names, ", "))
		}
		return nil
	}
	return cmd
}

func (a *app) secretsVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [RELEASE]",
		Short: "Answer what must hold of a release's secrets (default: the newest)",
		Long: `Verify answers: can hosts decrypt theirs, and no others, and none of those on the source branch;
can the editors decrypt those; was any ever in the history unencrypted. It goes by the files' headers, and where
private keys are given it decrypts in truth. It exits with 1 if an answer is no.`,
		Args: oneRelease,
	}
	format := output(cmd)
	f := inspectFlags(cmd)
	var editor string
	hosts := verifyWith(cmd)
	cmd.Flags().StringVar(&editor, "identity", "", "an editor's private key to decrypt with")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := a.inspectOptions(cmd.Context(), f)
		if err != nil {
			return err
		}
		var keys release.Keys
		if keys.Hosts, err = hostKeys(*hosts); err != nil {
			return err
		}
		if editor != "" {
			if keys.Editors, err = secret.LoadIdentities(editor); err != nil {
				return err
			}
		}
		found, err := release.VerifySecrets(cmd.Context(), o, tagOf(args), keys)
		if err != nil {
			return err
		}
		return a.tellVerified(found, *format == "json")
	}
	return cmd
}

func (a *app) tellVerified(found *release.Verified, asJSON bool) error {
	bad := 0
	for _, q := range found.Answers {
		if q.Verdict == secret.No {
			bad++
		}
		if asJSON {
			continue
		}
		fmt.Fprintf(a.Out, "%-8s %s (%d by decrypting, %d by headers)\n", q.Verdict, q.Question, q.Decrypted, q.Headers)
		for _, r := range q.Reasons {
			fmt.Fprintf(a.Out, "         %s\n", r)
		}
	}
	if asJSON {
		if err := a.json(found); err != nil {
			return err
		}
	}
	if bad > 0 {
		return fleet.Errorf(fleet.Bad, fleet.CodeCheck, "%d of %d answers about %s are no", bad, len(found.Answers), fleet.TagName(found.Release.Number))
	}
	return nil
}

// readFleetConfig reads garrison.toml in a work tree.
func readFleetConfig(repo string) (release.Config, error) {
	file := repo + "/" + release.ConfigPath
	data, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return release.Config{}, fleet.Errorf(fleet.Local, fleet.CodeConfig, "cannot read %s", file).WithCause(err)
	}
	return release.ParseConfig(file, data)
}
