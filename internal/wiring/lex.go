package wiring

import "strings"

// token is a word or a sign of the Nix language, and where it is. What stands in a string is one token, with all that is interpolated.
type token struct {
	text     string
	from, to int
	depth    int // how many brackets of any kind are open before it
	open     int // the index of the innermost of them; -1 at the top
}

// is says whether the tokens from i on are these words.
func is(tokens []token, i int, words ...string) bool {
	if i < 0 || i+len(words) > len(tokens) {
		return false
	}
	for k, w := range words {
		if tokens[i+k].text != w {
			return false
		}
	}
	return true
}

// lex splits a Nix expression. It never fails: of what is no Nix it makes something, and who edits by it has nix look at the result.
func lex(text string) []token {
	var tokens []token
	open := []int{-1}
	for at := 0; at < len(text); {
		n, blank := next(text[at:])
		if blank {
			at += n
			continue
		}
		t := token{text: text[at : at+n], from: at, to: at + n}
		if strings.ContainsAny(t.text[:1], ")]}") && len(t.text) == 1 && len(open) > 1 {
			open = open[:len(open)-1]
		}
		t.depth, t.open = len(open)-1, open[len(open)-1]
		tokens = append(tokens, t)
		if t.text == "{" || t.text == "[" || t.text == "(" || t.text == "${" {
			open = append(open, len(tokens)-1)
		}
		at += n
	}
	return tokens
}

// next is how long the first token of text is, and whether it says nothing: blanks and comments.
func next(text string) (n int, blank bool) {
	switch c := text[0]; {
	case strings.IndexByte(" \t\r\n", c) >= 0:
		return 1, true
	case c == '#':
		return until(text, "\n"), true
	case strings.HasPrefix(text, "/*"):
		return 2 + until(text[2:], "*/"), true
	case c == '"':
		return 1 + str(text[1:], `"`), false
	case strings.HasPrefix(text, "''"):
		return 2 + str(text[2:], "''"), false
	case strings.HasPrefix(text, "${"), strings.HasPrefix(text, "++"), strings.HasPrefix(text, "//"):
		return 2, false
	case strings.HasPrefix(text, "..."):
		return 3, false
	case word(c):
		for n < len(text) && (word(text[n]) || n > 0 && strings.IndexByte("-'0123456789", text[n]) >= 0) {
			n++
		}
		return n, false
	}
	return 1, false
}

func word(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// until is the length of text up to and with what ends it; all of it when nothing does.
func until(text, end string) int {
	if i := strings.Index(text, end); i >= 0 {
		return i + len(end)
	}
	return len(text)
}

// str is the length of what is left of a string, with its end.
func str(text, end string) int {
	for i := 0; i < len(text); {
		rest := text[i:]
		switch {
		case end == "''" && (strings.HasPrefix(rest, "'''") || strings.HasPrefix(rest, "''$")):
			i += 3
		case end == "''" && strings.HasPrefix(rest, `''\`), strings.HasPrefix(rest, "$$"), end == `"` && rest[0] == '\\':
			i += 2
		case strings.HasPrefix(rest, end):
			return i + len(end)
		case strings.HasPrefix(rest, "${"):
			i += 2 + interpolation(rest[2:])
		default:
			i++
		}
	}
	return len(text)
}

// interpolation is the length of what stands in ${…}, with the closing bracket.
func interpolation(text string) int {
	depth := 1
	for i := 0; i < len(text); {
		n, _ := next(text[i:])
		switch text[i : i+n] {
		case "{", "${":
			depth++
		case "}":
			depth--
		}
		i += n
		if depth == 0 {
			return i
		}
	}
	return len(text)
}
