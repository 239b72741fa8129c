package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// completeTime is how long the shell waits for a hub, when somebody asks it to complete a word.
const completeTime = time.Second

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// onlyFirst completes a command's first argument by list.
func onlyFirst(list completion) completion {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return list(cmd, args, word)
	}
}

// asked gets a list from the hub to complete by; nothing when there is none, or it does not answer at once.
func asked[T any](ctx context.Context, f from, path string) (list []T) {
	if f.hub == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	_, _ = f.get(ctx, path, &list)
	return list
}

// named is f with what the environment says.
func (f *from) named() from {
	return from{hub: orElse(f.hub, os.Getenv("GARRISON_HUB")), tokenFile: orElse(f.tokenFile, os.Getenv("GARRISON_HUB_TOKEN_FILE"))}
}

func (f *from) hosts(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, s := range asked[fleet.Status](cmd.Context(), f.named(), "/api/v1/hosts") {
		if strings.HasPrefix(s.Host, word) {
			names = append(names, visible(s.Host)+"\t"+visible(string(s.Phase)))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (f *from) releases(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	names := []string{"newest"}
	for _, r := range asked[fleet.ReleaseView](cmd.Context(), f.named(), "/api/v1/releases") {
		names = append(names, fmt.Sprintf("%d\t%s", r.Release.Number, visible(r.Release.Source.Subject)))
	}
	var fit []string
	for _, n := range names {
		if strings.HasPrefix(n, word) {
			fit = append(fit, n)
		}
	}
	return fit, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// from is the hub as commands ask it that ask about hosts.
func (h *aHub) from() from {
	return from{hub: orElse(orElse(h.url, os.Getenv("GARRISON_HUB")), hubURL), tokenFile: orElse(h.tokenFile, os.Getenv("GARRISON_HUB_TOKEN_FILE"))}
}

func (h *aHub) hosts(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	f := h.from()
	return f.hosts(cmd, args, word)
}
