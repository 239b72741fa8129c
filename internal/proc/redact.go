package proc

import (
	"bytes"
	"io"
	"regexp"
)

var (
	// Whatever stands between "://" and the last "@" of the authority: a token may be the user's name as well.
	userinfo = regexp.MustCompile(`(?i)([a-z][a-z0-9+.-]*)://[^/\s'"]*@`)
	// ssh's user without a password says nothing secret, and is needed to see what is meant.
	sshUser = regexp.MustCompile(`(?i)^(git\+)?ssh://[^/\s'":]*@$`)
)

// Redact takes credentials out of URLs in s.
func Redact(s string) string {
	return userinfo.ReplaceAllStringFunc(s, func(m string) string {
		if sshUser.MatchString(m) {
			return m
		}
		return userinfo.FindStringSubmatch(m)[1] + "://…@"
	})
}

// lineCopy writes redacted lines. A URL cannot be recognised in a part of a line.
type lineCopy struct {
	to   io.Writer
	part []byte
}

// maxPart bounds a line that does not end, in bytes.
const maxPart = 64 << 10

func (l *lineCopy) Write(p []byte) (int, error) {
	l.part = append(l.part, p...)
	end := bytes.LastIndexByte(l.part, '\n') + 1
	if len(l.part)-end > maxPart {
		end = len(l.part)
	}
	l.write(end)
	return len(p), nil
}

func (l *lineCopy) flush() { l.write(len(l.part)) }

func (l *lineCopy) write(n int) {
	if n == 0 {
		return
	}
	_, _ = io.WriteString(l.to, Redact(string(l.part[:n]))) // a lost copy must not end the program
	l.part = append(l.part[:0], l.part[n:]...)
}
