package forge_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
)

func TestDetect(t *testing.T) {
	for remote, want := range map[string]forge.Config{
		"https://github.com/fleet/nixos.git":                   {Kind: forge.GitHub, URL: "https://github.com", Repo: "fleet/nixos"},
		"git@github.com:fleet/nixos.git":                       {Kind: forge.GitHub, URL: "https://github.com", Repo: "fleet/nixos"},
		"ssh://git@ssh.github.com:443/fleet/nixos.git":         {Kind: forge.GitHub, URL: "https://github.com", Repo: "fleet/nixos"},
		"https://x-access-token:s3cret@GitHub.com/fleet/nixos": {Kind: forge.GitHub, URL: "https://github.com", Repo: "fleet/nixos"},
		"git@gitlab.com:fleet/prod/nixos.git":                  {Kind: forge.GitLab, URL: "https://gitlab.com", Repo: "fleet/prod/nixos"},
		"http://codeberg.org/fleet/nixos/":                     {Kind: forge.Gitea, URL: "https://codeberg.org", Repo: "fleet/nixos"},
		"https://git.example.org:3000/fleet/nixos.git":         {URL: "https://git.example.org:3000", Repo: "fleet/nixos"},
		"http://127.0.0.1:3000/fleet/nixos":                    {URL: "http://127.0.0.1:3000", Repo: "fleet/nixos"},
		"ssh://git@git.example.org:2222/fleet/nixos.git":       {URL: "https://git.example.org", Repo: "fleet/nixos"},
		"forgejo@git.example.org:fleet/nixos":                  {URL: "https://git.example.org", Repo: "fleet/nixos"},
		"git@[2001:db8::1]:fleet/nixos.git":                    {URL: "https://[2001:db8::1]", Repo: "fleet/nixos"},
		"[2001:db8::1]:fleet/nixos.git":                        {URL: "https://[2001:db8::1]", Repo: "fleet/nixos"},
		"ssh://git@[2001:db8::1]:2222/fleet/nixos":             {URL: "https://[2001:db8::1]", Repo: "fleet/nixos"},
		"https://example.org/git/fleet/nixos.git":              {URL: "https://example.org", Repo: "git/fleet/nixos"},
	} {
		got, ok := forge.Detect(remote)
		if !ok || got.Kind != want.Kind || got.URL != want.URL || got.Repo != want.Repo || strings.Contains(got.URL, "s3cret") {
			t.Errorf("%s: %v, %+v", remote, ok, got)
		}
	}
	for _, remote := range []string{"", "/srv/nixos.git", "./nixos", "nixos", "file:///srv/a/nixos", `C:\fleet\nixos`, "https://github.com/fleet", "https://github.com/a/b/c", "https://git.example/", "git@host:nixos",
		"https://git.example/a/../b", "https://git.example/a/b?c", "ssh://", "a/b:c/d", "git@host:", "https://git.example/a%0ab/c", "ssh://g]::2/a/b", "ext::sh -c x"} {
		if got, ok := forge.Detect(remote); ok {
			t.Errorf("%s: %+v", remote, got)
		}
	}
}

func FuzzDetect(f *testing.F) {
	for _, s := range []string{"https://u:p@github.com/fleet/nixos.git", "git@h:a/b", "ssh://git@[::1]:22/a/b", "[::1]:a/b", "https://h/a/b/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, remote string) {
		c, ok := forge.Detect(remote)
		if !ok {
			return
		}
		if c.Kind == "" {
			c.Kind = forge.GitLab
		}
		if _, err := forge.Open(c); err != nil {
			t.Errorf("%q: %+v: %v", remote, c, err)
		}
	})
}

// TestIdentify: a server of each kind, below a folder too, one that wants to know who asks, and one that is none of them.
func TestIdentify(t *testing.T) {
	var answers map[string]func(http.ResponseWriter)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the token is sent to whom nobody knows")
		}
		if a := answers[r.URL.Path]; a != nil {
			a(w)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "<html>404</html>")
	}))
	defer s.Close()
	says := func(status int, body string, header ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		repo    string
		answers map[string]func(http.ResponseWriter)
		want    forge.Config
		code    fleet.Code
	}{
		"gitea":             {"a/b", map[string]func(http.ResponseWriter){"/api/v1/version": says(200, `{"version":"1.26.0"}`)}, forge.Config{Kind: forge.Gitea, URL: s.URL, Repo: "a/b"}, ""},
		"gitea that is shy": {"a/b", map[string]func(http.ResponseWriter){"/api/v1/version": says(403, `{"message":"Only signed in user is allowed to call APIs.","url":"http://x/api/swagger"}`)}, forge.Config{Kind: forge.Gitea, URL: s.URL, Repo: "a/b"}, ""},
		"in a folder":       {"git/a/b", map[string]func(http.ResponseWriter){"/git/api/v1/version": says(200, `{"version":"13.0.0+gitea-1.22.0"}`)}, forge.Config{Kind: forge.Gitea, URL: s.URL + "/git", Repo: "a/b"}, ""},
		"gitlab":            {"a/b/c", map[string]func(http.ResponseWriter){"/api/v4/version": says(401, `{"message":"401 Unauthorized"}`)}, forge.Config{Kind: forge.GitLab, URL: s.URL, Repo: "a/b/c"}, ""},
		"github":            {"a/b", map[string]func(http.ResponseWriter){"/api/v3/meta": says(200, `{}`, "X-GitHub-Request-Id", "1")}, forge.Config{Kind: forge.GitHub, URL: s.URL, Repo: "a/b"}, ""},
		"none":              {"a/b", map[string]func(http.ResponseWriter){"/api/v3/meta": says(200, `{}`), "/api/v1/version": says(200, `[]`), "/api/v4/version": says(401, "")}, forge.Config{}, fleet.CodeNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			answers = c.answers
			token := func() (string, error) { return "t0ken", nil }
			got, err := forge.Identify(t.Context(), forge.Config{URL: s.URL, Repo: c.repo, Token: token})
			if fleet.CodeOf(err) != c.code || got.Kind != c.want.Kind || got.URL != c.want.URL || got.Repo != c.want.Repo || err == nil && got.Token == nil {
				t.Errorf("%v, %+v", err, got)
			}
		})
	}
	s.Close()
	if _, err := forge.Identify(t.Context(), forge.Config{URL: s.URL, Repo: "a/b"}); fleet.ClassOf(err) != fleet.Transient {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := forge.Identify(ctx, forge.Config{URL: s.URL, Repo: "a/b"}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if got, err := forge.Identify(ctx, forge.Config{Kind: forge.GitHub, URL: "https://github.com", Repo: "a/b"}); err != nil || got.Kind != forge.GitHub {
		t.Errorf("%v", err)
	}
}
