package release

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/secret"
)

// rulesPaths are where agenix's users have their rules.
var rulesPaths = [2]string{"secrets.nix", "secrets/secrets.nix"}

// readRules reads agenix's rules of a commit, nil if it has none. A file that garrison.toml does not name is only taken for rules
// if it looks like some: a NixOS module may have the same name.
func readRules(ctx context.Context, n *nix.Nix, at nix.Flake, files map[string]string, config Config) (*secret.Rules, error) {
	named := config.Secrets.Rules
	var paths []string
	switch {
	case named != nil && *named == "":
		return nil, nil
	case named != nil && files[*named] == "":
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: secrets.rules is %q, which is not in the commit", ConfigPath, *named).
			WithHint("correct the path, or add the file to git")
	case named != nil:
		paths = []string{*named}
	default:
		for _, p := range rulesPaths {
			if files[p] != "" {
				paths = append(paths, p)
			}
		}
	}
	if paths == nil {
		return nil, nil
	}
	said, err := n.RuleFiles(ctx, at, paths)
	if err != nil {
		return nil, rulesHint(err, paths)
	}
	var found *secret.Rules
	for i, p := range paths {
		if named == nil && !looksLikeRules(said[i]) {
			continue
		}
		if found != nil {
			return nil, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "both %s and %s have rules for secrets", found.File, p).
				WithHint("say which counts, in %s: [secrets] rules = %q", ConfigPath, p)
		}
		if found, err = rulesOf(p, said[i]); err != nil {
			return nil, err
		}
		found.Partial = len(config.Secrets.Editors) > 0
	}
	return found, nil
}

func rulesHint(err error, paths []string) error {
	var e *fleet.Error
	if !errors.As(err, &e) || e.Hint != "" {
		return err
	}
	return e.WithHint("if %s is not agenix's, name the one that is, or \"\" for none, in %s: [secrets] rules = \"\"", strings.Join(paths, " or "), ConfigPath)
}

// looksLikeRules says whether any attribute is one of agenix's.
func looksLikeRules(f nix.RuleFile) bool {
	for _, r := range f.Rules {
		for _, a := range r.Attrs {
			if a == "publicKeys" {
				return true
			}
		}
	}
	return false
}

// rulesOf is strict: what agenix would pass over may be a slip that leaves somebody out, or in.
func rulesOf(file string, said nix.RuleFile) (*secret.Rules, error) {
	if said.Type != "set" {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s is a %s, and should be a set of rules: { \"file.age\".publicKeys = [ … ]; }", file, said.Type).
			WithHint("name the file that is, in %s: [secrets] rules = …", ConfigPath)
	}
	rules := &secret.Rules{File: file, Of: map[string]secret.Rule{}}
	var wrong []string
	for _, r := range said.Rules {
		p, problem := rulePath(file, r.Name)
		if _, twice := rules.Of[p]; twice {
			problem = fmt.Sprintf("%s has two", p)
		}
		if problem == "" {
			problem = ruleProblem(r)
		}
		rule := secret.Rule{Armor: r.Armor.Text == "true"}
		for _, k := range r.Keys {
			rule.Keys = append(rule.Keys, strings.TrimSpace(k.Text))
		}
		rules.Of[p] = rule
		if problem == "" {
			problem = rule.Problem()
		}
		if problem != "" {
			wrong = append(wrong, fmt.Sprintf("the rule %q: %s", r.Name, problem))
		}
	}
	if wrong != nil {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s: %s", file, strings.Join(wrong, "; "))
	}
	return rules, nil
}

// rulePath is the file that a rule names, from the folder that the rules are in: there agenix is run.
func rulePath(file, name string) (p, problem string) {
	p = path.Join(path.Dir(file), name)
	if name == "" || path.IsAbs(name) || p == "." || p == ".." || strings.HasPrefix(p, "../") {
		return p, "it is not the path of a file in the repository, from the folder of the rules"
	}
	return p, ""
}

// ruleProblem says what of a rule has not the form that it should have.
func ruleProblem(r nix.RuleSet) string {
	if r.Type != "set" {
		return fmt.Sprintf("it is a %s, and should be a set with publicKeys", r.Type)
	}
	for _, a := range r.Attrs {
		if a != "publicKeys" && a != "armor" {
			return fmt.Sprintf("%s is neither publicKeys nor armor", a)
		}
	}
	switch {
	case r.Keys == nil:
		return "publicKeys is not a list"
	case len(r.Keys) == 0:
		return "publicKeys is empty: nobody could read it"
	case r.Armor.Type != "bool":
		return fmt.Sprintf("armor is a %s, and should be true or false", r.Armor.Type)
	}
	for i, k := range r.Keys {
		if k.Type != "string" {
			return fmt.Sprintf("key %d is a %s, and should be a string (builtins.readFile reads one from a file)", i+1, k.Type)
		}
	}
	return ""
}

// readRules reads those of s.commit, to which ref leads.
func (s *state) readRules(ctx context.Context, src *source, flakes []nix.Flake) error {
	n := *s.Nix
	n.Env = src.Env
	var err error
	s.rules, err = readRules(ctx, &n, flakes[0], s.blobs, s.config)
	return err
}

// Rules reads agenix's rules in a commit, without evaluating any host; nil if it has none. Of o it needs Repo, Remote, Source (the commit) and Nix.
func Rules(ctx context.Context, o Options) (*secret.Rules, error) {
	unlock, err := lockRepo(o.Repo)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s := &state{Options: o.withLog(), commit: o.Source}
	if err := s.openCommit(ctx); err != nil {
		return nil, err
	}
	src, err := openSource(ctx, s.Repo, s.Remote, inspectRef, s.commit, s.blobs, s.config)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	flakes, err := flakesIn(s.blobs, s.config.Flakes, src.at)
	if err != nil {
		return nil, err
	}
	err = s.readRules(ctx, src, flakes)
	return s.rules, err
}
