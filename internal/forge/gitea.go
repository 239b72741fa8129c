package forge

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// giteaForge is Gitea and Forgejo.
type giteaForge struct{ shared }

// Access reads the token's scopes out of a refusal, which names them since Gitea 1.23: of whatever the token may not do, its
// user's notifications are the least. A token that may read those, or an older server or a Forgejo, does not tell.
func (g *giteaForge) Access(ctx context.Context) (Access, error) {
	a, _, refusal, err := g.access(ctx)
	if err != nil {
		return Access{}, err
	}
	if refusal == nil {
		refusal = g.do(ctx, call{what: "see what the token is for", path: []string{"notifications", "new"}, scope: "read:notification"})
	}
	if refusal != nil && !forbidden(refusal) {
		return Access{}, refusal
	}
	var answer *answerError
	if errors.As(refusal, &answer) {
		if m := giteaScopes.FindStringSubmatch(answer.said); m != nil && m[2] != "" {
			a.Scopes = list(m[2])
		}
	}
	if a.Scopes != nil {
		write := slices.Contains(a.Scopes, "write:repository")
		a.Read = a.Read && (write || slices.Contains(a.Scopes, "read:repository"))
		a.Write, a.Admin = a.Write && write, a.Admin && write
	}
	return a, nil
}

// Protection: GET /repos/{owner}/{repo}/branches/{branch}, and for who may see it GET /repos/{owner}/{repo}/branch_protections/{name}.
func (g *giteaForge) Protection(ctx context.Context, branch string) (Protection, error) {
	var b struct {
		Protected   bool     `json:"protected"`
		MayPush     bool     `json:"user_can_push"`
		WantsStatus bool     `json:"enable_status_check"`
		Contexts    []string `json:"status_check_contexts"`
		Effective   string   `json:"effective_branch_protection_name"` // told to the repository's admins
	}
	c := call{what: "look at branch " + branch, path: g.in(append([]string{"branches"}, strings.Split(branch, "/")...)...), into: &b, scope: "read:repository", absent: "branch " + branch}
	if err := g.do(ctx, c); err != nil {
		return Protection{}, err
	}
	p := Protection{Protected: b.Protected, MayPush: b.MayPush, MayForce: b.MayPush && !b.Protected, NeedsPull: b.Protected && !b.MayPush}
	if b.WantsStatus {
		p.StatusList = b.Contexts
	}
	if b.Effective == "" {
		return p, nil
	}
	var rule struct {
		Push      bool     `json:"enable_push"`
		Force     bool     `json:"enable_force_push"`
		ForceList bool     `json:"enable_force_push_allowlist"`
		MayForce  []string `json:"force_push_allowlist_usernames"`
	}
	c = call{what: "look at the protection of branch " + branch, path: g.in(append([]string{"branch_protections"}, strings.Split(b.Effective, "/")...)...), into: &rule,
		scope: "read:repository", absent: "protection of " + branch}
	if err := g.do(ctx, c); err != nil {
		if forbidden(err) {
			return p, nil
		}
		return Protection{}, err
	}
	p.NeedsPull = !rule.Push
	p.MayForce = b.MayPush && rule.Force && !rule.ForceList
	if b.MayPush && rule.Force && rule.ForceList {
		var me sharedUser
		err := g.do(ctx, call{what: "see whose token it is", path: []string{"user"}, into: &me, scope: "read:user"})
		p.MayForce = err == nil && slices.Contains(rule.MayForce, me.Login)
	}
	return p, nil
}
