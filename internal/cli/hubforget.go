package cli

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func (a *app) hubForget() *cobra.Command {
	var h aHub
	cmd := &cobra.Command{
		Use:   "forget HOST",
		Short: "Have a hub forget a host that is no more: its status, history, logs",
		Long: `Forget removes what a hub knows of a host; what happened there stays among the events. It needs a token of scope operate. A host that still reports
comes back with its next report, with its whole history.`,
		Args: exactly("the HOST"),
	}
	h.flags(cmd)
	cmd.ValidArgsFunction = onlyFirst(h.hosts)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !fleet.ValidHostName(args[0]) {
			return usage(cmd, fmt.Errorf("%q cannot be a host's name", args[0]))
		}
		f := h.from()
		_, err := askHub(cmd.Context(), f.hub, f.tokenFile, http.MethodDelete, "/api/v1/hosts/"+url.PathEscape(args[0]))
		return err
	}
	return cmd
}
