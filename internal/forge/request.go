package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	maxAnswer      = 4 << 20          // bytes
	oneRequest     = 30 * time.Second // for a single attempt
	attempts       = 4
	firstBackoff   = 200 * time.Millisecond
	longestAsked   = 20 * time.Second // that a forge's Retry-After is waited for; what asks for more fails at once
	maxPages       = 50               // of a list
	maxRedirects   = 5
	maxSaid        = 300 // characters of what a forge says that are shown
	giteaPageSize  = 50  // the most that Gitea gives at a time, unless it is set otherwise
	othersPageSize = 100
)

// rest speaks HTTP and JSON with one forge, in its dialect.
type rest struct {
	Config
	api  string // without "/" at the end
	http *http.Client
}

// call is one request, which can be made again if again says so.
type call struct {
	what   string     // what is attempted, for errors: "set the status garrison/build of 0123abcd"
	method string     // "" is GET
	path   []string   // below the API's root; each part is escaped
	query  url.Values // may be nil
	body   any        // nil: none
	into   any        // nil: the answer is read and dropped
	again  bool       // it does no harm when it is done twice; a GET never does
	scope  string     // what the token needs for it, in the forge's words
	absent string     // what is not there when the forge says so; "" for the repository
	header *http.Header
}

func newREST(c Config) (*rest, error) {
	r := &rest{Config: c, api: strings.TrimRight(c.API, "/")}
	if r.api == "" {
		r.api = apiOf(c.Kind, c.URL)
	} else if u, err := url.Parse(r.api); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return nil, badConfig("the URL of the forge's API is none of http or https, or has a user in it")
	}
	r.http = boundedHTTP(c.HTTP)
	return r, nil
}

func apiOf(k Kind, base string) string {
	switch {
	case k == GitHub && base == "https://github.com":
		return "https://api.github.com"
	case k == GitHub:
		return base + "/api/v3"
	case k == GitLab:
		return base + "/api/v4"
	}
	return base + "/api/v1"
}

// boundedHTTP is given's, or a client with time limits, which carries a token to no other server.
func boundedHTTP(given *http.Client) *http.Client {
	if given == nil {
		given = &http.Client{Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: oneRequest,
			IdleConnTimeout:       time.Minute,
			MaxIdleConnsPerHost:   2,
			ForceAttemptHTTP2:     true,
		}}
	}
	own := *given
	own.CheckRedirect = redirect
	own.Jar = nil
	return &own
}

// redirect follows where the same request goes on, and leaves the token behind when that is on another server. One by which a POST
// would become a GET is not followed: so a forge answers that knows the repository by another name.
func redirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects || req.Method != via[0].Method {
		return http.ErrUseLastResponse
	}
	from := via[0].URL
	same := req.URL.Scheme == from.Scheme && req.URL.Host == from.Host
	safer := from.Scheme == "http" && req.URL.Scheme == "https" && req.URL.Hostname() == from.Hostname()
	if !same && !safer {
		req.Header.Del("Authorization")
	}
	return nil
}

// answerError is an answer that is no success.
type answerError struct {
	status   int
	header   http.Header
	said     string // what the forge says, in one line
	body     []byte
	location string // where to, if it is a redirect
}

func (e *answerError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("HTTP %d", e.status)
	}
	return fmt.Sprintf("HTTP %d: %s", e.status, e.said)
}

// do makes a request, again after failures that may pass where that is safe. Its errors are *fleet.Error, or ctx's.
func (r *rest) do(ctx context.Context, c call) error {
	token, err := r.token()
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		err := r.once(ctx, c, token)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait, may := backoff(attempt, c, err)
		if !may || attempt == attempts {
			return r.explain(c, token, err)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// token is what Config.Token says, without the line's end that files have.
func (r *rest) token() (string, error) {
	if r.Token == nil {
		return "", nil
	}
	token, err := r.Token()
	if err != nil {
		return "", err
	}
	token = strings.TrimSpace(token)
	if strings.ContainsFunc(token, func(c rune) bool { return c > unicode.MaxASCII || !unicode.IsPrint(c) || c == ' ' }) {
		return "", fleet.Errorf(fleet.Local, fleet.CodeConfig, "the token for %s has characters in it that no token has", r.URL).
			WithHint("the file must hold the token and nothing else")
	}
	return token, nil
}

// backoff says whether the same request may be made again after err, and when.
func backoff(attempt int, c call, err error) (time.Duration, bool) {
	wait := firstBackoff << (attempt - 1)
	wait = wait/2 + rand.N(wait/2+1)
	var answer *answerError
	if !errors.As(err, &answer) {
		var told *fleet.Error
		if errors.As(err, &told) {
			return 0, false
		}
		var op *net.OpError
		neverSent := errors.As(err, &op) && op.Op == "dial"
		return wait, neverSent || c.repeatable()
	}
	asked := answer.asksFor()
	if asked > longestAsked {
		return 0, false
	}
	switch {
	case answer.limited(): // it was not done
		return max(wait, asked), true
	case answer.status >= 500 && answer.status != http.StatusNotImplemented:
		return max(wait, asked), c.repeatable()
	}
	return 0, false
}

func (c call) repeatable() bool { return c.again || c.method == "" }

// limited says whether the forge wants fewer requests. GitHub says so with 403 as well.
func (e *answerError) limited() bool {
	return e.status == http.StatusTooManyRequests ||
		e.status == http.StatusForbidden && (e.header.Get("Retry-After") != "" || e.header.Get("X-Ratelimit-Remaining") == "0")
}

// asksFor is how long the forge wants to be left alone: Retry-After in either of its forms, or GitHub's and GitLab's own.
func (e *answerError) asksFor() time.Duration {
	asked := e.header.Get("Retry-After")
	if seconds, err := strconv.Atoi(asked); err == nil {
		return max(0, time.Duration(seconds)*time.Second)
	}
	if at, err := http.ParseTime(asked); err == nil {
		return max(0, time.Until(at))
	}
	if e.header.Get("X-Ratelimit-Remaining") == "0" {
		if at, err := strconv.ParseInt(e.header.Get("X-Ratelimit-Reset"), 10, 64); err == nil {
			return max(0, time.Until(time.Unix(at, 0)))
		}
	}
	return 0
}

// once makes a request a single time.
func (r *rest) once(ctx context.Context, c call, token string) error {
	ctx, cancel := context.WithTimeout(ctx, oneRequest)
	defer cancel()
	req, err := r.build(ctx, c)
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token) // all three take it so
	}
	res, err := r.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return err
	case len(b) > maxAnswer:
		return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "cannot %s: %s answers with more than %d MiB", c.what, r.URL, maxAnswer>>20)
	case res.StatusCode/100 != 2:
		return &answerError{status: res.StatusCode, header: res.Header, said: said(b), body: b, location: res.Header.Get("Location")}
	}
	if c.header != nil {
		*c.header = res.Header
	}
	if c.into == nil {
		return nil
	}
	if err := json.Unmarshal(b, c.into); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "cannot %s: what %s answers is not what a forge of kind %s says", c.what, r.URL, r.Kind).
			WithCause(err).WithHint("check the forge's URL and kind")
	}
	return nil
}

func (r *rest) build(ctx context.Context, c call) (*http.Request, error) {
	at := r.api
	for _, p := range c.path {
		at += "/" + url.PathEscape(p)
	}
	if len(c.query) > 0 {
		at += "?" + c.query.Encode()
	}
	var body io.Reader
	if c.body != nil {
		b, err := json.Marshal(c.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	method := c.method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, at, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "garrison")
	req.Header.Set("Accept", "application/json")
	if r.Kind == GitHub {
		req.Header.Set("Accept", "application/vnd.github+json")
		req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// said is what a forge says of a failure: one line, and not a long one. GitLab's messages may be lists and objects.
func said(body []byte) string {
	var e struct {
		Message     any    `json:"message"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &e) != nil {
		return ""
	}
	text, ok := e.Message.(string)
	if !ok && e.Message != nil {
		b, _ := json.Marshal(e.Message) // it was JSON
		text = string(b)
	}
	for _, other := range []string{e.Error, e.Description} {
		if text == "" {
			text = other
		} else if other != "" && other != text {
			text += ": " + other
		}
	}
	return cut(oneLine(text), maxSaid)
}

// oneLine is text without what could begin another line, or do worse to a terminal.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}

// cut is text with at most n characters, the last of which says when there were more.
func cut(text string, n int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	count := 0
	for i := range text {
		if count++; count == n {
			if rest := text[i:]; len([]rune(rest)) > 1 {
				return text[:i] + "…"
			}
			break
		}
	}
	return text
}

// pages calls read with the query of each page of a list, until it says that there is no more.
func (r *rest) pages(query url.Values, read func(url.Values) (more bool, err error)) error {
	size, name := othersPageSize, "per_page"
	if r.Kind == Gitea {
		size, name = giteaPageSize, "limit"
	}
	q := url.Values{}
	for k, v := range query {
		q[k] = v
	}
	q.Set(name, strconv.Itoa(size))
	for page := 1; page <= maxPages; page++ {
		q.Set("page", strconv.Itoa(page))
		if more, err := read(q); err != nil || !more {
			return err
		}
	}
	return nil
}
