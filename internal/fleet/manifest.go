package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// ManifestSchema is the schema of manifests that this version writes and reads.
const ManifestSchema = 1

// MaxManifestBytes bounds the message of a release tag: about 20,000 hosts.
const MaxManifestBytes = 16 << 20

// Manifest is what a release tag says: which system each host gets.
// It stands in the message of the signed tag release-<number> (docs/FORMATS.md).
type Manifest struct {
	Schema    int              `json:"schema"`
	Number    int              `json:"number"`
	CreatedAt time.Time        `json:"createdAt"`
	Source    Source           `json:"source"`
	Trace     string           `json:"traceparent,omitempty"` // W3C trace context
	Hosts     map[string]Entry `json:"hosts"`
	// RollbackTo is the number of the release whose content this one has again; 0 for none.
	RollbackTo int `json:"rollbackTo,omitempty"`
	// Newest is the newest source commit that was ever released, when that is not Source.Commit: only
	// what is built on it is released after a roll-back.
	Newest string   `json:"newest,omitempty"`
	Manual []string `json:"manual,omitempty"` // evaluated and re-keyed, but deployed by hand
	// Test is the one host that a test release is for, Base the number of the release that it is built on.
	Test string `json:"test,omitempty"`
	Base int    `json:"base,omitempty"`
	// Rings are the parts of the fleet that get it one after the other; none: all get it at once.
	Rings []Ring `json:"rings,omitempty"`
}

// Name is the name of the tag that the manifest stands in.
func (m *Manifest) Name() string {
	if m.Test != "" {
		return TestTagName(m.Test, m.Number)
	}
	return TagName(m.Number)
}

// Ref is how a release with that manifest is referred to; tag is the tag's object name.
func (m *Manifest) Ref(commit, tag string) ReleaseRef {
	r := ReleaseRef{Number: m.Number, Commit: commit, Tag: tag, Source: m.Source, Trace: m.Trace}
	if m.Test != "" {
		r.Number, r.Test = 0, m.Name()
	}
	return r
}

// NewestSource is the newest source commit that was ever released.
func (m *Manifest) NewestSource() string {
	if m.Newest != "" {
		return m.Newest
	}
	return m.Source.Commit
}

// Source is the commit of the source branch that a release was made of.
type Source struct {
	Commit   string     `json:"commit"`
	Branch   string     `json:"branch"`
	Subject  string     `json:"subject"`
	Author   string     `json:"author,omitempty"`   // the commit's, by name
	PushedAt *time.Time `json:"pushedAt,omitempty"` // when CI heard of it, if it knows
}

// Toplevel is a host's system as a release says it. It goes with the system by whatever way that is deployed: through
// a host's record, and through its history for a way back.
type Toplevel struct {
	OutPath    string `json:"outPath"`
	Built      bool   `json:"built"`           // CI built it, and caches should have it; false: left to the host to build
	Flake      string `json:"flake,omitempty"` // folder of the sub-flake that declares the host; "" for the root
	Submodules bool   `json:"submodules,omitempty"`
	LFS        bool   `json:"lfs,omitempty"` // both as CI evaluated it: with the files of submodules, with what git-lfs keeps
	// Checks are what must be well in the new system before the host commits it.
	Checks []HealthCheck `json:"checks,omitempty"`
}

// Entry is what a release says of one host.
type Entry struct {
	Toplevel
	System       string `json:"system"`
	DrvPath      string `json:"drvPath"`
	Changed      bool   `json:"changed"` // outPath differs from the previous release's
	ClosurePaths int    `json:"closurePaths"`
	ClosureBytes int64  `json:"closureBytes"` // sum of NAR sizes
	Previous     string `json:"previous,omitempty"`
	Error        string `json:"error,omitempty"`
	// Ring is the host's, Batch its part of it, from 1; "" and 0 where there are no rings.
	Ring  string `json:"ring,omitempty"`
	Batch int    `json:"batch,omitempty"`
}

// Target is e as what a host is to get by a release.
func (e Entry) Target(r ReleaseRef, at time.Time) *Target {
	return &Target{Release: r, Toplevel: e.Toplevel, At: at}
}

// TagPrefix is what names of release tags start with; the number follows.
const TagPrefix = "release-"

// TagName is the name of the tag of release n.
func TagName(n int) string { return TagPrefix + strconv.Itoa(n) }

// TagNumber returns the number in a release tag's name, and false for any other
// name, also one with a leading zero or a sign, and beyond MaxNumber.
func TagNumber(name string) (int, bool) {
	s, ok := strings.CutPrefix(name, TagPrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > MaxNumber || strconv.Itoa(n) != s {
		return 0, false
	}
	return n, true
}

// TestBranch is the branch of a host's test releases. Their tags are named after it; TagNumber knows none of them, so
// nobody takes a test for a release.
func TestBranch(host string) string { return TagPrefix + host + "-test" }

// TestTagName is the name of the tag of a host's test release n.
func TestTagName(host string, n int) string { return TestBranch(host) + "-" + strconv.Itoa(n) }

// TestTagNumber is TagNumber for the test releases of a host.
func TestTagNumber(host, name string) (int, bool) {
	s, ok := strings.CutPrefix(name, TestBranch(host)+"-")
	if !ok {
		return 0, false
	}
	return TagNumber(TagPrefix + s)
}

// MaxNumber bounds the number of a release, so that the next one can always be counted.
const MaxNumber = 1 << 30

// The names below are checked by hand: every garrison process, an idle agent too, would pay for their
// regular expressions with more memory than all else that the package holds.

// ValidHostName says whether s can name a host: one label of a domain name, or several.
func ValidHostName(s string) bool {
	return len(s) <= 253 && consistsOf(s, "._-") && isAlnum(s[0]) && isAlnum(s[len(s)-1]) && !strings.Contains(s, "..")
}

// ValidStorePath says whether s is the full path of a store object (not of a file within one).
func ValidStorePath(s string) bool {
	const hashLen = 32
	rest, ok := strings.CutPrefix(s, "/nix/store/")
	if !ok || len(rest) < hashLen+2 || len(rest) > hashLen+1+211 || rest[hashLen] != '-' {
		return false
	}
	return strings.Trim(rest[:hashLen], "0123456789abcdfghijklmnpqrsvwxyz") == "" && consistsOf(rest[hashLen+1:], "+._?=-")
}

// ValidCommit says whether s is a full object name of git.
func ValidCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// consistsOf says whether s is made of letters, digits and others alone, at least one of them.
func consistsOf(s, others string) bool {
	for i := range len(s) {
		if !isAlnum(s[i]) && strings.IndexByte(others, s[i]) < 0 {
			return false
		}
	}
	return s != ""
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// TagMessage is the message of the release tag: one line of summary, a blank line, the manifest.
func (m *Manifest) TagMessage() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	body, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	msg := fmt.Appendf(nil, "%s: %s\n\n%s\n", m.Name(), oneLine(m.Source.Subject), body)
	if len(msg) > MaxManifestBytes {
		return nil, fmt.Errorf("the manifest has %d bytes, more than the %d that hosts read", len(msg), MaxManifestBytes)
	}
	return msg, nil
}

// ParseTagMessage reads what TagMessage wrote. Unknown fields are allowed (a newer
// Garrison may add some), an unknown schema is not.
func ParseTagMessage(msg []byte) (*Manifest, error) {
	if len(msg) > MaxManifestBytes {
		return nil, fmt.Errorf("the tag's message has %d bytes, more than %d", len(msg), MaxManifestBytes)
	}
	_, body, ok := bytes.Cut(msg, []byte("\n\n"))
	if !ok {
		return nil, errors.New("the tag's message has no blank line before a manifest")
	}
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("the tag's manifest is not JSON of the form expected: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the tag's manifest")
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return &m, nil
}

// Validate checks everything that a reader relies on.
func (m *Manifest) Validate() error {
	if m.Schema != ManifestSchema {
		return fmt.Errorf("manifest has schema %d, this Garrison knows %d", m.Schema, ManifestSchema)
	}
	if m.Number < 1 || m.Number > MaxNumber {
		return fmt.Errorf("manifest has number %d, numbers go from 1 to %d", m.Number, MaxNumber)
	}
	if !ValidCommit(m.Source.Commit) {
		return fmt.Errorf("manifest's source commit %q is not an object name", m.Source.Commit)
	}
	if m.Newest != "" && !ValidCommit(m.Newest) || m.RollbackTo < 0 || m.RollbackTo >= m.Number {
		return fmt.Errorf("manifest goes back to release %d, newest source %q", m.RollbackTo, m.Newest)
	}
	if err := m.validateTest(); err != nil {
		return err
	}
	if err := m.validateRings(); err != nil {
		return err
	}
	for h, e := range m.Hosts {
		if !ValidHostName(h) {
			return fmt.Errorf("manifest has a host with the name %q", h)
		}
		if !ValidStorePath(e.OutPath) {
			return fmt.Errorf("manifest's outPath of host %s, %q, is not a store path", h, e.OutPath)
		}
		if !ValidStorePath(e.DrvPath) || !strings.HasSuffix(e.DrvPath, ".drv") {
			return fmt.Errorf("manifest's drvPath of host %s, %q, is not a derivation", h, e.DrvPath)
		}
		if e.Flake != "" && !fs.ValidPath(e.Flake) {
			return fmt.Errorf("manifest's flake of host %s, %q, is not a folder of the repository", h, e.Flake)
		}
		if err := validateChecks(e.Checks); err != nil {
			return fmt.Errorf("manifest's host %s: %w", h, err)
		}
	}
	return nil
}

// validateTest checks what only a test release says, and that no other does.
func (m *Manifest) validateTest() error {
	if m.Test == "" && m.Base == 0 {
		return nil
	}
	_, there := m.Hosts[m.Test]
	if !there || len(m.Hosts) != 1 || len(m.Manual) != 0 || m.Base < 1 || m.Base > MaxNumber || m.RollbackTo != 0 || m.Newest != "" {
		return fmt.Errorf("manifest is of a test for host %q on release %d, and has %d hosts", m.Test, m.Base, len(m.Hosts))
	}
	return nil
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	const most = 120
	if r := []rune(s); len(r) > most {
		s = string(r[:most-1]) + "…"
	}
	return s
}
