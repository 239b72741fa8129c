package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Message is what a sender is to tell: of one event, or of several at once.
type Message struct {
	Events   []fleet.Event // at least one
	Title    string        // a line
	Text     string        // some lines, the title not among them
	Severity fleet.Severity
	Resolved bool
}

// Sender tells people, or machines. A call ends when ctx does. Errors are *SendError or tell of what is on this side; no secret of the sender's is in them.
type Sender interface {
	Send(ctx context.Context, m Message) error
}

// SendError is the answer of who did not take a message.
type SendError struct {
	Text  string
	Never bool          // it will not take this very message, however often it is asked
	After time.Duration // it wants to be left alone so long; 0: it did not say
}

// Error is what was answered.
func (e *SendError) Error() string { return e.Text }

const (
	maxAnswer   = 64 << 10 // bytes that are read of an answer
	maxHeader   = 64 << 10
	maxSaid     = 200 // characters of an answer that are shown
	maxAfter    = time.Hour
	maxSecret   = 16 << 10
	dialTime    = 10 * time.Second
	maxMessage  = 16 << 10 // bytes of a text that was made by a template
	maxBacklog  = 100      // deliveries that a sender is told of at once
	leastSecret = 4        // characters that are worth to be hidden
)

// secretFile is a secret's contents, read each time: it may have been changed.
func secretFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("its secret cannot be read: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	text := strings.TrimSpace(string(data))
	switch {
	case err != nil:
		return "", fmt.Errorf("its secret cannot be read: %w", err)
	case len(data) > maxSecret || strings.ContainsFunc(text, func(r rune) bool { return r == '\n' || unicode.IsControl(r) }):
		return "", fmt.Errorf("%s must hold a secret in one line, and nothing else", path)
	case text == "":
		return "", fmt.Errorf("there is nothing in %s, where a secret should be", path)
	}
	return text, nil
}

// hidden is text without secrets, whoever said it.
func hidden(text string, secrets ...string) string {
	for _, s := range secrets {
		if len(s) >= leastSecret {
			text = strings.ReplaceAll(text, s, "…")
		}
	}
	return text
}

// poster makes requests in JSON to one place.
type poster struct {
	http *http.Client
}

// newPoster has its certificates signed by those in caFile, or if that is "" by whom the system believes.
func newPoster(caFile string) (*poster, error) {
	t, err := tlsConfig(caFile)
	if err != nil {
		return nil, err
	}
	return &poster{http: &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: dialTime}).DialContext, TLSHandshakeTimeout: dialTime, TLSClientConfig: t,
			MaxResponseHeaderBytes: maxHeader, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // what is told, and the token, are for that address alone
	}}, nil
}

func tlsConfig(caFile string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("there is no certificate in %s", caFile)
	}
	return c, nil
}

// do makes a request with doc as its body, in JSON unless it is bytes, and returns the beginning of what is answered. What secrets there are is in no error.
func (p *poster) do(ctx context.Context, method, to string, header http.Header, doc any, secrets ...string) ([]byte, error) {
	body, raw := doc.([]byte)
	if !raw {
		var err error
		if body, err = json.Marshal(doc); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("its URL cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", "garrison")
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, unreached(ctx, err, secrets)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		if err != nil {
			return nil, unreached(ctx, err, secrets)
		}
		return answer, nil
	}
	said := oneLine(string(answer), maxSaid)
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		said = "a redirect, which is not followed: correct the URL"
	}
	e := &SendError{Text: "answers " + strconv.Itoa(resp.StatusCode), Never: never(resp.StatusCode), After: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	if said != "" {
		e.Text += ": " + hidden(said, secrets...)
	}
	return answer, e
}

// unreached says why there was no answer. The URL may be a secret, so what net/http says of it is left out.
func unreached(ctx context.Context, err error, secrets []string) error {
	if ctx.Err() != nil {
		return errors.New("does not answer in time")
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return errors.New(hidden(oneLine(err.Error(), maxSaid), secrets...))
}

// never says of which answers the same request will be answered so again. That a token is refused, or a place not there, somebody may mend.
func never(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// retryAfter reads the header of that name, in either of its forms.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxAfter)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(0, at.Sub(now)), maxAfter)
	}
	return 0
}

func bearerHeader(token string) http.Header {
	if token == "" {
		return nil
	}
	return http.Header{"Authorization": {"Bearer " + token}}
}
