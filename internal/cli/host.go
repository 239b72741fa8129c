package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/stream"
)

const (
	defaultSocket  = "/run/garrison/agent.sock"
	maxAgentAnswer = 64 << 20 // bytes
	askTime        = 10 * time.Second
	reconnectAfter = time.Second
)

// from is where a command asks about a host: its own agent, or a hub.
type from struct {
	socket, hub, tokenFile, host string
}

func (f *from) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.socket, "socket", defaultSocket, "the agent's socket")
	f.hubFlags(cmd)
	fl.StringVar(&f.host, "host", "", "the host to ask the hub about")
	_ = cmd.RegisterFlagCompletionFunc("host", f.hosts)
}

func (f *from) hubFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.hub, "hub", "", "URL of a hub to ask (default: $GARRISON_HUB)")
	cmd.Flags().StringVar(&f.tokenFile, "token-file", "", "file with a token of scope read for the hub (default: $GARRISON_HUB_TOKEN_FILE)")
}

// resolve fills in what the environment says, and checks what was given. Without a host, a hub is asked about all,
// if all is true.
func (f *from) resolve(cmd *cobra.Command, all bool) error {
	if f.hub == "" && !cmd.Flags().Changed("socket") {
		f.hub = os.Getenv("GARRISON_HUB")
	}
	if f.hub != "" && f.tokenFile == "" {
		f.tokenFile = os.Getenv("GARRISON_HUB_TOKEN_FILE")
	}
	switch {
	case f.host != "" && f.hub == "":
		return usage(cmd, errors.New("--host needs a hub to ask: give --hub"))
	case f.hub != "" && f.host == "" && !all:
		return usage(cmd, errors.New("--host is missing: about which host shall the hub be asked?"))
	case f.host != "" && !fleet.ValidHostName(f.host):
		return usage(cmd, fmt.Errorf("%q cannot be a host's name", f.host))
	}
	return nil
}

// open asks for what the agent has at /v1/WHAT, or the hub at /api/v1/hosts/HOST/WHAT. "status" is the host itself.
func (f *from) open(ctx context.Context, what string) (io.ReadCloser, error) {
	if f.hub == "" {
		return openAgent(ctx, f.socket, http.MethodGet, "/v1/"+what, nil)
	}
	path := "/api/v1/hosts/" + url.PathEscape(f.host)
	if what != "status" {
		path += "/" + what
	}
	resp, err := openHub(ctx, f.hub, f.tokenFile, http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// ask is open for an answer in JSON, within a time.
func (f *from) ask(ctx context.Context, most time.Duration, what string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	body, err := f.open(ctx, what)
	if err != nil {
		return err
	}
	defer body.Close()
	return readAnswer(body, into)
}

// openAgent makes a request on the agent's socket.
func openAgent(ctx context.Context, socket, method, path string, body []byte) (io.ReadCloser, error) {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeRemote, "no agent answers on %s", socket).
			WithHint("is it running, and may you (root, or the group garrison) ask it? systemctl status garrison-agent").WithCause(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var f fleet.Failure
	if json.Unmarshal(said, &f) == nil && f.Message != "" {
		return nil, &fleet.Error{Class: f.Class, Code: f.Code, What: f.Message, Hint: f.Hint}
	}
	code := fleet.CodeRemote
	if resp.StatusCode == http.StatusNotFound {
		code = fleet.CodeNotFound
	}
	return nil, fleet.Errorf(fleet.Local, code, "the agent answers %s: %s", resp.Status, strings.TrimSpace(string(said)))
}

// orderTime is longer than the agent takes over an order at most.
const orderTime = 30 * time.Second

// orderAgent gives the agent an order.
func orderAgent(ctx context.Context, socket string, o fleet.Order) (answer fleet.Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	order, err := json.Marshal(o)
	if err != nil {
		return answer, err
	}
	body, err := openAgent(ctx, socket, http.MethodPost, "/v1/acts", order)
	if err != nil {
		return answer, err
	}
	defer body.Close()
	return answer, readAnswer(body, &answer)
}

func readAnswer(body io.Reader, into any) error {
	if err := json.NewDecoder(newPlainJSON(io.LimitReader(body, maxAgentAnswer))).Decode(into); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "the answer cannot be read").WithCause(err)
	}
	return nil
}

// watch hands see the status as it is now, and whenever it changed, until that returns true or an error.
func (f *from) watch(ctx context.Context, see func(fleet.Status) (done bool, err error)) error {
	now := func() (bool, error) { return false, nil } // an agent's stream begins with it
	if f.hub != "" {
		now = func() (bool, error) {
			var s fleet.Status
			if err := f.ask(ctx, askTime, "status", &s); err != nil {
				return false, err
			}
			return see(s)
		}
	}
	return f.listen(ctx, now, func(e fleet.StreamEvent) (bool, error) {
		if e.Status == nil || f.host != "" && e.Status.Host != f.host {
			return false, nil
		}
		return see(*e.Status)
	})
}

// listen hands see what a stream says, until that returns true or an error. A stream that ends is opened again: agents and hubs are restarted, too.
// Whenever one has begun, now looks at how things are; what changes after that is in the stream.
func (f *from) listen(ctx context.Context, now func() (done bool, err error), see func(fleet.StreamEvent) (done bool, err error)) error {
	for connected := false; ; {
		done, err := f.listenOnce(ctx, func() (bool, error) {
			done, err := now()
			connected = connected || err == nil
			return done, err
		}, see)
		if done || ctx.Err() != nil {
			return err
		}
		if !connected {
			return err // it was never there
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(reconnectAfter):
		}
	}
}

// listenOnce is listen for one stream. done says that there is no more to see; else err is why the stream ended.
func (f *from) listenOnce(ctx context.Context, now func() (bool, error), see func(fleet.StreamEvent) (bool, error)) (done bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(stream.Silence, cancel)
	defer silence.Stop()
	var body io.ReadCloser
	if f.hub == "" {
		body, err = openAgent(ctx, f.socket, http.MethodGet, "/v1/watch", nil)
	} else {
		var resp *http.Response
		if resp, err = openHub(ctx, f.hub, f.tokenFile, http.MethodGet, "/api/v1/stream"); err == nil {
			body = resp.Body
		}
	}
	if err != nil {
		return false, err
	}
	defer body.Close()
	if done, err := now(); done || err != nil {
		return done || fleet.ClassOf(err) != fleet.Transient, err
	}
	done, err = stream.Read(newPlainJSON(body), func() { silence.Reset(stream.Silence) }, see)
	if done {
		return true, err
	}
	return false, fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the stream of changes ended").WithCause(err)
}
