package secret

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// problems collects what is wrong, so that a person can mend all of it at once.
type problems []*fleet.Error

func (p *problems) add(code fleet.Code, hint, format string, args ...any) {
	e := fleet.Errorf(fleet.Bad, code, format, args...)
	e.Hint = hint
	*p = append(*p, e)
}

// err puts all problems into one fleet.Error; nil if there are none.
func (p problems) err(what string) error {
	switch len(p) {
	case 0:
		return nil
	case 1:
		return p[0]
	}
	var texts, hints []string
	all := fleet.Errorf(p[0].Class, p[0].Code, "")
	for _, e := range p {
		texts = append(texts, e.Error())
		if e.Hint != "" && !slices.Contains(hints, e.Hint) {
			hints = append(hints, e.Hint)
		}
		if e.Code != all.Code {
			all.Code = fleet.CodeSecret
		}
	}
	all.What = fmt.Sprintf("%s, %d problems: %s", what, len(p), strings.Join(texts, "; "))
	all.Hint = strings.Join(hints, "; ")
	return all
}

func sortedSet(s []string) []string { return slices.Compact(slices.Sorted(slices.Values(s))) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func allOf(s []string, is func(string) bool) bool {
	return !slices.ContainsFunc(s, func(x string) bool { return !is(x) })
}

// list names things in an error.
func list(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

// short is a public key as a person recognises it.
func short(recipient string) string {
	const head, tail = 24, 12
	if len(recipient) <= 100 { // all but RSA and post-quantum keys
		return recipient
	}
	return recipient[:head] + "…" + recipient[len(recipient)-tail:]
}
