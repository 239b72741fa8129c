package secret

import (
	"fmt"
	"slices"

	"filippo.io/age/plugin"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Rules say who may read which file on the source branch, editors and hosts alike, as agenix's secrets.nix does. What is released
// is for fewer, the hosts that declare a file; but never for one that its rule does not name. A nil *Rules says nothing.
type Rules struct {
	File string          // where they stand, in the repository
	Of   map[string]Rule // path → rule
	// Partial says that files which no rule names are in order: garrison.toml says for whom they are.
	Partial bool
}

// Rule is that of one file.
type Rule struct {
	Keys  []string // public keys, as they stand there
	Armor bool     // a new file is to be text
}

// Problem says what is wrong with the keys; "" if they can be encrypted for.
func (r Rule) Problem() string {
	for i, k := range r.Keys {
		if _, _, err := parseEditor(k, silentUI()); err != nil {
			return fmt.Sprintf("key %d cannot be used: %v", i+1, err)
		}
	}
	return ""
}

// Readers are the public keys that a file on the source branch is encrypted for: the editors, where there are some, else whom its rule names.
func (r *Rules) Readers(editors []string, path string) []string {
	if r == nil || len(editors) > 0 {
		return editors
	}
	return r.Of[path].Keys
}

// Editors are all keys that rules name and that are none of the hosts', each once.
func (r *Rules) Editors(hosts map[string][]string) []string {
	if r == nil {
		return nil
	}
	seen := map[string]bool{}
	for _, keys := range hosts {
		for _, k := range keys {
			for _, n := range namesOf(nameOf(k)) {
				seen[n] = true
			}
		}
	}
	var editors []string
	for _, path := range sortedKeys(r.Of) {
		for _, k := range r.Of[path].Keys {
			if n := nameOf(k); !seen[n] {
				seen[n] = true
				editors = append(editors, k)
			}
		}
	}
	return editors
}

// paths of all rules, sorted.
func (r *Rules) paths() []string {
	if r == nil {
		return nil
	}
	return sortedKeys(r.Of)
}

// Encrypts is for whom the file at path is encrypted.
func (r *Rules) Encrypts(path string, ui *plugin.ClientUI) (Editors, error) {
	rule, ok := r.Of[path]
	if !ok {
		return Editors{}, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s has no rule for %s, and garrison.toml names no editors", r.File, path).
			WithHint(`add one: "%s".publicKeys = [ … ]; by the path from the folder of %s`, path, r.File)
	}
	e, err := ParseEditors(rule.Keys, ui)
	if err != nil {
		return e, fleet.Errorf(fleet.Bad, fleet.CodeKey, "%s: the rule for %s: %v", r.File, path, err)
	}
	e.by, e.armor = r.File, rule.Armor
	return e, nil
}

// names says whether the rule for path names a key, in whichever form.
func (r *Rules) names(path, key string) bool { return among(r.Of[path].Keys, key) }

// among says whether a key is one of several, in whichever form.
func among(keys []string, key string) bool {
	return slices.ContainsFunc(keys, func(k string) bool {
		return slices.ContainsFunc(namesOf(nameOf(k)), func(n string) bool { return slices.Contains(namesOf(nameOf(key)), n) })
	})
}

// check holds what hosts declare against the rules, which are their users' list of who has access: a host must not get by a release what its rule does not give it.
func (r *Rules) check(wants []Want, keys map[string][]string, blobs map[string]string, probs *problems) {
	for _, path := range r.paths() {
		if blobs[path] == "" {
			probs.add(fleet.CodeSecret, "add the file to git, or remove its rule; a rule names a file by the path from the folder of the rules",
				"%s has a rule for %s, which is not in the source commit", r.File, path)
		}
	}
	for _, w := range wants {
		if r == nil {
			return
		}
		if _, ruled := r.Of[w.Path]; !ruled {
			if w.Kind == KindAge && !r.Partial {
				probs.add(fleet.CodeSecret, "add a rule, or say in garrison.toml for whom files without one are: secrets.editors",
					"%s, declared by %s, has no rule in %s", w.Path, list(w.Hosts), r.File)
			}
			continue
		}
		for _, h := range w.Hosts {
			for _, k := range keys[h] {
				if !r.names(w.Path, k) {
					probs.add(fleet.CodeSecret, "add the host's key to publicKeys of the rule (and encrypt the file anew), or no longer declare it",
						"%s is declared by host %s, but its rule in %s does not name the key %s", w.Path, h, r.File, short(k))
				}
			}
		}
	}
}
