package hubtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"github.com/garrison-nix/garrison/internal/hub"
)

// API is the hub's API as its document says it.
type API struct {
	Doc    *openapi3.T
	router routers.Router
}

// NewAPI reads the document that hubs serve. An error says what is wrong with it.
func NewAPI() (*API, error) {
	doc, err := openapi3.NewLoader().LoadFromData(hub.OpenAPI())
	if err != nil {
		return nil, err
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, err
	}
	router, err := legacy.NewRouter(doc)
	return &API{doc, router}, err
}

// mostShown bounds what of an answer is in an error, in bytes.
const mostShown = 2000

// ofCache are the paths below which the cache beside the hub has its own API (docs/FORMATS.md).
var ofCache = []string{"/api/v1/caches", "/api/v1/tokens/"}

func (a *API) concerns(path string) bool {
	ofCache := slices.ContainsFunc(ofCache, func(p string) bool { return strings.HasPrefix(path, p) })
	return path == "/metrics" || strings.HasPrefix(path, "/api/v1/") && !ofCache
}

// Check says in which way an answer is not what the document says of it. Answers of what is not the hub's own API are not looked at, nor is the
// body of a stream.
func (a *API) Check(resp *http.Response, body []byte) error {
	if !a.concerns(resp.Request.URL.Path) {
		return nil
	}
	req := resp.Request.Clone(context.Background())
	req.URL.Scheme, req.URL.Host, req.Host = "", "", ""
	route, params, err := a.router.FindRoute(req)
	if err != nil {
		if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed {
			return nil
		}
		return fmt.Errorf("%s %s is answered by %s, and not in the document: %w", req.Method, req.URL, resp.Status, err)
	}
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route},
		Status:                 resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: isStream(resp)},
	}
	if err := openapi3filter.ValidateResponse(context.Background(), in); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", req.Method, req.URL, err, body[:min(len(body), mostShown)])
	}
	return nil
}

func isStream(resp *http.Response) bool {
	return strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") || resp.Request.URL.Query().Get("follow") != ""
}

// Proofread reads the answers that pass through t. wrong is told of each that is not what the document says.
func (a *API) Proofread(t http.RoundTripper, wrong func(error)) http.RoundTripper {
	return proofreader{a, t, wrong}
}

type proofreader struct {
	*API
	http.RoundTripper
	wrong func(error)
}

// RoundTrip implements http.RoundTripper.
func (p proofreader) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.RoundTripper.RoundTrip(r)
	if err != nil {
		return resp, err
	}
	if resp.Request == nil {
		resp.Request = r
	}
	var body []byte
	if !isStream(resp) {
		if body, err = io.ReadAll(resp.Body); err != nil {
			return nil, err
		}
		if err := resp.Body.Close(); err != nil {
			return nil, err
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
	}
	if err := p.Check(resp, body); err != nil {
		p.wrong(err)
	}
	return resp, nil
}
