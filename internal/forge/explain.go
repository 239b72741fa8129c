package forge

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// explain makes of a failure what a person is told. The token is in none of it, also when the forge repeats it.
func (r *rest) explain(c call, token string, err error) error {
	e := r.told(c, token != "", err)
	if token != "" {
		hide := func(s string) string { return strings.ReplaceAll(s, token, "…") }
		e.What, e.Hint = hide(e.What), hide(e.Hint)
		if e.Err != nil && strings.Contains(e.Err.Error(), token) {
			e.Err = errors.New(hide(e.Err.Error()))
		}
	}
	return e
}

func (r *rest) told(c call, withToken bool, err error) *fleet.Error {
	var told *fleet.Error
	if errors.As(err, &told) {
		return told
	}
	var answer *answerError
	if !errors.As(err, &answer) {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which What has
		}
		return fleet.Errorf(fleet.Transient, fleet.CodeForge, "cannot %s: %s cannot be reached", c.what, r.URL).WithCause(err).
			WithHint("check that the forge runs and that its URL is right; nothing is lost, run it again")
	}
	switch {
	case answer.limited():
		return fleet.Errorf(fleet.Transient, fleet.CodeForge, "cannot %s: %s wants fewer requests", c.what, r.URL).WithCause(answer).
			WithHint("wait; nothing is lost, run it again")
	case answer.status == http.StatusUnauthorized && !withToken:
		return fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "cannot %s: %s wants a token", c.what, r.URL).WithCause(answer).
			WithHint("give it a token with %s", r.scopeText(c.scope))
	case answer.status == http.StatusUnauthorized && r.lacks(answer) == "":
		return fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "cannot %s: %s does not know the token", c.what, r.URL).WithCause(answer).
			WithHint("it is wrong, expired or revoked: make a new one with %s", r.scopeText(c.scope))
	case answer.status == http.StatusForbidden || answer.status == http.StatusUnauthorized:
		return r.forbidden(c, withToken, answer)
	case answer.status == http.StatusNotFound || answer.status == http.StatusGone:
		return r.notFound(c, withToken, answer)
	case answer.status/100 == 3:
		return fleet.Errorf(fleet.Local, fleet.CodeNotFound, "cannot %s: %s has %s under another name or at another place", c.what, r.URL, r.Repo).WithCause(answer).
			WithHint("it points to %s: change the repository's name, or the forge's URL, in what names it here", elsewhere(answer.location))
	case answer.status >= http.StatusInternalServerError || answer.status == http.StatusRequestTimeout:
		return fleet.Errorf(fleet.Transient, fleet.CodeForge, "cannot %s: %s fails", c.what, r.URL).WithCause(answer).
			WithHint("see the forge's log; nothing is lost, run it again")
	}
	return fleet.Errorf(fleet.Local, fleet.CodeForge, "cannot %s: %s refuses it", c.what, r.URL).WithCause(answer)
}

// elsewhere is a redirect's target without what could be secret.
func elsewhere(location string) string {
	u, err := url.Parse(location)
	if err != nil || location == "" {
		return "another place"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

func (r *rest) forbidden(c call, withToken bool, answer *answerError) *fleet.Error {
	if !withToken {
		return fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "cannot %s: %s wants a token", c.what, r.URL).WithCause(answer).
			WithHint("give it a token with %s", r.scopeText(c.scope))
	}
	if scope := r.lacks(answer); scope != "" {
		return fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "cannot %s: the token for %s lacks %s", c.what, r.URL, r.scopeText(scope)).WithCause(answer).
			WithHint("make a token that has it, or add it to this one")
	}
	return fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "cannot %s: the token's user may not do that in %s", c.what, r.Repo).WithCause(answer).
		WithHint("the token needs %s, its user must be allowed to do this in %s, and the repository must not be archived", r.scopeText(c.scope), r.Repo)
}

func (r *rest) notFound(c call, withToken bool, answer *answerError) *fleet.Error {
	what := c.absent
	if what == "" {
		what = "repository"
	}
	e := fleet.Errorf(fleet.Local, fleet.CodeNotFound, "cannot %s: %s has no such %s in %s that it would show", c.what, r.URL, what, r.Repo)
	if what == "repository" {
		e = fleet.Errorf(fleet.Local, fleet.CodeNotFound, "cannot %s: %s has no repository %s that it would show", c.what, r.URL, r.Repo)
	}
	e = e.WithCause(answer)
	if !withToken {
		return e.WithHint("check the name; a private repository is shown only with a token that has %s", r.scopeText(c.scope))
	}
	return e.WithHint("check the name; a forge says so too when the repository is private and the token, which needs %s, or its user may not see it", r.scopeText(c.scope))
}

// scopeText names a scope in the words of the forge's own pages.
func (r *rest) scopeText(scope string) string {
	if r.Kind == GitHub {
		return "the permission " + scope
	}
	return "the scope " + scope
}

// giteaScopes are those that Gitea's and Forgejo's refusals name, and, with newer Giteas, those that the token has:
// "… required scope(s), required=[write:issue], token scope=read:user" or "… required scope(s): [write:issue]". Nothing but the message says it.
var giteaScopes = regexp.MustCompile(`required scope\(s\)[,:] (?:required=)?\[([^\]]*)\](?:, token scope=(\S*))?`)

// lacks is the scope that the token would need, if the forge says that it lacks one.
//
// GitHub: docs.github.com/rest/using-the-rest-api/troubleshooting-the-rest-api (X-Accepted-GitHub-Permissions),
// docs.github.com/apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps (X-OAuth-Scopes, X-Accepted-OAuth-Scopes).
// GitLab: insufficient_scope of RFC 6750, with the scopes in "scope".
func (r *rest) lacks(answer *answerError) string {
	switch r.Kind {
	case Gitea:
		if m := giteaScopes.FindStringSubmatch(answer.said); m != nil {
			return strings.Join(strings.Fields(m[1]), " or ")
		}
	case GitHub:
		if p := answer.header.Get("X-Accepted-Github-Permissions"); p != "" {
			return oneLine(strings.ReplaceAll(p, ";", " or "))
		}
		accepted, has := answer.header.Get("X-Accepted-Oauth-Scopes"), answer.header.Get("X-Oauth-Scopes")
		if accepted != "" && !anyOf(list(has), list(accepted)) {
			return strings.Join(list(accepted), " or ")
		}
	case GitLab:
		var e struct{ Error, Scope string }
		if json.Unmarshal(answer.body, &e) == nil && e.Error == "insufficient_scope" {
			return strings.Join(strings.Fields(e.Scope), " or ")
		}
	}
	return ""
}

// list are the parts of a header or message that are divided by commas.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func anyOf(has, wanted []string) bool {
	for _, h := range has {
		for _, w := range wanted {
			if h == w {
				return true
			}
		}
	}
	return false
}
