package cli

import (
	"bufio"
	"io"
	"strconv"
)

// plainJSON is JSON of others without what would do something to a terminal: control characters in its strings, but for line ends and tabs, become
// U+FFFD. What hosts and other CIs say is theirs, and a hub passes it on.
type plainJSON struct {
	from *bufio.Reader
	left []byte // that is to be read next
}

func newPlainJSON(from io.Reader) io.Reader { return &plainJSON{from: bufio.NewReader(from)} }

// Read implements io.Reader.
func (p *plainJSON) Read(b []byte) (n int, err error) {
	for n < len(b) && err == nil && (n == 0 || len(p.left) > 0 || p.from.Buffered() > 8) { // what is there is not held back for more
		if len(p.left) == 0 {
			err = p.next()
		}
		m := copy(b[n:], p.left)
		n, p.left = n+m, p.left[m:]
	}
	if n > 0 {
		return n, nil // an error comes again
	}
	return n, err
}

const replacement = `\ufffd`

// next has the next character, or escape, left to be read.
func (p *plainJSON) next() error {
	c, err := p.from.ReadByte()
	if err != nil {
		return err
	}
	p.left = append(p.left[:0], c)
	switch c {
	case 0x7f:
		p.left = append(p.left[:0], '?')
	case 0xc2: // the first byte of U+0080 to U+00BF
		if after, err := p.from.Peek(1); err == nil && after[0] < 0xa0 {
			_, _ = p.from.Discard(1)
			p.left = append(p.left[:0], replacement...)
		}
	case '\\':
		kind, err := p.from.ReadByte()
		if err != nil {
			return nil // cut off: whoever parses it says so
		}
		p.left = append(p.left, kind)
		if kind == 'b' || kind == 'f' || kind == 'r' || kind == 'u' && p.controls() {
			p.left = append(p.left[:0], replacement...)
		}
	}
	return nil
}

// controls reads the digits of an escape, and says whether it is of a control character.
func (p *plainJSON) controls() bool {
	digits, _ := p.from.Peek(4)
	v, err := strconv.ParseUint(string(digits), 16, 16)
	if len(digits) < 4 || err != nil {
		return false
	}
	p.left = append(p.left, digits...)
	_, _ = p.from.Discard(4)
	return v < ' ' && v != '\n' && v != '\t' || v >= 0x7f && v < 0xa0
}
