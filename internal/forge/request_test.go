package forge_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
)

func asError(err error, into **fleet.Error) bool { return errors.As(err, into) }

func hintOf(err error) string {
	var e *fleet.Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

var aStatus = forge.Status{Context: "garrison/build", State: forge.Success, Text: "took 3s"}

func TestOpen(t *testing.T) {
	for _, c := range []forge.Config{
		{Kind: forge.Gitea, URL: "git.example", Repo: "a/b"}, {Kind: forge.Gitea, URL: "ftp://git.example", Repo: "a/b"},
		{Kind: forge.Gitea, URL: "https://u:s3cret@git.example", Repo: "a/b"}, {Kind: forge.Gitea, URL: "https://git.example?x=s3cret", Repo: "a/b"},
		{Kind: forge.Gitea, URL: "https://git.example", Repo: "a"}, {Kind: forge.Gitea, URL: "https://git.example", Repo: "a/b/c"},
		{Kind: forge.GitLab, URL: "https://git.example", Repo: "a/../c"}, {Kind: forge.GitHub, URL: "https://git.example", Repo: "a/b?x"},
		{Kind: "x", URL: "https://git.example", Repo: "a/b"}, {URL: "https://git.example", Repo: "a/b"},
		{Kind: forge.Gitea, URL: "https://git.example", API: "https://u:s3cret@git.example/api", Repo: "a/b"}, {Kind: forge.Gitea, URL: "https://s3cret\x7f", Repo: "a/b"},
	} {
		if _, err := forge.Open(c); fleet.CodeOf(err) != fleet.CodeConfig || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for k, want := range map[forge.Kind]string{forge.Gitea: "https://x/f/a/b/commit/1", forge.GitHub: "https://x/f/a/b/commit/1", forge.GitLab: "https://x/f/a/b/-/commit/1"} {
		f, err := forge.Open(forge.Config{Kind: k, URL: "https://x/f/", Repo: "a/b"})
		if err != nil || f.CommitURL("1") != want {
			t.Errorf("%s: %v", k, err)
		}
	}
}

// TestRetries: what may pass is tried again where that does no harm, and never for long.
func TestRetries(t *testing.T) {
	refuse := func(times, status int, header ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			if times--; times < 0 {
				return false
			}
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			return true
		}
	}
	propose := func(ctx context.Context, f forge.Forge) error {
		_, err := f.Propose(ctx, forge.Proposal{Head: "x", Base: "main", Title: "x"})
		return err
	}
	onlyPost := func(g func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool { return r.Method == http.MethodPost && g(w, r) }
	}
	status := func(ctx context.Context, f forge.Forge) error { return f.SetStatus(ctx, tip, aStatus) }
	for name, c := range map[string]struct {
		do    func(context.Context, forge.Forge) error
		fault func(http.ResponseWriter, *http.Request) bool
		posts int
		class fleet.Class // "" when it succeeds
	}{
		"a bad gateway passes":            {status, refuse(2, http.StatusBadGateway), 3, ""},
		"one that lasts is transient":     {status, refuse(99, http.StatusInternalServerError), 4, fleet.Transient},
		"too many requests":               {status, refuse(1, http.StatusTooManyRequests, "Retry-After", "1"), 2, ""},
		"GitHub's way to say so":          {status, refuse(1, http.StatusForbidden, "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1"), 2, ""},
		"an hour is not waited for":       {status, refuse(1, http.StatusTooManyRequests, "Retry-After", "3600"), 1, fleet.Transient},
		"not implemented does not pass":   {status, refuse(1, http.StatusNotImplemented), 1, fleet.Transient},
		"a refusal is final":              {status, refuse(1, http.StatusUnprocessableEntity), 1, fleet.Local},
		"a pull request is made once":     {propose, onlyPost(refuse(1, http.StatusBadGateway)), 1, fleet.Transient},
		"but asked for when it was not":   {propose, onlyPost(refuse(1, http.StatusTooManyRequests, "Retry-After", "0")), 2, ""},
		"a connection that breaks passes": {status, func() func(http.ResponseWriter, *http.Request) bool { return breaks(1) }(), 2, ""},
		"but no pull request is repeated": {propose, onlyPost(breaks(1)), 1, fleet.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGitHub(t)
			f := g.with("fine")
			g.setFault(c.fault)
			err := c.do(t.Context(), f)
			if (err == nil) != (c.class == "") || err != nil && fleet.ClassOf(err) != c.class || g.count("POST ") != c.posts {
				t.Errorf("%d requests, %v", g.count("POST "), err)
			}
		})
	}
}

func breaks(times int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		if times--; times < 0 {
			return false
		}
		if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
			c.Close()
		}
		return true
	}
}

// TestDown: nobody listens, or nobody answers.
func TestDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := "http://" + l.Addr().String()
	f, err := forge.Open(forge.Config{Kind: forge.Gitea, URL: at, Repo: "a/b", Token: func() (string, error) { return "t0ken", nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.SetStatus(ctx, tip, aStatus); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	l.Close()
	if err := f.SetStatus(t.Context(), tip, aStatus); fleet.CodeOf(err) != fleet.CodeForge || fleet.ClassOf(err) != fleet.Transient || !strings.Contains(err.Error(), at+" cannot be reached") {
		t.Errorf("%v", err)
	}
}

// TestBounds: too long an answer, one of something else, a token that is none.
func TestBounds(t *testing.T) {
	g := newGitHub(t)
	g.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = io.Copy(w, io.LimitReader(endless{}, 5<<20))
		return true
	})
	if _, err := g.with("fine").Statuses(t.Context(), tip); fleet.CodeOf(err) != fleet.CodeInvalid || !strings.Contains(err.Error(), "more than 4 MiB") || g.count("GET ") != 1 {
		t.Errorf("%v", err)
	}
	g.setFault(func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = io.WriteString(w, "<html>welcome</html>")
		return true
	})
	if _, err := g.with("fine").Statuses(t.Context(), tip); fleet.CodeOf(err) != fleet.CodeInvalid || !strings.Contains(err.Error(), "not what a forge of kind github says") {
		t.Errorf("%v", err)
	}
	g.setFault(nil)
	for _, bad := range []string{"two\nlines", "a b", "ä"} {
		if err := g.with(bad).SetStatus(t.Context(), tip, aStatus); fleet.CodeOf(err) != fleet.CodeConfig || strings.Contains(err.Error(), bad) || g.count("") != 0 {
			t.Errorf("%v", err)
		}
	}
	broken := errors.New("no such file")
	f, err := forge.Open(forge.Config{Kind: forge.GitHub, URL: g.URL, Repo: "a/b", Token: func() (string, error) { return "", broken }})
	if err != nil || !errors.Is(f.SetStatus(t.Context(), tip, aStatus), broken) {
		t.Errorf("%v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// TestTokenStaysSecret although the forge repeats it, in whatever it can.
func TestTokenStaysSecret(t *testing.T) {
	const token = "s3cret-t0ken"
	for _, status := range []int{301, 400, 401, 403, 404, 429, 500} {
		g := newGitHub(t)
		g.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.String(), token) {
				t.Error("the token is in the URL")
			}
			w.Header().Set("Location", "http://other.example/"+token+"?"+token)
			w.Header().Set("X-Accepted-GitHub-Permissions", token)
			w.Header().Set("Retry-After", "999")
			answer(w, status, map[string]string{"message": "your token is " + token})
			return true
		})
		err := g.with(token).SetStatus(t.Context(), tip, aStatus)
		if err == nil {
			t.Fatal(status)
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(e.Error()+hintOf(e), token) {
				t.Errorf("%d: %v; %s", status, e, hintOf(e))
			}
		}
	}
}

// TestRedirects: a read follows one, a write only if it stays what it is; the token goes to no other server.
func TestRedirects(t *testing.T) {
	var seen []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Method+" "+r.Header.Get("Authorization"))
		_, _ = io.WriteString(w, `{"statuses":[]}`)
	}))
	defer elsewhere.Close()
	g := newGitHub(t)
	f := g.with("fine")
	to := elsewhere.URL
	status := http.StatusMovedPermanently
	moved := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/api/v3/") {
			return false
		}
		http.Redirect(w, r, to+"/moved"+r.URL.Path, status)
		return true
	}
	g.setFault(moved)
	if _, err := f.Statuses(t.Context(), tip); err != nil || len(seen) != 1 || seen[0] != "GET " {
		t.Errorf("%v, %q", err, seen)
	}
	err := f.SetStatus(t.Context(), tip, aStatus)
	if fleet.CodeOf(err) != fleet.CodeNotFound || len(seen) != 1 || !strings.Contains(hintOf(err), elsewhere.URL+"/moved/") {
		t.Errorf("%v; %s, %q", err, hintOf(err), seen)
	}
	status = http.StatusTemporaryRedirect
	if err := f.SetStatus(t.Context(), tip, aStatus); err != nil || len(seen) != 2 || seen[1] != "POST " {
		t.Errorf("%v, %q", err, seen)
	}
	to = "" // on the same server
	g.mux.HandleFunc("POST /moved/", func(_ http.ResponseWriter, r *http.Request) { seen = append(seen, r.Header.Get("Authorization")) })
	if err := f.SetStatus(t.Context(), tip, aStatus); err != nil || len(seen) != 3 || seen[2] != "Bearer fine" {
		t.Errorf("%v, %q", err, seen)
	}
}
