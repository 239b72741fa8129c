// Package wiring puts Garrison's modules into the text of a flake.nix: as an input, an argument of its outputs, and in the
// lists of modules of its hosts.
//
// It is pure, and edits words, not meanings: it changes only places that it recognises, says which ones it did not find, and leaves every
// other byte as it is. Whoever calls it has nix parse the result. Start at Flake.
package wiring

import (
	"fmt"
	"slices"
	"strings"
)

// MaxBytes bounds a flake.nix that is edited.
const MaxBytes = 1 << 20

// Missing is a place that was not found.
type Missing struct {
	What  string // "the flake's inputs"
	Lines string // what belongs there
}

// Wired is an edited flake.nix.
type Wired struct {
	Text    string    // equal to what was given where nothing had to be changed
	Missing []Missing // in the order of the file
}

// edit inserts text at a place.
type edit struct {
	at   int
	text string
}

// Flake edits the text of a flake.nix. url is of Garrison's flake, module a path, like "./garrison.nix", of the module that every host gets besides.
func Flake(text, url, module string) Wired {
	f := &flake{text: text, tokens: lex(text), name: "garrison"}
	f.start = f.body()
	f.input(url)
	f.argument()
	f.modules(module)
	out := Wired{Text: text, Missing: f.missing}
	slices.SortStableFunc(f.edits, func(a, b edit) int { return b.at - a.at })
	for _, e := range f.edits {
		out.Text = out.Text[:e.at] + e.text + out.Text[e.at:]
	}
	return out
}

type flake struct {
	text    string
	tokens  []token
	start   int    // the index of the bracket that opens the flake; -1 when it has none
	name    string // what the input is called in the outputs
	edits   []edit
	missing []Missing
}

func (f *flake) insert(at int, text string) { f.edits = append(f.edits, edit{at, text}) }

func (f *flake) miss(what, format string, args ...any) {
	f.missing = append(f.missing, Missing{what, fmt.Sprintf(format, args...)})
}

// body finds where the flake's own set begins: a flake.nix is one, by Nix's own rules.
func (f *flake) body() int {
	if is(f.tokens, 0, "{") {
		return 0
	}
	return -1
}

// attributes are the indices of a set's attributes of that name, whatever is below it.
func (f *flake) attributes(set int, name string) (found []int) {
	for i := set + 1; set >= 0 && i < len(f.tokens); i++ {
		t := f.tokens[i]
		if t.depth <= f.tokens[set].depth {
			break
		}
		starts := i == set+1 || f.tokens[i-1].text == ";" && f.tokens[i-1].open == set
		if t.open == set && t.text == name && starts {
			found = append(found, i)
		}
	}
	return found
}

// value is the index of the token after "=" of the attribute at i, -1 for a longer path.
func (f *flake) value(i int) int {
	if is(f.tokens, i+1, "=") && i+2 < len(f.tokens) {
		return i + 2
	}
	return -1
}

// input adds inputs.garrison.
func (f *flake) input(url string) {
	lines := func(prefix string) []string {
		l := []string{fmt.Sprintf("%sgarrison.url = %q;", prefix, url)}
		if f.has("nixpkgs") {
			l = append(l, prefix+`garrison.inputs.nixpkgs.follows = "nixpkgs"; # one with Go 1.26`)
		}
		return l
	}
	inputs := f.attributes(f.start, "inputs")
	for _, i := range inputs {
		v := f.value(i)
		if is(f.tokens, i+1, ".", "garrison") || is(f.tokens, v, "{") && len(f.attributes(v, "garrison")) > 0 {
			return
		}
	}
	for _, i := range inputs {
		if v := f.value(i); is(f.tokens, v, "{") {
			f.insert(f.tokens[v].to, f.block(f.tokens[v].to, f.indent(f.tokens[i].from)+"  ", lines("")))
			return
		}
	}
	before := append(inputs, f.attributes(f.start, "outputs")...)
	if len(before) == 0 {
		f.miss("the flake's inputs", "%s", strings.Join(lines("inputs."), "\n"))
		return
	}
	at := f.tokens[before[0]].from
	gap := "\n"
	if len(inputs) == 0 {
		gap = "\n\n"
	}
	f.insert(at, strings.Join(lines("inputs."), "\n"+f.indent(at))+gap+f.indent(at))
}

// has says whether the flake has an input of that name.
func (f *flake) has(name string) bool {
	for _, i := range f.attributes(f.start, "inputs") {
		v := f.value(i)
		if is(f.tokens, i+1, ".", name) || is(f.tokens, v, "{") && len(f.attributes(v, name)) > 0 {
			return true
		}
	}
	return false
}

// argument adds garrison to what the outputs are a function of.
func (f *flake) argument() {
	miss := func() { f.miss("what the flake's outputs are a function of", "outputs = { self, garrison, ... }:") }
	all := f.attributes(f.start, "outputs")
	if len(all) != 1 || f.value(all[0]) < 0 {
		miss()
		return
	}
	v := f.value(all[0])
	if !is(f.tokens, v, "{") && is(f.tokens, v+1, ":") { // one name for all of them
		f.name = f.tokens[v].text + ".garrison"
		return
	}
	if is(f.tokens, v+1, "@") {
		v += 2
	}
	if !is(f.tokens, v, "{") {
		miss()
		return
	}
	end := v + 1
	for end < len(f.tokens) && f.tokens[end].open != f.tokens[v].open {
		if f.tokens[end].text == "garrison" && f.tokens[end].open == v {
			return
		}
		end++
	}
	if end == len(f.tokens) {
		miss()
		return
	}
	switch last := f.tokens[end-1]; {
	case last.text == "{":
		f.insert(last.to, " garrison")
	case last.text == "...":
		f.insert(last.from, "garrison, ")
	case last.text == ",":
		f.insert(last.to, " garrison")
	default:
		f.insert(last.to, ", garrison")
	}
}

// modules adds Garrison's module, and the fleet's own, to every list of modules that a call of nixosSystem has.
func (f *flake) modules(module string) {
	ours := []string{f.name + ".nixosModules.default", module}
	for i := range f.tokens {
		if is(f.tokens, i, "garrison", ".", "nixosModules") {
			return // it is wired already
		}
	}
	found := false
	for i, t := range f.tokens {
		if t.text != "nixosSystem" || !is(f.tokens, i+1, "{") {
			continue
		}
		for _, m := range f.attributes(i+1, "modules") {
			v := f.value(m)
			switch {
			case v < 0:
				continue
			case is(f.tokens, v, "["):
				f.insert(f.tokens[v].to, f.block(f.tokens[v].to, f.indent(f.tokens[m].from)+"  ", ours))
			case slices.Contains([]string{"let", "with", "if", "assert"}, f.tokens[v].text):
				continue
			default:
				f.insert(f.tokens[v].from, "[ "+strings.Join(ours, " ")+" ] ++ ")
			}
			found = true
		}
	}
	if !found {
		f.miss("the modules of its hosts", "modules = [ %s … ];", strings.Join(ours, " "))
	}
}

// indent is what the line at a place begins with.
func (f *flake) indent(at int) string {
	line := f.text[strings.LastIndexByte(f.text[:at], '\n')+1:]
	return line[:len(line)-len(strings.TrimLeft(line, " \t"))]
}

// block is lines to insert behind an opening bracket: each on a line of its own where what is there begins a new one, too.
func (f *flake) block(at int, indent string, lines []string) string {
	rest := f.text[at:]
	line := rest[:until(rest, "\n")]
	if strings.TrimSpace(line) != "" && !strings.HasPrefix(strings.TrimSpace(line), "#") {
		for i, l := range lines { // no comment may swallow what follows
			code, _, _ := strings.Cut(l, " #")
			lines[i] = code
		}
		return " " + strings.Join(lines, " ")
	}
	return "\n" + indent + strings.Join(lines, "\n"+indent)
}
