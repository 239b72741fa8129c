package hub_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub/hubtest"
)

func newAPI(t *testing.T) *hubtest.API {
	t.Helper()
	api, err := hubtest.NewAPI()
	must(t, err)
	return api
}

// parsed are the files of a package's folder, without tests.
func parsed(t *testing.T, dir string) (files []*ast.File) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	must(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		must(t, err)
		files = append(files, f)
	}
	return files
}

// TestRoutesInDocument: what the handler answers is in the document, and the other way around.
func TestRoutesInDocument(t *testing.T) {
	served := map[string]bool{}
	for _, f := range parsed(t, ".") {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			method, isMethod := call.Fun.(*ast.SelectorExpr)
			pattern, isText := call.Args[0].(*ast.BasicLit)
			if isMethod && isText && (method.Sel.Name == "Handle" || method.Sel.Name == "HandleFunc") {
				if p := strings.Trim(pattern.Value, `"`); strings.Contains(p, " /api/v1/") || p == "GET /healthz" || p == "GET /metrics" {
					served[p] = true
				}
			}
			return true
		})
	}
	documented := map[string]bool{}
	for path, item := range newAPI(t).Doc.Paths.Map() {
		for method := range item.Operations() {
			documented[method+" "+path] = true
		}
	}
	if len(served) < 25 || !maps.Equal(served, documented) {
		for p := range served {
			if !documented[p] {
				t.Errorf("%s is not in openapi.yaml", p)
			}
		}
		for p := range documented {
			if !served[p] {
				t.Errorf("%s is in openapi.yaml, and not served", p)
			}
		}
		t.Errorf("%d are served, %d documented", len(served), len(documented))
	}
}

// TestSchemasAreTypes: each schema has the fields of its type, all of them and no other, of the same kinds.
func TestSchemasAreTypes(t *testing.T) {
	schemas := newAPI(t).Doc.Components.Schemas
	seen := map[string]bool{"Token": true, "RunKept": true} // are of no type
	for _, root := range []any{fleet.Status{}, fleet.DeploymentReport{}, fleet.HostDiff{}, fleet.LogPart{}, fleet.Received{}, fleet.StreamEvent{}, fleet.ReleaseView{}, fleet.Stats{},
		fleet.DrillReport{}, fleet.Alert{}, fleet.Act{}, fleet.SenderState{}, fleet.SenderTest{}, fleet.PhaseChange{}, fleet.Published{}, fleet.Rollout{}, fleet.RolloutAct{}, fleet.RolloutCommand{}} {
		c := comparison{t, schemas, seen}
		c.named(reflect.TypeOf(root))
	}
	for name := range schemas {
		if !seen[name] {
			t.Errorf("the schema %s is of no type of the API", name)
		}
	}
}

type comparison struct {
	*testing.T
	schemas openapi3.Schemas
	seen    map[string]bool
}

// named compares a type with the schema of its name.
func (c comparison) named(rt reflect.Type) {
	if c.seen[rt.Name()] {
		return
	}
	c.seen[rt.Name()] = true
	ref := c.schemas[rt.Name()]
	if ref == nil {
		c.Errorf("there is no schema %s", rt.Name())
		return
	}
	if rt.Kind() == reflect.String {
		return // TestEnumsAreConstants
	}
	fields := map[string]reflect.Type{}
	var required []string
	fieldsOf(rt, fields, &required)
	slices.Sort(required)
	if want := slices.Sorted(slices.Values(ref.Value.Required)); !slices.Equal(want, required) {
		c.Errorf("%s requires %q, its type always has %q", rt.Name(), want, required)
	}
	for name, ft := range fields {
		p := ref.Value.Properties[name]
		if p == nil {
			c.Errorf("%s has no %s", rt.Name(), name)
			continue
		}
		c.field(rt.Name()+"."+name, ft, p)
	}
	for name := range ref.Value.Properties {
		if fields[name] == nil {
			c.Errorf("%s has %s, its type has not", rt.Name(), name)
		}
	}
}

// fieldsOf adds a struct's fields, and those of embedded ones, as JSON has them.
func fieldsOf(rt reflect.Type, fields map[string]reflect.Type, required *[]string) {
	for f := range rt.Fields() {
		tag, there := f.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case f.Anonymous && !there:
			fieldsOf(f.Type, fields, required)
		case name != "-":
			fields[name] = f.Type
			if !strings.Contains(options, "omitempty") {
				*required = append(*required, name)
			}
		}
	}
}

func (c comparison) field(where string, ft reflect.Type, p *openapi3.SchemaRef) {
	if len(p.Value.AllOf) == 1 { // a reference with a description
		p = p.Value.AllOf[0]
	}
	if ft.Kind() == reflect.Pointer {
		ft = ft.Elem()
	}
	kind := func(want, format string) {
		if p.Ref != "" || !p.Value.Type.Is(want) || p.Value.Format != format {
			c.Errorf("%s is not %s %s", where, want, format)
		}
	}
	switch {
	case ft == reflect.TypeFor[time.Time]():
		kind("string", "date-time")
	case ft == reflect.TypeFor[json.RawMessage]():
		if p.Ref != "" || p.Value.Type != nil {
			c.Errorf("%s may be anything", where)
		}
	case ft.PkgPath() != "":
		if p.Ref != "#/components/schemas/"+ft.Name() {
			c.Errorf("%s is %q, not of the type %s", where, p.Ref, ft.Name())
		}
		c.named(ft)
	case ft.Kind() == reflect.Slice:
		kind("array", "")
		c.field(where+"[]", ft.Elem(), p.Value.Items)
	case ft.Kind() == reflect.String:
		kind("string", "")
	case ft.Kind() == reflect.Bool:
		kind("boolean", "")
	case ft.Kind() == reflect.Float64:
		kind("number", "")
	case ft.Kind() == reflect.Int, ft.Kind() == reflect.Int64:
		kind("integer", "")
	default:
		c.Errorf("%s is of a kind that this test does not know: %s", where, ft)
	}
}

// TestEnumsAreConstants: the values that the document allows are the constants that there are.
func TestEnumsAreConstants(t *testing.T) {
	constants := map[string][]string{}
	for _, f := range parsed(t, "../fleet") {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				v := s.(*ast.ValueSpec)
				if kind, ok := v.Type.(*ast.Ident); ok {
					constants[kind.Name] = append(constants[kind.Name], strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`))
				}
			}
		}
	}
	checked := 0
	for name, ref := range newAPI(t).Doc.Components.Schemas {
		if !ref.Value.Type.Is("string") || name == "Code" { // of those there will be more
			continue
		}
		checked++
		var values []string
		for _, v := range ref.Value.Enum {
			values = append(values, v.(string))
		}
		if want := constants[name]; !slices.Equal(slices.Sorted(slices.Values(values)), slices.Sorted(slices.Values(want))) {
			t.Errorf("%s is one of %q, the constants are %q", name, values, want)
		}
	}
	if checked < 8 {
		t.Errorf("only %d were looked at", checked)
	}
}

func TestDocumentIsServed(t *testing.T) {
	w := newWorld(t)
	want, err := os.ReadFile("openapi.yaml")
	must(t, err)
	if code, body := w.ask("GET", "/api/v1/openapi.yaml", "", ""); code != 200 || body != string(want) {
		t.Errorf("%d, %d bytes", code, len(body))
	}
	if link, err := os.ReadFile("../../docs/openapi.yaml"); err != nil || string(link) != string(want) {
		t.Errorf("docs/openapi.yaml is another: %v", err)
	}
}
