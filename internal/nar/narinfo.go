package nar

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// NarInfo is the file that describes a path in a binary cache, and where its archive is.
type NarInfo struct {
	PathInfo
	URL         string // relative to the cache's root
	Compression string // "zstd", "none", …
	FileHash    Hash   // of the file at URL; zero when unknown
	FileSize    int64  // bytes of the file at URL; 0 when unknown
}

// unknownDeriver is what some caches write where there is none.
const unknownDeriver = "unknown-deriver"

// Encode writes n, keys in the order that Nix writes them, references sorted.
// The result is only meaningful when n.Validate succeeds.
func (n *NarInfo) Encode() []byte {
	var b bytes.Buffer
	line := func(key, value string) { b.WriteString(key + ": " + value + "\n") }
	optional := func(key, value string) {
		if value != "" {
			line(key, value)
		}
	}
	line("StorePath", n.StorePath)
	line("URL", n.URL)
	line("Compression", n.Compression)
	if !n.FileHash.IsZero() {
		line("FileHash", n.FileHash.String())
	}
	if n.FileSize > 0 {
		line("FileSize", strconv.FormatInt(n.FileSize, 10))
	}
	line("NarHash", n.NarHash.String())
	line("NarSize", strconv.FormatInt(n.NarSize, 10))
	line("References", strings.Join(n.sortedBases(), " "))
	if n.Deriver != "" {
		line("Deriver", path.Base(n.Deriver))
	}
	for _, s := range n.Sigs {
		line("Sig", s)
	}
	optional("CA", n.CA)
	return b.Bytes()
}

// Validate checks n as PathInfo.Validate does, and that it says where the archive is.
func (n *NarInfo) Validate() error {
	if err := n.PathInfo.Validate(); err != nil {
		return err
	}
	if n.URL == "" || !oneWord(n.URL) {
		return fmt.Errorf("narinfo of %s has no usable URL", n.StorePath)
	}
	if n.Compression == "" || !oneWord(n.Compression) {
		return fmt.Errorf("narinfo of %s has no usable Compression", n.StorePath)
	}
	return nil
}

// ParseNarInfo reads a narinfo. Unknown keys are ignored, since Nix adds some
// from time to time; a known key twice (but Sig), a line without its newline,
// a missing mandatory key or a malformed value is an error. What it returns has passed Validate.
func ParseNarInfo(text []byte) (*NarInfo, error) {
	p := narInfoParser{seen: map[string]bool{}}
	for rest := string(text); rest != ""; {
		line, after, ok := strings.Cut(rest, "\n")
		if !ok {
			return nil, fmt.Errorf("narinfo: line %q has no newline at its end", shorten(line))
		}
		if err := p.line(line); err != nil {
			return nil, fmt.Errorf("narinfo: %w", err)
		}
		rest = after
	}
	n, err := p.finish()
	if err != nil {
		return nil, fmt.Errorf("narinfo: %w", err)
	}
	return n, nil
}

type narInfoParser struct {
	n          NarInfo
	seen       map[string]bool
	references []string // base names
	deriver    string   // base name
}

func (p *narInfoParser) line(line string) (err error) {
	key, value, ok := strings.Cut(line, ":")
	if !ok {
		return fmt.Errorf("line %q has no colon", shorten(line))
	}
	value = strings.TrimPrefix(value, " ")
	if key != "Sig" && p.seen[key] && knownKey(key) {
		return fmt.Errorf("it has two lines %s", key)
	}
	p.seen[key] = true
	switch key {
	case "StorePath":
		p.n.StorePath = value
	case "URL":
		p.n.URL = value
	case "Compression":
		p.n.Compression = value
	case "FileHash":
		p.n.FileHash, err = ParseHash(value)
	case "FileSize":
		p.n.FileSize, err = parseSize(key, value)
	case "NarHash":
		p.n.NarHash, err = ParseHash(value)
	case "NarSize":
		p.n.NarSize, err = parseSize(key, value)
	case "References":
		p.references = strings.Fields(value)
	case "Deriver":
		p.deriver = value
	case "Sig":
		p.n.Sigs = append(p.n.Sigs, value)
	case "CA":
		p.n.CA = value
	}
	return err
}

func knownKey(key string) bool {
	switch key {
	case "StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver", "CA":
		return true
	}
	return false
}

func parseSize(key, value string) (int64, error) {
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%s %q is not a number of bytes", key, shorten(value))
	}
	return int64(n), nil
}

func (p *narInfoParser) finish() (*NarInfo, error) {
	if p.n.StorePath == "" {
		return nil, errors.New("it has no StorePath")
	}
	dir, _, _, err := SplitStorePath(p.n.StorePath)
	if err != nil {
		return nil, err
	}
	for _, r := range p.references {
		p.n.References = append(p.n.References, dir+"/"+r)
	}
	if p.deriver != "" && p.deriver != unknownDeriver {
		p.n.Deriver = dir + "/" + p.deriver
	}
	if p.n.Compression == "" {
		p.n.Compression = "bzip2"
	}
	if err := p.n.Validate(); err != nil {
		return nil, err
	}
	return &p.n, nil
}
