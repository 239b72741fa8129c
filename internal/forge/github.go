package forge

import (
	"context"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// gitHubForge is GitHub, and GitHub Enterprise Server.
type gitHubForge struct{ shared }

// Access: a classic token's scopes stand in X-OAuth-Scopes, the end of a token in GitHub-Authentication-Token-Expiration
// (docs.github.com/organizations/…/personal-access-tokens; "2026-12-31 10:00:00 UTC", or with an offset in place of the zone).
func (g *gitHubForge) Access(ctx context.Context) (Access, error) {
	a, header, _, err := g.access(ctx)
	if err != nil {
		return Access{}, err
	}
	if scopes := header.Get("X-Oauth-Scopes"); scopes != "" {
		a.Scopes = list(scopes)
	}
	ends := header.Get("Github-Authentication-Token-Expiration")
	for _, layout := range []string{"2006-01-02 15:04:05 MST", "2006-01-02 15:04:05 -0700"} {
		if at, err := time.Parse(layout, ends); err == nil {
			a.Expires = at
			break
		}
	}
	return a, nil
}

type gitHubRule struct {
	Type       string `json:"type"`
	Parameters struct {
		Checks []struct {
			Context string `json:"context"`
		} `json:"required_status_checks"`
	} `json:"parameters"`
}

// gitHubProtection is the protection of a branch of the older sort.
type gitHubProtection struct {
	Reviews      *struct{} `json:"required_pull_request_reviews"`
	Force        enabled   `json:"allow_force_pushes"`
	Admins       enabled   `json:"enforce_admins"`
	Locked       enabled   `json:"lock_branch"`
	Restrictions *struct {
		Users []sharedUser `json:"users"`
	} `json:"restrictions"`
}

type enabled struct {
	Enabled bool `json:"enabled"`
}

// Protection: what applies is the sum of the rules of rulesets, which everybody may read (GET /repos/{owner}/{repo}/rules/branches/{branch}), and of the older
// protection (GET …/branches/{branch}/protection), which only admins may. Who may pass by a ruleset is not told, so that nobody is taken to.
func (g *gitHubForge) Protection(ctx context.Context, branch string) (Protection, error) {
	repo, err := g.repository(ctx)
	if err != nil {
		return Protection{}, err
	}
	var b struct {
		Protected  bool `json:"protected"`
		Protection struct {
			Enabled bool `json:"enabled"`
			Checks  struct {
				Contexts []string `json:"contexts"`
			} `json:"required_status_checks"`
		} `json:"protection"`
	}
	c := call{what: "look at branch " + branch, path: g.in("branches", branch), into: &b, scope: "contents=read (of a classic token: repo)", absent: "branch " + branch}
	if err := g.do(ctx, c); err != nil {
		return Protection{}, err
	}
	p := Protection{Protected: b.Protected, MayPush: repo.Permissions.Push, MayForce: repo.Permissions.Push, StatusList: b.Protection.Checks.Contexts}
	if b.Protection.Enabled {
		if err := g.older(ctx, branch, repo.Permissions.Admin, &p); err != nil {
			return Protection{}, err
		}
	}
	var rules []gitHubRule
	c = call{what: "look at the rules of branch " + branch, path: g.in("rules", "branches", branch), into: &rules, scope: "metadata=read (of a classic token: repo)"}
	if err := g.do(ctx, c); err != nil && fleet.CodeOf(err) != fleet.CodeNotFound { // older servers have no rulesets
		return Protection{}, err
	}
	for _, r := range rules {
		p.Protected = true
		switch r.Type {
		case "pull_request":
			p.NeedsPull, p.MayPush, p.MayForce = true, false, false
		case "update":
			p.MayPush, p.MayForce = false, false
		case "non_fast_forward":
			p.MayForce = false
		}
		for _, check := range r.Parameters.Checks {
			if !slices.Contains(p.StatusList, check.Context) {
				p.StatusList = append(p.StatusList, check.Context)
			}
		}
	}
	return p, nil
}

// older adds to p what the older protection of branch says to who may read it.
func (g *gitHubForge) older(ctx context.Context, branch string, admin bool, p *Protection) error {
	p.MayForce = false
	var o gitHubProtection
	err := g.do(ctx, call{what: "look at the protection of branch " + branch, path: g.in("branches", branch, "protection"), into: &o,
		scope: "administration=read (of a classic token: repo)", absent: "protection of " + branch})
	switch {
	case forbidden(err) || fleet.CodeOf(err) == fleet.CodeNotFound:
		return nil // it is there, but not for this token to see
	case err != nil:
		return err
	}
	p.NeedsPull = o.Reviews != nil
	p.MayForce = p.MayPush && o.Force.Enabled && !o.Locked.Enabled
	if admin && !o.Admins.Enabled {
		return nil // it does not hold for admins
	}
	p.MayPush = p.MayPush && !p.NeedsPull && !o.Locked.Enabled
	if p.MayPush && o.Restrictions != nil {
		mine, err := g.ours(ctx, "see whose token it is")
		if err != nil {
			return err
		}
		p.MayPush = slices.ContainsFunc(o.Restrictions.Users, mine)
	}
	p.MayForce = p.MayForce && p.MayPush
	return nil
}
