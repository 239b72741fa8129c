package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	maxAgentAnswer = 64 << 20 // bytes
	agentTime      = 10 * time.Second
	orderTime      = 30 * time.Second // longer than the agent takes at most
)

// askAgent asks the agent on its socket.
func askAgent(ctx context.Context, socket, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, agentTime)
	defer cancel()
	return callAgent(ctx, socket, http.MethodGet, path, nil, into)
}

// orderAgent gives it an order.
func orderAgent(ctx context.Context, socket string, o fleet.Order) (answer fleet.Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	body, err := json.Marshal(o)
	if err != nil {
		return answer, err
	}
	return answer, callAgent(ctx, socket, http.MethodPost, "/v1/acts", body, &answer)
}

func callAgent(ctx context.Context, socket, method, path string, body []byte, into any) error {
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeRemote, "no agent answers on %s", socket).
			WithHint("is it running, and may you (root, or the group garrison) ask it? systemctl status garrison-agent").WithCause(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, maxAgentAnswer))
	var f fleet.Failure
	switch {
	case err != nil:
	case resp.StatusCode == http.StatusOK:
		err = json.Unmarshal(said, into)
	case json.Unmarshal(said, &f) == nil && f.Message != "":
		return &fleet.Error{Class: f.Class, Code: f.Code, What: f.Message, Hint: f.Hint}
	default:
		return fleet.Errorf(fleet.Local, fleet.CodeRemote, "the agent answers %s", resp.Status).WithHint("is it of another version than this garrison?")
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "the agent's answer cannot be read").WithCause(err)
	}
	return nil
}
