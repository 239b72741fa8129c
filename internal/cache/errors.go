package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// httpError is a refusal as the client sees it, in the form of Attic's errors.
type httpError struct {
	status     int
	kind       string
	message    string
	retryAfter time.Duration // told as Retry-After; 0 = not at all
	body       []byte        // what json says; nil: to be made
}

// json is the answer's body.
func (e *httpError) json() []byte {
	b, _ := json.Marshal(struct { // a number and texts always marshal
		Code    int    `json:"code"`
		Error   string `json:"error"`
		Message string `json:"message"`
	}{e.status, e.kind, e.message})
	return append(b, '\n')
}

func (e *httpError) Error() string { return e.message }

func badRequest(format string, args ...any) error {
	return &httpError{status: http.StatusBadRequest, kind: "RequestError", message: fmt.Sprintf(format, args...)}
}

// noSuchPath is what most requests of hosts come to: they ask for paths that other caches have.
var noSuchPath = func() *httpError {
	e := &httpError{status: http.StatusNotFound, kind: "NoSuchObject", message: "this path is not here"}
	e.body = e.json()
	return e
}()

func noSuchObject(name string) error {
	return &httpError{status: http.StatusNotFound, kind: "NoSuchObject", message: quoted(name) + " is not here"}
}

func quoted(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most]
	}
	return strconv.Quote(s)
}

// someOf lists the first few of many.
func someOf(list []string) string {
	const most = 5
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d others", strings.Join(list[:most], ", "), len(list)-most)
}

// refusal is the one place that turns an error into a status.
func refusal(err error) *httpError {
	var e *httpError
	var tooLarge *http.MaxBytesError
	var told *fleet.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &told) && told.Code == fleet.CodeInvalid:
		return &httpError{status: http.StatusBadRequest, kind: "RequestError", message: told.Error() + "; " + told.Hint}
	case errors.As(err, &tooLarge):
		return &httpError{status: http.StatusRequestEntityTooLarge, kind: "RequestError", message: fmt.Sprintf("the request has more than %d bytes", tooLarge.Limit)}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &httpError{status: http.StatusInsufficientStorage, kind: "InternalServerError", message: "the cache has no space left"}
	}
	return &httpError{status: http.StatusInternalServerError, kind: "InternalServerError", message: "the cache failed; its log says why"}
}

// fail answers with err. What went wrong inside is logged, not told.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := refusal(err)
	if e.status >= http.StatusInternalServerError && r.Context().Err() == nil {
		s.Log.Error("cache request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	h := w.Header()
	delete(h, "Content-Length")
	delete(h, "Etag")
	h["Cache-Control"], h["Content-Type"] = valueNoStore, valueJSON
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	if e.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Basic realm="garrison"`)
	}
	w.WriteHeader(e.status)
	body := e.body
	if body == nil {
		body = e.json()
	}
	_, _ = w.Write(body) // it fails when the client is gone
}

// writeJSON answers with v. A failure to write means that the client is gone.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// Token returns the token that came with a request: "Authorization: bearer TOKEN",
// or the password of Basic, which is what a netrc gives; "" if there is none.
func Token(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
