package ci

import (
	"cmp"
	_ "embed"
	"strings"
)

//go:embed workflow.yml
var workflow string

// WorkflowOptions are what a workflow's text depends on. Zero values stand for what is usual.
type WorkflowOptions struct {
	Source string // the source branch; "" means main
	Runner string // the label of runners that have nix and garrison; "" means nixos
	Update string // when newer inputs are looked for, as cron has it; "" means once a week
}

// Workflow is the text of a workflow for Actions. Forgejo, Gitea and GitHub read the same one.
func Workflow(o WorkflowOptions) string {
	return strings.NewReplacer("<source>", cmp.Or(o.Source, "main"), "<runner>", cmp.Or(o.Runner, "nixos"), "<update>", cmp.Or(o.Update, "17 4 * * 1")).Replace(workflow)
}
