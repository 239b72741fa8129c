package forge_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/garrison-nix/garrison/internal/forge"
)

// fake is a server written from a forge's public documentation, and strict: what that does not know is a failure of the test.
type fake struct {
	*httptest.Server
	t   *testing.T
	mux *http.ServeMux

	mu       sync.Mutex
	requests []string
	fault    func(w http.ResponseWriter, r *http.Request) bool // answers in its place; may be nil
	tokens   map[string]fakeToken
}

type fakeToken struct {
	id     int64
	login  string
	kind   string // GitHub: User or Bot
	scopes []string
	admin  bool
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, mux: http.NewServeMux(), tokens: map[string]fakeToken{}}
	f.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("the documentation has no %s %s", r.Method, r.URL.EscapedPath())
		w.WriteHeader(http.StatusNotFound)
	})
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.requests = append(f.requests, r.Method+" "+r.URL.EscapedPath())
		if f.fault != nil && f.fault(w, r) {
			return
		}
		if r.Header.Get("User-Agent") == "" {
			t.Error("no User-Agent")
		}
		f.mux.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) setFault(fault func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.requests = fault, nil
}

// count is how many requests since the last fault was set begin with prefix.
func (f *fake) count(prefix string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

// open is the forge for a token.
func (f *fake) open(k forge.Kind, repo, token string) forge.Forge {
	f.t.Helper()
	c := forge.Config{Kind: k, URL: f.URL, Repo: repo}
	if token != "" {
		c.Token = func() (string, error) { return token + "\n", nil }
	}
	fo, err := forge.Open(c)
	if err != nil {
		f.t.Fatal(err)
	}
	return fo
}

// read is a request's body, strictly: a JSON object with fields of into only.
func (f *fake) read(r *http.Request, into any) {
	f.t.Helper()
	if got := r.Header.Get("Content-Type"); got != "application/json" {
		f.t.Errorf("%s %s: Content-Type %q", r.Method, r.URL.Path, got)
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		f.t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// page is the part of all that a request asks for; known are its other parameters.
func page[T any](f *fake, r *http.Request, all []T, known ...string) []T {
	f.t.Helper()
	q := r.URL.Query()
	for name := range q {
		if name != "page" && name != "per_page" && !slices.Contains(known, name) {
			f.t.Errorf("%s: there is no parameter %s", r.URL.Path, name)
		}
	}
	size, no := 30, 1
	for name, into := range map[string]*int{"per_page": &size, "page": &no} {
		if v := q.Get(name); v != "" {
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 {
				f.t.Errorf("%s=%s", name, v)
			}
			*into = n
		}
	}
	size = min(size, 100)
	from := min((no-1)*size, len(all))
	return append([]T{}, all[from:min(from+size, len(all))]...)
}

// only checks that a request has no parameters.
func (f *fake) only(r *http.Request) {
	if r.URL.RawQuery != "" {
		f.t.Errorf("%s takes no parameters: %s", r.URL.Path, r.URL.RawQuery)
	}
}

const (
	tip   = "7b5c3cc8be40ee161ae89a06bba6229da1032a0c"
	other = "4ad91d3c1144c406e50c7b33bae684bd6837faf8"
)

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

func str(v any) string { return fmt.Sprintf("%+v", v) }
