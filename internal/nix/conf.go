package nix

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// formerly are older names of settings, which Nix still takes.
func formerly(setting string) string {
	switch setting {
	case "substituters":
		return "binary-caches"
	case "trusted-public-keys":
		return "binary-cache-public-keys"
	}
	return setting
}

// confLine is a line of nix.conf that sets something: indentation and name, "=", value, comment.
var confLine = regexp.MustCompile(`^(\s*)([a-z0-9-]+)(\s*=)([^#]*)(#.*)?$`)

// AddToConf returns the text of a nix.conf in which the list that a setting is has those values too, and what is there stays: they go to
// the line that has effect, else into one that adds to what is set elsewhere.
func AddToConf(text, setting string, values ...string) string {
	lines := strings.SplitAfter(text, "\n")
	at, has := -1, map[string]bool{}
	for i, line := range lines {
		m := confLine.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if m == nil {
			continue
		}
		name, adds := strings.CutPrefix(m[2], "extra-")
		if name != setting && name != formerly(setting) {
			continue
		}
		if !adds { // what was set before has no effect
			clear(has)
		}
		at = i
		for _, v := range strings.Fields(m[4]) {
			has[v] = true
		}
	}
	values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return has[v] })
	switch {
	case len(values) == 0:
		return text
	case at < 0:
		return endLine(text) + "extra-" + setting + " = " + strings.Join(values, " ") + "\n"
	}
	line := strings.TrimRight(lines[at], "\r\n")
	m := confLine.FindStringSubmatch(line)
	value := " " + strings.Join(append(strings.Fields(m[4]), values...), " ")
	if m[5] != "" {
		value += " "
	}
	lines[at] = m[1] + m[2] + m[3] + value + m[5] + "\n"
	return strings.Join(lines, "")
}

// ConfValue is what a nix.conf sets a setting to, "" for nothing.
func ConfValue(text, setting string) string {
	value := ""
	for line := range strings.Lines(text) {
		if m := confLine.FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil && m[2] == setting {
			value = strings.TrimSpace(m[4])
		}
	}
	return value
}

// SetInConf returns the text of a nix.conf that sets a setting which it did not set before.
func SetInConf(text, setting, value string) string {
	return endLine(text) + setting + " = " + value + "\n"
}

func endLine(text string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

var netrcToken = regexp.MustCompile(`\S+`)

// AddToNetrc returns the text of a netrc whose first entry for a machine has that login and password. Other entries stay as they are.
// It fails for what a netrc cannot hold.
func AddToNetrc(text, machine, login, password string) (string, error) {
	for _, s := range []string{machine, login, password} {
		if s == "" || strings.ContainsAny(s, " \t\r\n\"\\#") {
			return "", errors.New("a name or password that is empty, or has blanks, quotes, backslashes or #, cannot stand in a netrc")
		}
	}
	entry := fmt.Sprintf("machine %s login %s password %s\n", machine, login, password)
	from, to := netrcEntry(text, machine)
	if from >= 0 && sameWords(text[from:to], entry) {
		return text, nil
	}
	if from < 0 {
		if from, _ = netrcEntry(text, ""); from < 0 { // the default entry comes last
			text = endLine(text)
			from = len(text)
		}
		to = from
	}
	text = text[:from] + entry + text[to:]
	if from, to = netrcEntry(text, machine); from < 0 || !sameWords(text[from:to], entry) {
		return "", errors.New("the netrc ends in the middle of an entry, or of a macro")
	}
	return text, nil
}

func sameWords(a, b string) bool { return slices.Equal(strings.Fields(a), strings.Fields(b)) }

// netrcEntry finds the first entry of a machine, "" for the default one; from is -1 when there is none.
func netrcEntry(text, machine string) (from, to int) {
	from = -1
	tokens := netrcToken.FindAllStringIndex(text, -1)
	word := func(i int) string { return text[tokens[i][0]:tokens[i][1]] }
	for i := 0; i < len(tokens); i++ {
		at := tokens[i][0]
		switch word(i) {
		case "machine", "default", "macdef":
			if from >= 0 {
				return from, at
			}
			if machine == "" && word(i) == "default" || word(i) == "machine" && machine != "" && i+1 < len(tokens) && word(i+1) == machine {
				from = at
			}
			if word(i) == "macdef" { // up to an empty line
				end := strings.Index(text[at:], "\n\n")
				for end >= 0 && i+1 < len(tokens) && tokens[i+1][0] < at+end {
					i++
				}
				if end < 0 {
					return -1, 0
				}
			} else if word(i) == "machine" {
				i++
			}
		case "login", "password", "account":
			i++ // what follows is a value, whatever it looks like
		}
	}
	return from, len(text)
}
