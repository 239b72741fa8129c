package drill

import (
	"context"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// browser is a person at the hub's page: links are followed, forms are filled in and sent, with the session's cookie.
type browser struct{ http *http.Client }

// logIn begins a session with a token that may read, and nothing else.
func (w *world) logIn(ctx context.Context) (*browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	b := &browser{&http.Client{Transport: w.hub.Transport, Jar: jar}}
	_, err = b.post(ctx, hubURL, "/-/login", url.Values{"token": {w.token("demo")}, "to": {"/-/rollout"}}, http.StatusOK)
	return b, err
}

func (b *browser) get(ctx context.Context, path string) (string, error) {
	return b.ask(ctx, http.MethodGet, hubURL, path, nil, http.StatusOK)
}

// post sends a form as one of a page of that origin, whose answer is to have a status.
func (b *browser) post(ctx context.Context, origin, path string, form url.Values, status int) (string, error) {
	return b.ask(ctx, http.MethodPost, origin, path, form, status)
}

func (b *browser) ask(ctx context.Context, method, origin, path string, form url.Values, status int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, hubURL+path, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", "text/html") // it is the cache that answers who asks for anything else at /
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", origin)
	}
	resp, err := b.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && resp.StatusCode != status {
		err = fmt.Errorf("%s %s: %s, and not %d: %.2000s", method, path, resp.Status, status, read(string(text)))
	}
	return string(text), err
}

const orderPath = "/-/rollout/order"

// hidden are the fields that a form brings along.
var hidden = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// form is the one to order something by, to which the page of the roll-out leads; with a reason, and without a token.
func (b *browser) form(ctx context.Context, act, reason string) (url.Values, error) {
	text, err := b.get(ctx, "/-/rollout")
	if err != nil {
		return nil, err
	}
	link := regexp.MustCompile(`href="(` + orderPath + `\?act=` + act + `[^"]*)"`).FindStringSubmatch(text)
	if link == nil {
		return nil, fmt.Errorf("nothing on the page leads to the order %q: %.2000s", act, read(text))
	}
	if text, err = b.get(ctx, html.UnescapeString(link[1])); err != nil {
		return nil, err
	}
	f := url.Values{"reason": {reason}}
	for _, field := range hidden.FindAllStringSubmatch(text, -1) {
		f.Set(field[1], html.UnescapeString(field[2]))
	}
	return f, nil
}

// order sends such a form with a token ("" for none).
func (b *browser) order(ctx context.Context, origin string, f url.Values, token string, status int) (string, error) {
	f.Set("token", token)
	return b.post(ctx, origin, orderPath, f, status)
}

var tag = regexp.MustCompile(`<[^>]*>`)

// read is what a person reads of a piece of a page.
func read(text string) string {
	return html.UnescapeString(strings.Join(strings.Fields(tag.ReplaceAllString(text, " ")), " "))
}

// onPage is the line of a page with a text in it, as a person reads it.
func onPage(page, want string) (string, error) {
	for line := range strings.Lines(page) {
		if line = read(line); strings.Contains(line, want) {
			return line, nil
		}
	}
	return "", fmt.Errorf("%q is not on the page: %.2000s", want, read(page))
}
