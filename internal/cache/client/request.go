package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// request is one call of the cache, which can be made again.
type request struct {
	what        string // for errors: what was attempted
	method, url string
	contentType string
	header      http.Header  // of the request, besides; may be nil
	body        func() body  // nil: none
	maxAnswer   int64        // bytes; 0 means 1 MiB
	into        *http.Header // gets the header of the answer; may be nil
	// line, if set, is called with each line of a success as it comes, of 16 MiB at most; maxAnswer does not count.
	line func([]byte) error
}

// body is what a request sends. size is -1 when it is not known beforehand.
type body struct {
	r    io.ReadCloser
	size int64
	// failed returns why the body could not be produced, once r is closed; nil if it could. It may be nil itself.
	failed func() error
}

func fixedBody(b []byte) func() body {
	return func() body { return body{r: io.NopCloser(bytes.NewReader(b)), size: int64(len(b))} }
}

const (
	firstBackoff   = 100 * time.Millisecond
	longestBackoff = 10 * time.Second
	longestAsked   = time.Minute // that a server's Retry-After is waited for
	stallLimit     = time.Minute // a body that does not move for so long is given up
)

// statusError is an answer that is neither success nor an expected absence.
type statusError struct {
	status     int
	kind       string // "NoSuchCache", "NoSuchObject" and so on; "" when it is not a cache that answers
	message    string
	body       []byte
	retryAfter time.Duration
}

func (e *statusError) Error() string { return fmt.Sprintf("HTTP %d: %s", e.status, e.message) }

// brokenBody wraps what made a body impossible to produce: no retry cures it, unless it is fleet.Transient itself.
type brokenBody struct{ error }

func (b brokenBody) Unwrap() error { return b.error }

// do makes a request, again after failures that may pass, and returns the
// answer's body. Its errors are *fleet.Error or ctx's.
func (c *Client) do(ctx context.Context, r request) (answer []byte, err error) {
	return answer, c.try(ctx, r.what, func() error {
		answer, err = c.once(ctx, r)
		return err
	})
}

// try calls once, again after failures that may pass. what is what was attempted.
func (c *Client) try(ctx context.Context, what string, once func() error) error {
	for attempt := 1; ; attempt++ {
		err := once()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if attempt >= c.cfg.Attempts || !mayPass(err) {
			return c.explain(what, err)
		}
		if err := wait(ctx, backoff(attempt, err)); err != nil {
			return err
		}
	}
}

// backoff doubles from attempt to attempt, with half of it left to chance, and
// is never shorter than what the server asked for (within reason).
func backoff(attempt int, err error) time.Duration {
	d := min(firstBackoff<<(attempt-1), longestBackoff)
	d = d/2 + rand.N(d/2+1)
	var status *statusError
	if errors.As(err, &status) {
		d = max(d, min(status.retryAfter, longestAsked))
	}
	return d
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// mayPass says whether the same request may succeed later.
func mayPass(err error) bool {
	var broken brokenBody
	var told *fleet.Error
	switch {
	case errors.As(err, &told):
		return told.Class == fleet.Transient
	case errors.As(err, &broken):
		return false
	}
	var status *statusError
	if !errors.As(err, &status) {
		return true // the network
	}
	switch status.status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusInsufficientStorage, http.StatusNotImplemented:
		return false
	}
	return status.status >= http.StatusInternalServerError
}

// once makes a request a single time.
func (c *Client) once(ctx context.Context, r request) (_ []byte, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := c.build(ctx, r)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		b := r.body()
		stalled := fmt.Errorf("nothing moved for %s", stallLimit)
		dog := time.AfterFunc(stallLimit, func() { cancel(stalled) })
		defer dog.Stop()
		req.Body, req.ContentLength = &watched{b.r, dog}, b.size
		defer func() {
			b.r.Close()
			if b.failed == nil {
				return
			}
			if failed := b.failed(); failed != nil && err != nil {
				err = brokenBody{failed}
			}
		}()
	}
	res, err := c.cfg.HTTP.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	defer res.Body.Close()
	if r.into != nil {
		*r.into = res.Header
	}
	c.noteExpiry(res)
	return r.read(res)
}

func (c *Client) build(ctx context.Context, r request) (*http.Request, error) {
	if strings.HasPrefix(r.url, "/") { // there is no server
		return nil, fleet.Errorf(fleet.Local, fleet.CodeInvalid, "cannot %s: %s is a plain Nix cache, which is pushed to and read, and nothing else", r.what, c.URL())
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, nil)
	if err != nil {
		return nil, err
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	maps.Copy(req.Header, r.header)
	if c.user != nil {
		password, _ := c.user.Password()
		req.SetBasicAuth(c.user.Username(), password)
	}
	token, err := c.Token()
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, err
}

// Token is what is presented to the cache; "" is nothing.
func (c *Client) Token() (string, error) {
	if c.cfg.Token == nil {
		return "", nil
	}
	token, err := c.cfg.Token()
	var told *fleet.Error
	switch {
	case errors.As(err, &told):
		return "", told
	case err != nil:
		return "", fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "the token for %s cannot be read", c.URL()).WithCause(err).
			WithHint("check the token file that is configured for the cache")
	}
	return strings.TrimSpace(token), nil
}

// read returns the answer's body, and a statusError unless the status is a success.
func (r request) read(res *http.Response) ([]byte, error) {
	most := r.maxAnswer
	if most == 0 {
		most = 1 << 20
	}
	if r.line != nil && res.StatusCode == http.StatusOK {
		return nil, r.lines(res.Body)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, most+1))
	switch {
	case res.StatusCode < 200 || res.StatusCode > 299:
		return nil, statusErrorOf(res, b)
	case err != nil:
		return nil, err
	case int64(len(b)) > most:
		return nil, fmt.Errorf("the answer has more than %d bytes", most)
	}
	return b, nil
}

func (r request) lines(body io.Reader) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if err := r.line(lines.Bytes()); err != nil {
			return err
		}
	}
	return lines.Err()
}

func statusErrorOf(res *http.Response, b []byte) *statusError {
	var e struct {
		Error   string `json:"error"`
		Message string `json:"message"`
	}
	if json.Unmarshal(b, &e) != nil || e.Message == "" {
		e.Message = http.StatusText(res.StatusCode)
	}
	return &statusError{status: res.StatusCode, kind: e.Error, message: e.Message, body: b, retryAfter: retryAfter(res)}
}

// retryAfter is what the server asked for, in either of the two forms that it may have.
func retryAfter(res *http.Response) time.Duration {
	asked := res.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(asked); err == nil {
		return max(0, time.Duration(seconds)*time.Second)
	}
	if at, err := http.ParseTime(asked); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// explain makes of a failure what a person is told.
func (c *Client) explain(what string, err error) error {
	var told *fleet.Error
	if errors.As(err, &told) {
		return told
	}
	var broken brokenBody
	if errors.As(err, &broken) {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot %s: what is to be pushed cannot be read", what).WithCause(broken.error)
	}
	var status *statusError
	if !errors.As(err, &status) {
		return fleet.Errorf(fleet.Transient, fleet.CodeCache, "cannot %s: cache %s cannot be reached", what, c.URL()).WithCause(err).
			WithHint("check that the hub runs and that the cache's URL is right; nothing is lost, run it again")
	}
	switch s := status.status; {
	case c.cfg.Token == nil && (s == http.StatusUnauthorized || s == http.StatusForbidden):
		return fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "cannot %s: cache %s wants a token", what, c.URL()).WithCause(err).
			WithHint("check the cache's name, and name a file with a token that allows this")
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		return fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "cannot %s: cache %s refuses the token: %s", what, c.URL(), status.message).WithCause(err).
			WithHint("check the cache's name, and what the token allows: who may do nothing with a cache is not told whether it is there")
	case s == http.StatusNotFound && status.kind == "NoSuchObject":
		return fleet.Errorf(fleet.Local, fleet.CodeNotFound, "cannot %s", what).WithCause(err)
	case s == http.StatusNotFound && c.base != "":
		return fleet.Errorf(fleet.Local, fleet.CodeNotFound, "cannot %s: there is no cache %s at %s", what, c.name, c.base).WithCause(err).
			WithHint("check the cache's URL: its last part is the cache's name")
	case s == http.StatusNotFound:
		return fleet.Errorf(fleet.Local, fleet.CodeNotFound, "cannot %s: there is no cache at %s", what, c.URL()).WithCause(err).
			WithHint("check the cache's URL; a bucket must be there, and a server must take PUT")
	case mayPass(err):
		return fleet.Errorf(fleet.Transient, fleet.CodeCache, "cannot %s: cache %s fails", what, c.URL()).WithCause(err).
			WithHint("see the hub's log; nothing is lost, run it again")
	}
	return fleet.Errorf(fleet.Local, fleet.CodeCache, "cannot %s: cache %s refuses it", what, c.URL()).WithCause(err)
}

// watched is a body that keeps the watchdog quiet as long as it moves. When it
// has all been sent the transport's own limit for an answer takes over.
type watched struct {
	io.ReadCloser
	dog *time.Timer
}

func (w *watched) Read(b []byte) (int, error) {
	w.dog.Reset(stallLimit)
	n, err := w.ReadCloser.Read(b)
	if err != nil {
		w.dog.Stop()
	}
	return n, err
}
