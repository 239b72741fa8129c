// Package internal_test holds the rules that the whole tree keeps: who may import
// whom, who runs which programs, who may end the process. Start at TestLayers.
package internal_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/garrison-nix/garrison/"

var (
	base     = []string{"internal/fleet", "internal/durable", "internal/nar"}
	logic    = []string{"internal/deploy", "internal/rollout", "internal/secret", "internal/secret/sops", "internal/closure"}
	adapters = []string{"internal/proc", "internal/git", "internal/ledger", "internal/nix", "internal/tomlfile", "internal/hostkey", "internal/stream", "internal/metrics", "internal/forge", "internal/otlp", "internal/postgres"}
)

// mayImport says for each package which others of ours it may import, directly or
// through others. Services appear in no other service's list but for the two that
// docs/ARCHITECTURE.md explains.
var mayImport = map[string][]string{
	"internal/fleet": {}, "internal/durable": {}, "internal/nar": {},
	"internal/deploy": base, "internal/closure": base, "internal/comin": base, "internal/wiring": base, "internal/ci": with("internal/forge", "internal/proc"),
	"internal/secret": with("internal/secret/sops"), "internal/secret/sops": base,
	"internal/proc": base, "internal/metrics": base, "internal/otlp": base, "internal/tomlfile": base, "internal/hostkey": base, "internal/stream": base, "internal/postgres": base,
	"internal/rollout": with("internal/deploy"), "internal/ledger": with("internal/git", "internal/proc"),
	"internal/git": with("internal/proc"), "internal/nix": with("internal/proc"), "internal/forge": with("internal/proc"),

	"internal/release":        with("internal/cache/client", below...),
	"internal/activate":       below,
	"internal/agent":          with("internal/activate", append([]string{"internal/cache/client"}, below...)...),
	"internal/hub":            below,
	"internal/hub/tables":     with("internal/hub", append([]string{"internal/notify"}, below...)...),
	"internal/hub/sqlite":     with("internal/hub", append([]string{"internal/notify", "internal/hub/tables"}, below...)...),
	"internal/hub/postgres":   with("internal/hub", append([]string{"internal/notify", "internal/hub/tables"}, below...)...),
	"internal/hub/hubtest":    with("internal/hub", append([]string{"internal/notify"}, below...)...),
	"internal/hub/web":        with("internal/hub", below...),
	"internal/notify":         below,
	"internal/cache":          below,
	"internal/cache/client":   base,
	"internal/cache/local":    with("internal/cache", below...),
	"internal/cache/sqlite":   with("internal/cache", below...),
	"internal/cache/s3":       with("internal/cache", below...),
	"internal/cache/postgres": with("internal/cache", below...),

	"internal/sandbox": {"internal/fleet"},
	"internal/drill":   {"internal/fleet", "internal/sandbox"},
	"examples":         {},
	"nix":              {},
	"monitoring":       {},
}

// isTest says whether a package is of test support: the conformance suites and the tools of
// its parent's tests. It may import what its parent may, the parent, whatever is beside it, and the starter of servers.
func isTest(name string) bool { return strings.HasSuffix(name, "test") }

// starter is what all tools of tests start their servers with; it needs none of ours.
const starter = "internal/proc/proctest"

// below is what every service may use.
var below = slices.Concat(base, logic, adapters)

func with(one string, more ...string) []string {
	return append([]string{one}, slices.Concat(base, more)...)
}

// wires may import everything.
var wires = []string{"internal/cli", "cmd/garrison"}

type listed struct {
	ImportPath, Dir, Doc string
	Deps                 []string
	GoFiles              []string
	Standard             bool
}

func (p listed) name() string { return strings.TrimPrefix(p.ImportPath, module) }

// packages are all of ours.
func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,Doc,Deps,GoFiles,Standard", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if p.name() != "internal" { // this one
			all = append(all, p)
		}
	}
}

func TestLayers(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains(wires, p.name()) {
			if i := slices.IndexFunc(p.Deps, func(d string) bool { return strings.HasPrefix(d, module) && isTest(d) }); i >= 0 {
				t.Errorf("%s has %s in it, which is for tests", p.name(), p.Deps[i])
			}
			continue
		}
		about := p.name()
		if _, special := mayImport[about]; isTest(about) && !special {
			about = path.Dir(about)
		}
		may, known := mayImport[about]
		if !known {
			t.Errorf("%s is new: say in mayImport what it may import", about)
		}
		for _, dep := range p.Deps {
			ours, ok := strings.CutPrefix(dep, module)
			if !ok || slices.Contains(may, ours) || isTest(p.name()) && (ours == about || path.Dir(ours) == about || ours == starter) {
				continue
			}
			t.Errorf("%s must not depend on %s", p.name(), ours)
		}
	}
}

// The shared nouns and the durable files are understood with the standard library alone.
func TestBaseIsPlain(t *testing.T) {
	for _, p := range packages(t) {
		if p.name() != "internal/fleet" && p.name() != "internal/durable" {
			continue
		}
		for _, dep := range p.Deps {
			first, _, _ := strings.Cut(dep, "/")
			if strings.Contains(first, ".") {
				t.Errorf("%s must not depend on %s", p.name(), dep)
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.Doc) < 20 {
			t.Errorf("%s has no package comment", p.name())
		}
	}
}

// What only some packages may do. Whoever drives others from outside, as a person would, may run every program.
var (
	fromOutside = []string{"internal/sandbox", "internal/drill"}
	mayExec     = append([]string{
		"internal/proc",
		"internal/activate", // starts itself as the helper
	}, fromOutside...)
	mayExit = []string{
		"cmd/garrison/main.go",
		"internal/sandbox/init.go", // PID 1 of a host, when its owner is gone
	}
)

func TestSources(t *testing.T) {
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			r := rules{t: t, set: set, pkg: p.name(), file: p.name() + "/" + name}
			r.imports(f)
			ast.Inspect(f, r.node)
		}
	}
}

// rules holds one file against them.
type rules struct {
	t         *testing.T
	set       *token.FileSet
	pkg, file string
}

func (r rules) complain(at ast.Node, what string) {
	r.t.Helper()
	r.t.Errorf("%s:%d: %s", r.file, r.set.Position(at.Pos()).Line, what)
}

func (r rules) imports(f *ast.File) {
	for _, i := range f.Imports {
		if i.Path.Value == `"os/exec"` && !slices.Contains(mayExec, r.pkg) && !isTest(r.pkg) {
			r.complain(i, "runs programs by itself; internal/proc does that")
		}
		if i.Path.Value == `"log"` {
			r.complain(i, "log is not used here; log/slog is")
		}
	}
}

func (r rules) node(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.FuncDecl:
		if n.Name.Name == "init" && n.Recv == nil {
			r.complain(n, "init() hides what happens when")
		}
	case *ast.SelectorExpr:
		if x, ok := n.X.(*ast.Ident); ok && x.Name == "os" && n.Sel.Name == "Exit" && !slices.Contains(mayExit, r.file) {
			r.complain(n, "only main ends the process")
		}
	case *ast.KeyValueExpr:
		if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Program" {
			r.program(n.Value)
		}
	case *ast.CallExpr:
		if f, ok := n.Fun.(*ast.SelectorExpr); ok && strings.HasPrefix(f.Sel.Name, "Command") {
			for _, arg := range n.Args[:min(2, len(n.Args))] {
				r.program(arg)
			}
		}
	}
	return true
}

// program is where a program is named that is to be run.
func (r rules) program(e ast.Expr) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || slices.Contains(fromOutside, r.pkg) || isTest(r.pkg) {
		return
	}
	name, _ := strconv.Unquote(lit.Value)
	switch {
	case name == "git" && r.pkg != "internal/git":
		r.complain(e, "only internal/git runs git")
	case (name == "nix" || strings.HasPrefix(name, "nix-")) && r.pkg != "internal/nix":
		r.complain(e, "only internal/nix runs nix")
	}
}

const maxLines = 500

func TestFileLength(t *testing.T) {
	err := filepath.WalkDir("..", func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if slices.Contains([]string{"bin", "build", ".git"}, e.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !slices.Contains([]string{".go", ".sh", ".nix", ".md", ".txtar"}, filepath.Ext(file)) {
			return nil
		}
		data, err := os.ReadFile(file)
		if n := bytes.Count(data, []byte("\n")); n > maxLines {
			t.Errorf("%s has %d lines; at most %d are read with pleasure", file, n, maxLines)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
