// Package comin reads a configuration of comin and says what Garrison's agent has to be told instead, and what does
// not carry over and why. Every key that was set appears in the one or in the other: none is dropped without a word.
//
// It knows comin 0.13 and what earlier versions called differently, both as the YAML file that comin's NixOS module
// renders and as the options of that module. Start at FromYAML and FromNix.
package comin

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Plan is what becomes of a configuration.
type Plan struct {
	Agent Agent
	Notes []Note // in the order of the file
}

// Agent holds the options of services.garrison.agent that carry over; what is empty is not set.
type Agent struct {
	Host          string
	Remotes       []Remote
	Poll          time.Duration
	Confirm       string
	MetricsListen string
	AfterDeploy   []string
}

// Remote is one of the agent's remotes.
type Remote struct{ Name, URL, CredentialsFile, SSHKeyFile, KnownHostsFile string }

// Note says of one key what there is to do or to know.
type Note struct {
	Key  string
	Kind Kind
	Text string
}

// Kind of a Note.
type Kind string

// The kinds.
const (
	Changed Kind = "changed" // carried over, but it works differently here
	Todo    Kind = "to do"   // somebody must do something
	Lost    Kind = "lost"    // there is nothing like it here
	Unknown Kind = "unknown" // not a key of comin's that is known here
)

// FromYAML plans for the file that comin is started with. Errors have CodeInvalid.
func FromYAML(name string, data []byte) (Plan, error) {
	t, err := readYAML(name, data)
	if err != nil {
		return Plan{}, err
	}
	return plan(name, t)
}

// FromNix plans for the options of services.comin, as JSON that nix made of them. Errors have CodeInvalid.
func FromNix(name string, data []byte) (Plan, error) {
	t, err := readJSON(name, data)
	if err != nil {
		return Plan{}, err
	}
	return plan(name, t)
}

// planner makes the plan; its methods are called by the tables of keys.
type planner struct {
	Plan
	name string
	err  error // the first

	host     string
	branches []string // main branches
	tests    []string // testing branches
	pollFrom string   // the key that Poll came from
}

func plan(name string, t tree) (Plan, error) {
	p := &planner{name: name}
	p.host, _ = t.values["hostname"].v.(string)
	p.walk(t, topKeys)
	if p.err != nil {
		return Plan{}, p.err
	}
	if len(p.Agent.Remotes) == 0 && !isUnknown(t.values["remotes"]) {
		return Plan{}, bad(name, "it names no remotes: it is not comin's configuration, or comin does nothing with it")
	}
	p.host = p.Agent.Host
	p.conclude()
	return p.Plan, nil
}

func isUnknown(v value) bool {
	_, ok := v.v.(unknown)
	return ok
}

// keys says for each key of a table what to do with its value.
type keys map[string]func(p *planner, v value)

// walk goes through a table. A key that is not known is named.
func (p *planner) walk(t tree, known keys) {
	for _, k := range t.keys {
		v := t.values[k]
		do, ok := known[k]
		switch {
		case !ok:
			p.note(v, Unknown, "not a key that comin 0.13 has, as far as is known here; nothing was made of it")
		case isUnknown(v) && k != "package":
			p.note(v, Todo, "it could not be evaluated (%s); set by hand what belongs to it, or give the YAML file that comin runs with", v.v)
		case v.v == nil: // not set
		default:
			do(p, v)
		}
	}
}

func (p *planner) note(v value, kind Kind, format string, args ...any) {
	p.Notes = append(p.Notes, Note{Key: v.where, Kind: kind, Text: fmt.Sprintf(format, args...)})
}

func (p *planner) wrong(v value, want string) {
	if p.err == nil {
		p.err = bad(p.name, "%s must be %s", v.where, want)
	}
}

// as wants a value of type T.
func as[T any](p *planner, v value, want string) (x T) {
	x, ok := v.v.(T)
	if !ok {
		p.wrong(v, want)
	}
	return x
}

func (p *planner) text(v value) string { return as[string](p, v, "a string") }
func (p *planner) number(v value) int  { return as[int](p, v, "a whole number") }
func (p *planner) truth(v value) bool  { return as[bool](p, v, "true or false") }
func (p *planner) table(v value) tree  { return as[tree](p, v, "a set of keys") }
func (p *planner) list(v value) []value {
	return as[[]value](p, v, "a list")
}

// conclude says what concerns all of it: branches and signatures are comin's other way to decide what a host runs.
func (p *planner) conclude() {
	all := func(s []string) []string { slices.Sort(s); return slices.Compact(s) }
	mains, tests := all(p.branches), all(p.tests)
	host := cmp.Or(p.host, "<host>")
	about := func(key string, kind Kind, format string, args ...any) {
		p.Notes = append(p.Notes, Note{Key: key, Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	switch {
	case len(mains) > 1:
		about("branches.main", Todo, "the remotes have different main branches (%q); a fleet has one source branch here, branches.source in garrison.toml, and all remotes carry its releases", mains)
	case len(mains) == 1 && mains[0] != "main":
		about("branches.main", Todo, "write [branches] source = %q into garrison.toml: CI makes releases of it. Hosts follow the branch release, which CI pushes", mains[0])
	default:
		about("branches.main", Changed, "CI makes signed releases of main; hosts follow the branch release, which CI pushes, and never main itself")
	}
	for _, t := range tests {
		about("branches.testing", Changed, "instead of %s, push to %s-test: CI makes release-%s-test of it, which the host activates with test, as comin did", t, host, host)
	}
	about("signatures", Todo, "make a release key (ssh-keygen -t ed25519 -N '' -f release-key), give CI the private half and every host the public one, as allowedSigners. What is checked is CI's signature of a release, not who signed a commit")
}
