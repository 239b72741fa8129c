package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/hub"
)

// commitStatus is what ci status prints.
type commitStatus struct {
	Schema   int            `json:"schema"`
	Commit   string         `json:"commit"`
	State    forge.State    `json:"state"` // pending while nothing is said, or something is; failure when anything failed; else success
	Statuses []forge.Status `json:"statuses"`
}

func (a *app) ciStatus() *cobra.Command {
	var repo, remote, tokenFile string
	cmd := &cobra.Command{
		Use:   "status COMMIT",
		Short: "Show what CI, any CI, told the forge of a commit",
		Args:  exactly("COMMIT"),
	}
	format := output(cmd)
	cmd.Flags().StringVar(&repo, "repo", ".", "a clone of the repository")
	cmd.Flags().StringVar(&remote, "remote", "origin", "name or URL of the remote at the forge")
	cmd.Flags().StringVar(&tokenFile, "forge-token", "", "file with the forge's token (default: $GARRISON_FORGE_TOKEN_FILE, or the token in $GARRISON_FORGE_TOKEN)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), askTime)
		defer cancel()
		s, err := statusOf(ctx, repo, remote, tokenFile, args[0])
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(s)
		}
		fmt.Fprintf(a.Out, "%s  %s\n", short(s.Commit), s.State)
		for _, x := range s.Statuses {
			fmt.Fprintf(a.Out, "  %-8s %s  %s\n", x.State, x.Context, x.Text)
		}
		return nil
	}
	return cmd
}

// statusOf asks the forge that a remote is at.
func statusOf(ctx context.Context, repo, remote, tokenFile, commit string) (commitStatus, error) {
	s := commitStatus{Schema: 1, Commit: commit, State: forge.Pending}
	r, err := git.Open(ctx, repo)
	if err != nil {
		return s, err
	}
	address, err := r.Address(ctx, remote)
	if err != nil {
		return s, err
	}
	c, ok := forge.Detect(address)
	if !ok {
		return s, fleet.Errorf("", fleet.CodeForge, "the remote %s is at no forge", remote)
	}
	if c, err = forge.Identify(ctx, c); err != nil {
		return s, err
	}
	if file := orElse(tokenFile, os.Getenv("GARRISON_FORGE_TOKEN_FILE")); file != "" {
		c.Token = tokenFrom(file)
	} else if token := strings.TrimSpace(os.Getenv("GARRISON_FORGE_TOKEN")); token != "" {
		c.Token = func() (string, error) { return token, nil }
	}
	api, err := forge.Open(c)
	if err != nil {
		return s, err
	}
	if s.Statuses, err = api.Statuses(ctx, commit); err != nil {
		return s, err
	}
	s.State = together(s.Statuses)
	return s, nil
}

// together is what CI's statuses come to. That of the roll-out is none of them: a hub tells of the hosts by it.
func together(all []forge.Status) forge.State {
	all = slices.DeleteFunc(slices.Clone(all), func(s forge.Status) bool { return s.Context == hub.RolloutContext })
	state := forge.Success
	if len(all) == 0 {
		state = forge.Pending
	}
	for _, x := range all {
		switch {
		case x.State == forge.Failure, x.State == forge.Error:
			return forge.Failure
		case x.State == forge.Pending:
			state = forge.Pending
		}
	}
	return state
}
