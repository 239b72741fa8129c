package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// accept is the way out of a refusal for the sake of history.
func (a *app) accept() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "accept COMMIT",
		Short: "Have this host follow a refused release branch from here on",
		Long: `Accept is an operator's word that a release branch that was force-pushed, an older release on it, or a release
tag that was made again is meant. It is for the one commit that garrison status shows as refused, once, and only
about the history: its tag must be signed like any other.`,
		Args: exactly("COMMIT"),
	}
	cmd.Flags().StringVar(&socket, "socket", defaultSocket, "the agent's socket")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := postAgent(cmd.Context(), socket, "/v1/accept", map[string]string{"commit": args[0], "by": operator()}); err != nil {
			return err
		}
		fmt.Fprintf(a.Out, "%.12s is accepted; garrison status shows what becomes of it\n", args[0])
		return nil
	}
	return cmd
}

// operator is who gives the agent an order, as far as this process can tell.
func operator() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

// postAgent gives the agent an order on its socket.
func postAgent(ctx context.Context, socket, path string, order any) error {
	body, err := json.Marshal(order)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeRemote, "no agent answers on %s", socket).
			WithHint("is it running, and may you (root, or the group garrison) ask it? systemctl status garrison-agent").WithCause(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 300 {
		return nil
	}
	var f fleet.Failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAgentAnswer)).Decode(&f); err != nil || f.Message == "" {
		return fleet.Errorf(fleet.Local, fleet.CodeRemote, "the agent answers %s", resp.Status)
	}
	return fleet.Errorf(f.Class, f.Code, "%s", f.Message).WithHint("%s", f.Hint)
}
