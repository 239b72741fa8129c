// Package closure compares the closures of two systems: which packages came,
// went, or changed their version or only their build, and what that means in bytes.
// It is pure: paths and sizes in, a Diff out. Start at Compare.
package closure

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Path is a store path of a closure.
type Path struct {
	StorePath string
	NarSize   int64 // bytes
}

// Package is all paths of a closure that have the same name: its versions, and its outputs' sizes together.
type Package struct {
	Name     string   `json:"name"`
	Versions []string `json:"versions"` // sorted as Nix compares versions; "" for a path without one
	Bytes    int64    `json:"bytes"`    // sum of NAR sizes
}

// Kind is what became of a package.
type Kind string

// The kinds. A package with several versions on either side, whose sets differ, is Changed.
const (
	Upgraded   Kind = "upgraded"
	Downgraded Kind = "downgraded"
	Changed    Kind = "changed"
	Rebuilt    Kind = "rebuilt" // the same versions, other paths
)

// Change is a package that is on both sides, but not by the same paths.
type Change struct {
	Name   string   `json:"name"`
	Kind   Kind     `json:"kind"`
	Before []string `json:"before"` // versions
	After  []string `json:"after"`
	Bytes  int64    `json:"bytes"` // growth; negative when it shrank
}

// Diff is what changed from one closure to another. All lists are sorted by name.
type Diff struct {
	Added       []Package `json:"added"`
	Removed     []Package `json:"removed"`
	Changes     []Change  `json:"changes"`
	PathsBefore int       `json:"pathsBefore"`
	PathsAfter  int       `json:"pathsAfter"`
	BytesBefore int64     `json:"bytesBefore"`
	BytesAfter  int64     `json:"bytesAfter"`
}

// Empty says whether nothing changed.
func (d Diff) Empty() bool { return len(d.Added)+len(d.Removed)+len(d.Changes) == 0 }

// group is the paths of one package.
type group struct {
	versions map[string]bool
	paths    map[string]bool
	bytes    int64
}

func (g group) sorted() []string { return slices.SortedFunc(maps.Keys(g.versions), CompareVersions) }

// Compare tells what changes for a host that goes from the one closure to the other.
func Compare(before, after []Path) Diff {
	old, new := groups(before), groups(after)
	d := Diff{Added: []Package{}, Removed: []Package{}, Changes: []Change{}, PathsBefore: len(before), PathsAfter: len(after)}
	for _, p := range before {
		d.BytesBefore += p.NarSize
	}
	for _, p := range after {
		d.BytesAfter += p.NarSize
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if _, stays := new[name]; !stays {
			d.Removed = append(d.Removed, Package{name, old[name].sorted(), old[name].bytes})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(new)) {
		was, stayed := old[name]
		now := new[name]
		switch {
		case !stayed:
			d.Added = append(d.Added, Package{name, now.sorted(), now.bytes})
		case !maps.Equal(was.paths, now.paths):
			before, after := was.sorted(), now.sorted()
			d.Changes = append(d.Changes, Change{name, kind(before, after), before, after, now.bytes - was.bytes})
		}
	}
	return d
}

func kind(before, after []string) Kind {
	switch {
	case slices.Equal(before, after):
		return Rebuilt
	case len(before) != 1 || len(after) != 1:
		return Changed
	case CompareVersions(before[0], after[0]) < 0:
		return Upgraded
	}
	return Downgraded
}

func groups(paths []Path) map[string]group {
	byName := make(map[string]group, len(paths))
	for _, p := range paths {
		name, version := Split(p.StorePath)
		g, ok := byName[name]
		if !ok {
			g = group{versions: map[string]bool{}, paths: map[string]bool{}}
		}
		g.versions[version] = true
		g.paths[p.StorePath] = true
		g.bytes += p.NarSize
		byName[name] = g
	}
	return byName
}

// outputs are names of outputs that nixpkgs appends to a path's name.
var outputs = map[string]bool{"bin": true, "dev": true, "doc": true, "lib": true, "man": true, "info": true, "data": true,
	"debug": true, "static": true, "devdoc": true, "devman": true, "lib32": true, "lib64": true, "terminfo": true, "man-pages": true}

// Split takes a store path's name apart, as Nix's builtins.parseDrvName does: the
// version begins after the first "-" that no letter follows. The name of an output behind the version is dropped.
func Split(storePath string) (name, version string) {
	base := storePath[strings.LastIndexByte(storePath, '/')+1:]
	if _, rest, ok := strings.Cut(base, "-"); ok && len(base)-len(rest) == 33 {
		base = rest
	}
	name = base
	for i := 0; i+1 < len(base); i++ {
		if base[i] == '-' && !isLetter(base[i+1]) {
			name, version = base[:i], base[i+1:]
			break
		}
	}
	if i := strings.LastIndexByte(version, '-'); i > 0 && outputs[version[i+1:]] {
		version = version[:i]
	}
	return name, version
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// CompareVersions orders versions as Nix's builtins.compareVersions does, but for numbers too
// large for it, which are numbers here.
func CompareVersions(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a = component(a)
		y, b = component(b)
		if c := compareComponents(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// component takes the first component off a version: separators "." and "-" go, then a run of digits or of anything else.
func component(v string) (first, rest string) {
	v = strings.TrimLeft(v, ".-")
	if v == "" {
		return "", ""
	}
	end := 1
	for end < len(v) && isDigit(v[end]) == isDigit(v[0]) && v[end] != '.' && v[end] != '-' {
		end++
	}
	return v[:end], v[end:]
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// compareComponents: numbers by value; "pre" before nothing; nothing before words; words before numbers.
func compareComponents(x, y string) int {
	numX, numY := x != "" && isDigit(x[0]), y != "" && isDigit(y[0])
	switch {
	case x == y:
		return 0
	case numX && numY:
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y))
	case x == "" && numY:
		return -1
	case y == "" && numX:
		return 1
	case x == "pre":
		return -1
	case y == "pre":
		return 1
	case numY:
		return -1
	case numX:
		return 1
	}
	return cmp.Compare(x, y)
}
