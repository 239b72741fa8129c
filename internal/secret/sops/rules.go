package sops

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// defaultSuffix marks keys whose values stay readable, if a file has no rule.
const defaultSuffix = "_unencrypted"

// Names of rules, as files have them.
const (
	ruleUnencryptedSuffix  = "unencrypted_suffix"
	ruleEncryptedSuffix    = "encrypted_suffix"
	ruleUnencryptedRegex   = "unencrypted_regex"
	ruleEncryptedRegex     = "encrypted_regex"
	ruleUnencryptedComment = "unencrypted_comment_regex"
	ruleEncryptedComment   = "encrypted_comment_regex"
)

var ruleNames = []string{
	ruleUnencryptedSuffix, ruleEncryptedSuffix, ruleUnencryptedRegex, ruleEncryptedRegex,
	ruleUnencryptedComment, ruleEncryptedComment,
}

// Rule says which values of a file are encrypted. The zero Rule is sops' default.
type Rule struct {
	Name, Text string
}

// matcher is a rule made ready.
type matcher struct {
	name   string
	suffix string
	regex  *regexp.Regexp
}

func (r Rule) matcher() (matcher, error) {
	if r == (Rule{}) {
		r = Rule{ruleUnencryptedSuffix, defaultSuffix}
	}
	m := matcher{name: r.Name}
	if !slices.Contains(ruleNames, r.Name) {
		return m, errors.New("no such rule")
	}
	if strings.HasSuffix(r.Name, "_suffix") {
		m.suffix = r.Text
		return m, nil
	}
	re, err := regexp.Compile(r.Text)
	if err != nil {
		return m, fmt.Errorf("%s is not a regular expression", r.Name)
	}
	m.regex = re
	return m, nil
}

// encrypts says whether what stands at path is encrypted. comments are those before it, for
// each level that it stands in; of a comment, itself is the last.
func (m matcher) encrypts(path []string, comments [][]string, isComment bool) bool {
	switch m.name {
	case ruleUnencryptedSuffix:
		return !slices.ContainsFunc(path, m.matches)
	case ruleEncryptedSuffix, ruleEncryptedRegex:
		return slices.ContainsFunc(path, m.matches)
	case ruleUnencryptedRegex:
		return !slices.ContainsFunc(path, m.matches)
	case ruleUnencryptedComment:
		return !slices.ContainsFunc(comments, func(level []string) bool { return slices.ContainsFunc(level, m.matches) })
	default: // ruleEncryptedComment: the comment that says so is not encrypted itself
		for i, level := range comments {
			if last := len(comments) - 1; isComment && i == last && len(level) > 0 {
				level = level[:len(level)-1]
			}
			if slices.ContainsFunc(level, m.matches) {
				return true
			}
		}
		return false
	}
}

func (m matcher) matches(s string) bool {
	if m.regex != nil {
		return m.regex.MatchString(s)
	}
	return strings.HasSuffix(s, m.suffix)
}
