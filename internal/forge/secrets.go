package forge

import (
	"context"
	"net/http"
	"strings"
)

// Secrets is a Forge that keeps secrets for its Actions, and takes them by its API.
type Secrets interface {
	Forge
	// SetSecret makes or replaces the secret of that name. Nobody can read it back.
	SetSecret(ctx context.Context, name, value string) error
}

// SetSecret: PUT /repos/{owner}/{repo}/actions/secrets/{name}.
func (g *giteaForge) SetSecret(ctx context.Context, name, value string) error {
	body := struct {
		Data string `json:"data"`
	}{value}
	return g.do(ctx, call{what: "set the secret " + name, method: http.MethodPut, path: g.in("actions", "secrets", name), body: body, again: true, scope: "write:repository"})
}

// IsForgejo says whether a server of kind Gitea is a Forgejo, which looks for workflows in a folder of its own.
func IsForgejo(ctx context.Context, c Config) (bool, error) {
	c.API, c.Token = strings.TrimRight(c.URL, "/")+"/api/forgejo/v1", nil
	return isKind(ctx, c)
}
