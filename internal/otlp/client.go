package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	defaultTimeout = 10 * time.Second // of one request, as OpenTelemetry's own exporters have it
	maxAnswer      = 64 << 10
)

// Client sends spans to a collector.
type Client struct {
	URL     string                      // to post to, with its path
	Headers func() (http.Header, error) // of every request, read each time; may be nil
	HTTP    *http.Client
	Timeout time.Duration // of a request; 0: 10 s
	Version string        // of Garrison
}

// Export sends spans, all in one request. The collector may not have taken all: rejected is how many, and said why. Errors are fleet.Errors: with class Bad,
// nothing is gained by sending the same again; with another, somebody or time may help.
func (c *Client) Export(ctx context.Context, spans []Span) (rejected int, said string, err error) {
	body, err := c.body(spans)
	if err != nil {
		return 0, "", fleet.Errorf(fleet.Bad, fleet.CodeInternal, "spans cannot be written").WithCause(err)
	}
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return 0, "", fleet.Errorf(fleet.Local, fleet.CodeConfig, "%q is not a collector's URL", c.URL).WithCause(err)
	}
	if c.Headers != nil {
		if req.Header, err = c.Headers(); err != nil {
			return 0, "", err
		}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Set("User-Agent", "garrison/"+c.Version)
	resp, err := c.HTTP.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return 0, "", fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the trace collector %s cannot be reached", req.URL.Redacted()).WithCause(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // what it says besides its status is of little weight
	if resp.StatusCode >= 300 {
		return 0, "", refusal(resp, answer)
	}
	var r response
	_ = json.Unmarshal(answer, &r) // an empty answer, or one in another form, is a success
	return int(r.PartialSuccess.RejectedSpans), r.PartialSuccess.ErrorMessage, nil
}

func (c *Client) body(spans []Span) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(encode(spans, c.Version)); err != nil {
		return nil, err
	}
	err := z.Close()
	return b.Bytes(), err
}

// refusal is why the collector did not take a request.
func refusal(resp *http.Response, answer []byte) error {
	said := strings.TrimSpace(string(answer[:min(len(answer), 300)]))
	if said != "" {
		said = ": " + said
	}
	e := fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the trace collector %s answers %s%s", resp.Request.URL.Redacted(), resp.Status, said)
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		e.Class, e.Code, e.Hint = fleet.Local, fleet.CodeUnauthorized, "give it the headers that it wants"
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode < 400:
		e.Class, e.Code, e.Hint = fleet.Local, fleet.CodeNotFound, "is that its OTLP/HTTP receiver?"
	case resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusRequestEntityTooLarge || resp.StatusCode == http.StatusUnprocessableEntity:
		e.Class, e.Code = fleet.Bad, fleet.CodeInvalid
	}
	return e
}
