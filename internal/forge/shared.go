package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// shared is what Gitea, Forgejo and GitHub have in common: the first two follow the third's API.
//
// Gitea: docs.gitea.com/api (its own /swagger.v1.json). GitHub: docs.github.com/rest.
type shared struct{ *rest }

// limits are what a forge takes of texts, in characters.
type limits struct{ text, title, body int }

// GitHub: 140 for a description, 65,536 for bodies. Gitea has 255 for titles; its descriptions have no bound, but are shown in one line.
var (
	gitHubLimits = limits{text: 140, title: 256, body: 65000}
	giteaLimits  = limits{text: 255, title: 255, body: 65000}
)

func (s shared) limits() limits {
	if s.Kind == GitHub {
		return gitHubLimits
	}
	return giteaLimits
}

// in is a path below the repository's.
func (s shared) in(parts ...string) []string {
	owner, name, _ := strings.Cut(s.Repo, "/")
	return append([]string{"repos", owner, name}, parts...)
}

// either is the scope in the words of the forge that this is.
func (s shared) either(gitea, gitHub string) string {
	if s.Kind == GitHub {
		return gitHub
	}
	return gitea
}

type sharedStatus struct {
	State       State  `json:"state"`  // GitHub's name
	Status      State  `json:"status"` // Gitea's
	Context     string `json:"context"`
	Description string `json:"description"`
	TargetURL   string `json:"target_url"`
}

// SetStatus: POST /repos/{owner}/{repo}/statuses/{sha}. Another status of the same context is added to it; the newest counts, so that it may be done twice.
func (s shared) SetStatus(ctx context.Context, commit string, st Status) error {
	body := map[string]string{"state": string(st.State), "context": st.Context, "description": cut(oneLine(st.Text), s.limits().text)}
	if st.URL != "" {
		body["target_url"] = st.URL
	}
	return s.do(ctx, call{
		what: fmt.Sprintf("set the status %s of %s", st.Context, short(commit)), method: http.MethodPost, path: s.in("statuses", commit),
		body: body, again: true, absent: "commit " + short(commit), scope: s.either("write:repository", "statuses=write (of a classic token: repo:status)"),
	})
}

// Statuses: GET /repos/{owner}/{repo}/commits/{ref}/status, which has the newest of each context.
func (s shared) Statuses(ctx context.Context, commit string) ([]Status, error) {
	var all []Status
	err := s.pages(nil, func(page url.Values) (bool, error) {
		var got struct {
			Statuses []sharedStatus `json:"statuses"`
			Total    int            `json:"total_count"`
		}
		err := s.do(ctx, call{what: "read the statuses of " + short(commit), path: s.in("commits", commit, "status"), query: page, into: &got,
			absent: "commit " + short(commit), scope: s.either("read:repository", "statuses=read (of a classic token: repo:status)")})
		for _, st := range got.Statuses {
			if st.State == "" {
				st.State = st.Status
			}
			all = append(all, Status{Context: st.Context, State: st.State, Text: st.Description, URL: st.TargetURL})
		}
		return len(got.Statuses) > 0 && len(all) < got.Total, err
	})
	return all, err
}

type sharedUser struct {
	ID    int64  `json:"id"`
	Login string `json:"login"`
	Type  string `json:"type"` // GitHub: "User", "Bot"
}

type sharedComment struct {
	ID   int64      `json:"id"`
	Body string     `json:"body"`
	User sharedUser `json:"user"`
}

// Comment: /repos/{owner}/{repo}/issues/{n}/comments and /repos/{owner}/{repo}/issues/comments/{id}; a pull request is an issue.
func (s shared) Comment(ctx context.Context, pull int, marker, body string) error {
	what := fmt.Sprintf("comment on pull request %d", pull)
	scope := s.either("write:issue", "pull_requests=write (of a classic token: repo)")
	mine, err := s.ours(ctx, what)
	if err != nil {
		return err
	}
	text := marked(marker, body, s.limits().body)
	found, err := s.findComment(ctx, call{what: what, path: s.in("issues", strconv.Itoa(pull), "comments"), scope: scope, absent: fmt.Sprintf("pull request %d", pull)}, marker, mine)
	switch {
	case err != nil:
		return err
	case found == nil:
		return s.do(ctx, call{what: what, method: http.MethodPost, path: s.in("issues", strconv.Itoa(pull), "comments"), body: map[string]string{"body": text},
			scope: scope, absent: fmt.Sprintf("pull request %d", pull)})
	case found.Body == text:
		return nil
	}
	return s.do(ctx, call{what: what, method: http.MethodPatch, path: s.in("issues", "comments", strconv.FormatInt(found.ID, 10)), body: map[string]string{"body": text},
		again: true, scope: scope, absent: "comment"})
}

// ours says which authors are this token's user. One who puts our marker into a comment of their own must not get our text under their name, where they may
// change it. A token that may not know whose it is (GitHub's own one of an Actions job) is a bot's.
func (s shared) ours(ctx context.Context, what string) (func(sharedUser) bool, error) {
	var me sharedUser
	err := s.do(ctx, call{what: what, path: []string{"user"}, into: &me, scope: s.either("read:user", "any")})
	switch {
	case err == nil:
		return func(u sharedUser) bool { return u.ID == me.ID }, nil
	case forbidden(err) && s.Kind == GitHub:
		return func(u sharedUser) bool { return u.Type == "Bot" }, nil
	case forbidden(err):
		return func(sharedUser) bool { return true }, nil
	}
	return nil, err
}

// forbidden says whether err is an answer 403.
func forbidden(err error) bool {
	var answer *answerError
	return errors.As(err, &answer) && answer.status == http.StatusForbidden && fleet.CodeOf(err) == fleet.CodeUnauthorized
}

// findComment is the first comment with marker of an author that mine is true of; nil for none. Gitea gives all of them as one page.
func (s shared) findComment(ctx context.Context, c call, marker string, mine func(sharedUser) bool) (found *sharedComment, err error) {
	last := int64(0)
	err = s.pages(nil, func(page url.Values) (bool, error) {
		var got []sharedComment
		c.query, c.into = page, &got
		if err := s.do(ctx, c); err != nil {
			return false, err
		}
		for _, o := range got {
			if hasLine(o.Body, marker) && mine(o.User) {
				found = &o
				return false, nil
			}
		}
		if s.Kind == Gitea || len(got) == 0 || got[len(got)-1].ID == last {
			return false, nil
		}
		last = got[len(got)-1].ID
		return len(got) >= othersPageSize, nil
	})
	return found, err
}

func hasLine(text, line string) bool {
	for l := range strings.Lines(text) {
		if strings.TrimSpace(l) == strings.TrimSpace(line) {
			return true
		}
	}
	return false
}

// marked is body with marker as its first line, cut to n characters.
func marked(marker, body string, n int) string {
	if !hasLine(body, marker) {
		body = marker + "\n" + body
	}
	return cut(body, n)
}

type sharedPull struct {
	Number  int    `json:"number"`
	HTMLURL string `json:"html_url"`
	Title   string `json:"title"`
	Body    string `json:"body"`
	Head    struct {
		Ref  string `json:"ref"`
		Repo *struct {
			FullName string `json:"full_name"`
		} `json:"repo"`
	} `json:"head"`
	Base struct {
		Ref string `json:"ref"`
	} `json:"base"`
}

// Propose: GET and POST /repos/{owner}/{repo}/pulls, PATCH /repos/{owner}/{repo}/pulls/{n}.
func (s shared) Propose(ctx context.Context, p Proposal) (Pull, error) {
	p.Title, p.Body = cut(oneLine(p.Title), s.limits().title), cut(p.Body, s.limits().body)
	open, err := s.findPull(ctx, p)
	if err != nil {
		return Pull{}, err
	}
	c := call{what: fmt.Sprintf("propose %s for %s", p.Head, p.Base), scope: s.either("write:repository", "pull_requests=write (of a classic token: repo)"), absent: "branch"}
	if open == nil {
		c.method, c.path, c.body, c.into = http.MethodPost, s.in("pulls"), map[string]string{"head": p.Head, "base": p.Base, "title": p.Title, "body": p.Body}, &open
		if err = s.do(ctx, c); err == nil {
			return Pull{Number: open.Number, URL: open.HTMLURL}, nil
		}
		var answer *answerError
		if !errors.As(err, &answer) || answer.status != http.StatusConflict && answer.status != http.StatusUnprocessableEntity {
			return Pull{}, err
		}
		refused := err // perhaps because somebody else proposed the same meanwhile
		if open, err = s.findPull(ctx, p); err != nil || open == nil {
			return Pull{}, refused
		}
	}
	if open.Title != p.Title || open.Body != p.Body {
		c.method, c.path, c.body, c.again, c.into = http.MethodPatch, s.in("pulls", strconv.Itoa(open.Number)), map[string]string{"title": p.Title, "body": p.Body}, true, nil
		if err := s.do(ctx, c); err != nil {
			return Pull{}, err
		}
	}
	return Pull{Number: open.Number, URL: open.HTMLURL}, nil
}

// findPull is the open pull request of p's branches; nil for none. Only GitHub asks for a branch alone.
func (s shared) findPull(ctx context.Context, p Proposal) (found *sharedPull, err error) {
	owner, _, _ := strings.Cut(s.Repo, "/")
	query := url.Values{"state": {"open"}}
	if s.Kind == GitHub {
		query = url.Values{"state": {"open"}, "head": {owner + ":" + p.Head}, "base": {p.Base}}
	}
	seen := 0
	err = s.pages(query, func(page url.Values) (bool, error) {
		var got []sharedPull
		if err := s.do(ctx, call{what: "look for a pull request of " + p.Head, path: s.in("pulls"), query: page, into: &got,
			scope: s.either("read:repository", "pull_requests=read (of a classic token: repo)")}); err != nil {
			return false, err
		}
		for _, o := range got {
			if o.Head.Ref == p.Head && o.Base.Ref == p.Base && o.Head.Repo != nil && strings.EqualFold(o.Head.Repo.FullName, s.Repo) {
				found = &o
				return false, nil
			}
		}
		seen += len(got)
		return len(got) > 0 && seen < maxPages*giteaPageSize, nil // a page may be shorter than asked for
	})
	return found, err
}

// CommitURL is the page of a commit.
func (s shared) CommitURL(commit string) string { return s.URL + "/" + s.Repo + "/commit/" + commit }

type sharedRepo struct {
	Private       bool   `json:"private"`
	DefaultBranch string `json:"default_branch"`
	Permissions   struct {
		Admin, Push, Pull bool
	} `json:"permissions"`
}

// repository: GET /repos/{owner}/{repo}.
func (s shared) repository(ctx context.Context) (sharedRepo, error) {
	var repo sharedRepo
	err := s.do(ctx, call{what: "look at repository " + s.Repo, path: s.in(), into: &repo, scope: s.either("read:repository", "metadata=read (of a classic token: repo)")})
	return repo, err
}

// access is what GET /user and the repository say; err is why the token may not know its user.
func (s shared) access(ctx context.Context) (a Access, userHeader http.Header, userErr, err error) {
	var me sharedUser
	userErr = s.do(ctx, call{what: "see whose token it is", path: []string{"user"}, into: &me, header: &userHeader, scope: s.either("read:user", "any")})
	if userErr != nil && !forbidden(userErr) {
		return a, nil, nil, userErr
	}
	repo, err := s.repository(ctx)
	p := repo.Permissions
	return Access{User: me.Login, Read: p.Pull, Write: p.Push, Admin: p.Admin, DefaultBranch: repo.DefaultBranch, Private: repo.Private}, userHeader, userErr, err
}

// short is the beginning of a commit's name.
func short(commit string) string { return commit[:min(len(commit), 12)] }
