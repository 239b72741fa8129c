package forge

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// known are forges whose kind is no question, and other names of theirs.
var known = map[string]struct {
	kind Kind
	host string
}{
	"github.com": {GitHub, "github.com"}, "www.github.com": {GitHub, "github.com"}, "ssh.github.com": {GitHub, "github.com"},
	"gitlab.com": {GitLab, "gitlab.com"}, "www.gitlab.com": {GitLab, "gitlab.com"}, "altssh.gitlab.com": {GitLab, "gitlab.com"},
	"codeberg.org": {Gitea, "codeberg.org"}, "gitea.com": {Gitea, "gitea.com"},
}

// Detect is the forge that a git remote's URL is of: https, http, ssh, or user@host:path. Of a server that is not known by its name, Kind is "", which Identify
// finds out, and Repo the whole path. No credentials of the URL are in what it returns. It is false for what is on no server.
func Detect(remote string) (Config, bool) {
	u, ok := parseRemote(strings.TrimSpace(remote))
	if !ok {
		return Config{}, false
	}
	c := Config{Repo: strings.TrimSuffix(strings.Trim(u.Path, "/"), ".git")}
	web := url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}
	if u.Scheme != "http" && u.Scheme != "https" {
		web.Scheme, web.Host = "https", strings.ToLower(u.Hostname()) // the port is that of SSH
		if strings.Contains(web.Host, ":") {
			web.Host = "[" + web.Host + "]"
		}
	}
	k := known[strings.ToLower(u.Hostname())]
	if k.kind != "" {
		c.Kind, web = k.kind, url.URL{Scheme: "https", Host: k.host}
	}
	c.URL = web.String()
	asIf := c.Kind
	if asIf == "" {
		asIf = GitLab // which has the longest names
	}
	return c, repoName(c.Repo, asIf)
}

// parseRemote reads any of the forms that git takes.
func parseRemote(remote string) (*url.URL, bool) {
	if !strings.Contains(remote, "://") {
		host, path, ok := strings.Cut(remote, ":")
		if at := strings.Index(remote, "["); at >= 0 { // an IPv6 address
			host, path, ok = strings.Cut(remote[at:], "]:")
			host += "]"
		}
		host = host[strings.LastIndex(host, "@")+1:]
		if !ok || host == "" || strings.ContainsAny(host, `/\ `) {
			return nil, false // a folder
		}
		remote = "ssh://" + host + "/" + strings.TrimPrefix(path, "/")
	}
	u, err := url.Parse(remote)
	if err != nil || u.Hostname() == "" || strings.ContainsAny(u.Hostname(), "[]") || u.RawQuery != "" || u.Fragment != "" {
		return nil, false
	}
	switch u.Scheme {
	case "http", "https", "ssh", "git", "git+ssh", "ssh+git":
		return u, true
	}
	return nil, false
}

// Identify asks the server of c, as Detect found it, of which kind it is and whether it is below a folder. No token is sent. A kind that is known stays.
// Errors: fleet.CodeNotFound when it is no forge that is known, Transient with CodeForge when it cannot be reached.
func Identify(ctx context.Context, c Config) (Config, error) {
	if c.Kind != "" {
		return c, nil
	}
	parts := strings.Split(c.Repo, "/")
	for folder := 0; folder <= len(parts)-2 && folder <= 2; folder++ {
		at := c
		at.URL, at.Repo, at.Token = strings.TrimRight(c.URL, "/"), strings.Join(parts[folder:], "/"), nil
		for _, p := range parts[:folder] {
			at.URL += "/" + url.PathEscape(p)
		}
		for _, k := range []Kind{Gitea, GitLab, GitHub} {
			if !repoName(at.Repo, k) {
				continue
			}
			at.Kind = k
			is, err := isKind(ctx, at)
			if err != nil {
				return Config{}, err
			}
			if is {
				at.Token = c.Token
				return at, nil
			}
		}
	}
	return Config{}, fleet.Errorf(fleet.Local, fleet.CodeNotFound, "%s is no forge that is known", c.URL).
		WithHint("Forgejo, Gitea, GitHub and GitLab are; if it is one of them, say so, with its URL")
}

// isKind says whether the server speaks the dialect: its version tells, or how it refuses to tell. The error is that of a server that cannot be reached, or ctx's.
func isKind(ctx context.Context, c Config) (bool, error) {
	r, err := newREST(c)
	if err != nil {
		return false, err
	}
	path := map[Kind]string{Gitea: "version", GitLab: "version", GitHub: "meta"}[c.Kind]
	var header http.Header
	var got json.RawMessage
	err = r.do(ctx, call{what: "see which forge it is", path: []string{path}, into: &got, header: &header, scope: "any"})
	var answer *answerError
	if errors.As(err, &answer) {
		if fleet.ClassOf(err) == fleet.Transient {
			return false, err
		}
		header, got = answer.header, answer.body
	} else if fleet.CodeOf(err) == fleet.CodeInvalid {
		return false, nil // it answers, something else
	} else if err != nil {
		return false, err
	}
	var says struct {
		Version string `json:"version"`
		Message string `json:"message"`
		URL     string `json:"url"` // of Gitea's refusals: its API's documentation
	}
	if json.Unmarshal(got, &says) != nil {
		return false, nil
	}
	switch c.Kind {
	case Gitea:
		return says.Version != "" || strings.HasSuffix(says.URL, "/api/swagger"), nil
	case GitLab:
		return says.Version != "" || answer != nil && answer.status == http.StatusUnauthorized && says.Message != "", nil
	}
	return header.Get("X-Github-Request-Id") != "" || header.Get("X-Github-Enterprise-Version") != "", nil
}
