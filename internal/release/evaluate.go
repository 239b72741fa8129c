package release

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
)

// evaluation is what one commit's flakes say.
type evaluation struct {
	contents []nix.Contents // of each flake
	flakes   []nix.Flake
	hosts    []nix.Host // sorted by name
}

// followed are the hosts that agents deploy, byHand the others: the manual ones and those that do not run NixOS.
func (e *evaluation) split(manual []string) (followed, byHand []nix.Host) {
	for _, h := range e.hosts {
		if h.Kind != nix.NixOS || slices.Contains(manual, h.Name) {
			byHand = append(byHand, h)
		} else {
			followed = append(followed, h)
		}
	}
	return followed, byHand
}

// secretPath is the path in the repository of a file that a host's evaluation names.
func (e *evaluation) secretPath(file string) (string, bool) {
	for _, c := range e.contents { // all are of the same tree
		if p, ok := c.SecretPath(file); ok {
			return p, true
		}
	}
	return "", false
}

// flakesIn finds the flakes to look at among a commit's files: those in folders that one of the patterns matches, and
// the one at the root. A pattern that matches no flake is an error: a host must not be left out by a slip.
func flakesIn(files map[string]string, patterns []string, at nix.Flake) ([]nix.Flake, error) {
	var flakes []nix.Flake
	if _, root := files["flake.nix"]; root {
		flakes = append(flakes, at)
	} else if len(patterns) == 0 {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeNoHosts, "there is no flake.nix at the root of %.12s", at.Commit).
			WithHint("add one, or name the folders of flakes in %s: flakes = [\"hosts/*\"]", ConfigPath)
	}
	for _, pattern := range patterns {
		matched := false
		for _, file := range slices.Sorted(maps.Keys(files)) {
			dir, isFlake := strings.CutSuffix(file, "/flake.nix")
			if ok, err := path.Match(pattern, dir); err != nil {
				return nil, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: flakes has %q, which is not a pattern", ConfigPath, pattern).WithCause(err)
			} else if !ok || !isFlake {
				continue
			}
			matched = true
			f := at
			f.Dir = dir
			if !slices.Contains(flakes, f) {
				flakes = append(flakes, f)
			}
		}
		if !matched {
			return nil, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s: flakes has %q, which matches no folder with a flake.nix", ConfigPath, pattern)
		}
	}
	return flakes, nil
}

// list enumerates the hosts. Two of the same name, and a flake without any, are errors.
func (e *evaluation) list() error {
	where := map[string]nix.Flake{}
	for i, c := range e.contents {
		f := e.flakes[i]
		if len(c.NixOS)+len(c.Darwin) == 0 {
			return fleet.Errorf(fleet.Bad, fleet.CodeNoHosts, "%s has no nixosConfigurations", f.Name()).
				WithHint("declare each host in flake.nix as nixosConfigurations.<name>")
		}
		for kind, names := range map[nix.Kind][]string{nix.NixOS: c.NixOS, nix.Darwin: c.Darwin} {
			for _, name := range names {
				if other, twice := where[name]; twice {
					return fleet.Errorf(fleet.Bad, fleet.CodeNoSuchHost, "host %s is declared twice, by %s and by %s", name, other.Name(), f.Name()).
						WithHint("host names must be unique in a fleet")
				}
				where[name] = f
				e.hosts = append(e.hosts, nix.Host{Name: name, Kind: kind, Flake: f})
			}
		}
	}
	slices.SortFunc(e.hosts, func(a, b nix.Host) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// keepOnly leaves all hosts out but one.
func (e *evaluation) keepOnly(host string) error {
	i := slices.IndexFunc(e.hosts, func(h nix.Host) bool { return h.Name == host })
	if i < 0 {
		return fleet.Errorf(fleet.Local, fleet.CodeNoSuchHost, "there is no host %s in the flake", host).
			WithHint("its nixosConfigurations are: %s", strings.Join(e.names(), ", "))
	}
	e.hosts = e.hosts[i : i+1]
	return nil
}

// names of all hosts, sorted.
func (e *evaluation) names() []string {
	names := make([]string, len(e.hosts))
	for i, h := range e.hosts {
		names[i] = h.Name
	}
	return names
}

// maxFailures bounds how many failures are told in full; all are named.
const maxFailures = 8

// joinErrors makes one error of those of several things, by their names; what says what they are and do not do. It
// blames the fleet only when all of them do.
func joinErrors(what string, names []string, errs []error) error {
	var failed, texts []string
	var first, worst error
	for i, err := range errs {
		if err == nil {
			continue
		}
		if first == nil {
			first = err
		}
		if worst == nil || fleet.ClassOf(worst) == fleet.Bad {
			worst = err
		}
		failed = append(failed, names[i])
		if len(texts) < maxFailures {
			texts = append(texts, err.Error())
		}
	}
	if len(failed) <= 1 {
		return first
	}
	return fleet.Errorf(fleet.ClassOf(worst), fleet.CodeOf(worst), "%d %s: %s\n%s", len(failed), what, strings.Join(failed, ", "), strings.Join(texts, "\n"))
}
