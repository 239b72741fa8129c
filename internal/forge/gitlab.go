package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// gitLabForge is GitLab: docs.gitlab.com/api.
type gitLabForge struct{ *rest }

// GitLab's bounds: 255 characters for a status's name, text and URL, and for titles; a million for bodies.
const (
	gitLabText = 255
	gitLabBody = 1_000_000
)

// Access levels: docs.gitlab.com/api/members.
const (
	gitLabReporter   = 20
	gitLabDeveloper  = 30
	gitLabMaintainer = 40
)

// in is a path below the project's, which is named by its whole path as one part.
func (g *gitLabForge) in(parts ...string) []string {
	return append([]string{"projects", g.Repo}, parts...)
}

var gitLabStates = map[State]string{Pending: "pending", Success: "success", Failure: "failed", Error: "failed"}

// SetStatus: POST /projects/:id/statuses/:sha (docs.gitlab.com/api/commits, "Set commit pipeline status"). GitLab refuses with 400 that a status changes
// to the state that it has; its text and URL it has taken then.
func (g *gitLabForge) SetStatus(ctx context.Context, commit string, s Status) error {
	body := map[string]string{"state": gitLabStates[s.State], "name": cut(s.Context, gitLabText), "description": cut(oneLine(s.Text), gitLabText)}
	if s.URL != "" && len([]rune(s.URL)) <= gitLabText {
		body["target_url"] = s.URL
	}
	err := g.do(ctx, call{what: fmt.Sprintf("set the status %s of %s", s.Context, short(commit)), method: http.MethodPost, path: g.in("statuses", commit),
		body: body, again: true, absent: "commit " + short(commit), scope: "api"})
	var answer *answerError
	if errors.As(err, &answer) && answer.status == http.StatusBadRequest {
		now, readErr := g.Statuses(ctx, commit)
		for _, n := range now {
			if readErr == nil && n.Context == body["name"] && gitLabStates[n.State] == body["state"] {
				return nil
			}
		}
	}
	return err
}

// Statuses: GET /projects/:id/repository/commits/:sha/statuses, which has the newest of each name. GitLab's own jobs are among them.
func (g *gitLabForge) Statuses(ctx context.Context, commit string) ([]Status, error) {
	var all []Status
	err := g.pages(nil, func(page url.Values) (bool, error) {
		var got []struct {
			Name        string `json:"name"`
			Status      string `json:"status"`
			Description string `json:"description"`
			TargetURL   string `json:"target_url"`
		}
		err := g.do(ctx, call{what: "read the statuses of " + short(commit), path: g.in("repository", "commits", commit, "statuses"), query: page, into: &got,
			absent: "commit " + short(commit), scope: "read_api"})
		for _, s := range got {
			state := Pending // created, pending, running, manual, scheduled, …
			switch s.Status {
			case "success", "skipped":
				state = Success
			case "failed":
				state = Failure
			case "canceled":
				state = Error
			}
			all = append(all, Status{Context: s.Name, State: state, Text: s.Description, URL: s.TargetURL})
		}
		return len(got) == othersPageSize, err
	})
	return all, err
}

type gitLabUser struct {
	ID       int64  `json:"id"`
	Username string `json:"username"`
}

// Comment: /projects/:id/merge_requests/:iid/notes (docs.gitlab.com/api/notes).
func (g *gitLabForge) Comment(ctx context.Context, pull int, marker, body string) error {
	notes := call{what: fmt.Sprintf("comment on merge request %d", pull), path: g.in("merge_requests", strconv.Itoa(pull), "notes"), scope: "api", absent: fmt.Sprintf("merge request %d", pull)}
	me, err := g.user(ctx)
	if err != nil {
		return err
	}
	text := marked(marker, body, gitLabBody)
	type note struct {
		ID     int64      `json:"id"`
		Body   string     `json:"body"`
		Author gitLabUser `json:"author"`
	}
	var found *note
	err = g.pages(url.Values{"sort": {"asc"}, "order_by": {"created_at"}}, func(page url.Values) (bool, error) {
		var got []note
		look := notes
		look.query, look.into = page, &got
		if err := g.do(ctx, look); err != nil {
			return false, err
		}
		for _, n := range got {
			if hasLine(n.Body, marker) && n.Author.ID == me.ID {
				found = &n
				return false, nil
			}
		}
		return len(got) == othersPageSize, nil
	})
	switch {
	case err != nil:
		return err
	case found == nil:
		notes.method, notes.body = http.MethodPost, map[string]string{"body": text}
	case found.Body == text:
		return nil
	default:
		notes.method, notes.path, notes.body, notes.again = http.MethodPut, append(notes.path, strconv.FormatInt(found.ID, 10)), map[string]string{"body": text}, true
	}
	return g.do(ctx, notes)
}

func (g *gitLabForge) user(ctx context.Context) (gitLabUser, error) {
	var me gitLabUser
	err := g.do(ctx, call{what: "see whose token it is", path: []string{"user"}, into: &me, scope: "read_user or api"})
	return me, err
}

type gitLabRequest struct {
	IID         int    `json:"iid"`
	WebURL      string `json:"web_url"`
	Title       string `json:"title"`
	Description string `json:"description"`
	Source      string `json:"source_branch"`
	Target      string `json:"target_branch"`
	SourceID    int64  `json:"source_project_id"`
	TargetID    int64  `json:"target_project_id"`
}

// Propose: /projects/:id/merge_requests (docs.gitlab.com/api/merge_requests).
func (g *gitLabForge) Propose(ctx context.Context, p Proposal) (Pull, error) {
	p.Title, p.Body = cut(oneLine(p.Title), gitLabText), cut(p.Body, gitLabBody)
	open, err := g.findRequest(ctx, p)
	if err != nil {
		return Pull{}, err
	}
	c := call{what: fmt.Sprintf("propose %s for %s", p.Head, p.Base), scope: "api", absent: "branch"}
	if open == nil {
		c.method, c.path, c.into = http.MethodPost, g.in("merge_requests"), &open
		c.body = map[string]string{"source_branch": p.Head, "target_branch": p.Base, "title": p.Title, "description": p.Body}
		if err = g.do(ctx, c); err == nil {
			return Pull{Number: open.IID, URL: open.WebURL}, nil
		}
		var answer *answerError
		if !errors.As(err, &answer) || answer.status != http.StatusConflict {
			return Pull{}, err
		}
		refused := err
		if open, err = g.findRequest(ctx, p); err != nil || open == nil {
			return Pull{}, refused
		}
	}
	if open.Title != p.Title || open.Description != p.Body {
		c.method, c.path, c.again, c.into = http.MethodPut, g.in("merge_requests", strconv.Itoa(open.IID)), true, nil
		c.body = map[string]string{"title": p.Title, "description": p.Body}
		if err := g.do(ctx, c); err != nil {
			return Pull{}, err
		}
	}
	return Pull{Number: open.IID, URL: open.WebURL}, nil
}

// findRequest is the open merge request of p's branches in this very project; nil for none.
func (g *gitLabForge) findRequest(ctx context.Context, p Proposal) (*gitLabRequest, error) {
	var got []gitLabRequest
	err := g.do(ctx, call{what: "look for a merge request of " + p.Head, path: g.in("merge_requests"), into: &got, scope: "read_api",
		query: url.Values{"state": {"opened"}, "source_branch": {p.Head}, "target_branch": {p.Base}, "per_page": {strconv.Itoa(othersPageSize)}}})
	for _, o := range got {
		if o.Source == p.Head && o.Target == p.Base && o.SourceID == o.TargetID {
			return &o, err
		}
	}
	return nil, err
}

// Access: GET /user, /personal_access_tokens/self (docs.gitlab.com/api/personal_access_tokens), /projects/:id.
func (g *gitLabForge) Access(ctx context.Context) (Access, error) {
	me, err := g.user(ctx)
	if err != nil && !forbidden(err) {
		return Access{}, err
	}
	a := Access{User: me.Username}
	var token struct {
		Scopes  []string `json:"scopes"`
		Expires string   `json:"expires_at"` // a day; "" or null: never
	}
	err = g.do(ctx, call{what: "see what the token is for", path: []string{"personal_access_tokens", "self"}, into: &token, scope: "read_api"})
	switch {
	case err == nil:
		a.Scopes = token.Scopes
		a.Expires, _ = time.Parse(time.DateOnly, token.Expires)
	case forbidden(err) || fleet.CodeOf(err) == fleet.CodeNotFound || fleet.CodeOf(err) == fleet.CodeForge && fleet.ClassOf(err) != fleet.Transient:
		// it is no access token, but one of OAuth or a job
	default:
		return Access{}, err
	}
	var project struct {
		DefaultBranch string `json:"default_branch"`
		Visibility    string `json:"visibility"`
		Permissions   struct {
			Project *gitLabLevel `json:"project_access"`
			Group   *gitLabLevel `json:"group_access"`
		} `json:"permissions"`
	}
	if err := g.do(ctx, call{what: "look at project " + g.Repo, path: g.in(), into: &project, scope: "read_api"}); err != nil {
		return Access{}, err
	}
	level := max(project.Permissions.Project.level(), project.Permissions.Group.level())
	a.DefaultBranch, a.Private = project.DefaultBranch, project.Visibility == "private"
	a.Read = level >= gitLabReporter || !a.Private
	a.Write, a.Admin = level >= gitLabDeveloper, level >= gitLabMaintainer
	return a, nil
}

type gitLabLevel struct {
	Level int `json:"access_level"`
}

func (l *gitLabLevel) level() int {
	if l == nil {
		return 0
	}
	return l.Level
}

// Protection: GET /projects/:id/repository/branches/:branch (docs.gitlab.com/api/branches), and for who may see it
// GET /projects/:id/protected_branches/:name (docs.gitlab.com/api/protected_branches). GitLab wants pipelines, not statuses by name.
func (g *gitLabForge) Protection(ctx context.Context, branch string) (Protection, error) {
	var b struct {
		Protected bool `json:"protected"`
		MayPush   bool `json:"can_push"`
	}
	c := call{what: "look at branch " + branch, path: g.in("repository", "branches", branch), into: &b, scope: "read_api", absent: "branch " + branch}
	if err := g.do(ctx, c); err != nil {
		return Protection{}, err
	}
	p := Protection{Protected: b.Protected, MayPush: b.MayPush, MayForce: b.MayPush && !b.Protected}
	if !b.Protected {
		return p, nil
	}
	var rule struct {
		Force bool          `json:"allow_force_push"`
		Push  []gitLabLevel `json:"push_access_levels"`
	}
	c = call{what: "look at the protection of branch " + branch, path: g.in("protected_branches", branch), into: &rule, scope: "read_api", absent: "protection of " + branch}
	err := g.do(ctx, c)
	switch {
	case forbidden(err) || fleet.CodeOf(err) == fleet.CodeNotFound: // a pattern protects it, or this token may not see it
		p.NeedsPull = !b.MayPush
		return p, nil
	case err != nil:
		return Protection{}, err
	}
	p.NeedsPull = true
	for _, l := range rule.Push {
		p.NeedsPull = p.NeedsPull && l.Level == 0
	}
	p.MayForce = b.MayPush && rule.Force
	return p, nil
}

// CommitURL is the page of a commit.
func (g *gitLabForge) CommitURL(commit string) string {
	return g.URL + "/" + g.Repo + "/-/commit/" + commit
}
