package fleet

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// constants are the values of a type's constants in status.go.
func constants(t *testing.T, name string) (values []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "status.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			if id, ok := spec.Type.(*ast.Ident); ok && id.Name == name {
				values = append(values, strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`))
			}
		}
		return true
	})
	return values
}

// TestListsAreWhole: metrics have a series for each phase and result, and each phase is told in words.
func TestListsAreWhole(t *testing.T) {
	phases, results := constants(t, "Phase"), constants(t, "Result")
	if m := (Status{Phase: PhaseUnheard}).Meaning(); m != "has never reported" { // said by no agent
		t.Error(m)
	}
	phases = slices.DeleteFunc(phases, func(p string) bool { return p == string(PhaseUnheard) })
	if len(phases) < 8 || len(phases) != len(Phases()) || len(results) < 5 || len(results) != len(Results) {
		t.Errorf("%v, %v", phases, results)
	}
	for _, p := range phases {
		if !slices.Contains(Phases(), Phase(p)) {
			t.Errorf("phase %s is not listed", p)
		}
		if m := (Status{Phase: Phase(p)}).Meaning(); strings.Contains(m, "does not know") {
			t.Errorf("phase %s %s", p, m)
		}
	}
	for _, r := range results {
		if !slices.Contains(Results, Result(r)) {
			t.Errorf("result %s is not listed", r)
		}
	}
}

func TestSummaryAndWhatIsEnough(t *testing.T) {
	active := &Target{Release: ReleaseRef{Number: 411}, Toplevel: Toplevel{OutPath: "/a"}}
	target := &Target{Release: ReleaseRef{Number: 412}, Toplevel: Toplevel{OutPath: "/b"}}
	runs := Systems{Current: "/a"}
	failure := &Failure{Code: CodeCheck}
	for _, c := range []struct {
		s                         Status
		line                      string
		converged, healthy, stuck bool
	}{
		{Status{Phase: PhaseNew}, "no release active, has not seen a release yet", false, false, false},
		{Status{Phase: PhaseIdle, Active: active, Systems: runs}, "release-411 active", true, true, false},
		{Status{Phase: PhaseStaging, Active: active, Target: target, Systems: runs}, "release-411 active, fetches release-412", false, false, false},
		{Status{Phase: PhaseHeld, Active: active, Target: target, Systems: runs, Failure: failure}, "release-411 active, release-412 is bad for this host; one with another system ends this", false, true, true},
		{Status{Phase: PhaseHeld, Active: active, Target: target, Systems: runs, Failure: failure, Last: &Deployment{Result: RollbackFailed}},
			"release-411 active, release-412 is bad for this host; one with another system ends this", false, false, true},
		{Status{Phase: PhaseIdle, Active: active, Systems: Systems{Current: "/c"}, Drift: true}, "release-411 active; DRIFT, somebody switched it by hand", true, false, false},
		{Status{Phase: PhaseIdle, Active: active, Systems: runs, Refused: &Refusal{Failure: Failure{Code: CodeSignature}}}, "release-411 active; REFUSED the release branch (bad-signature)", false, true, true},
		{Status{Phase: PhaseIdle, Active: active, Systems: runs, Remote: Contact{Failure: &Failure{Code: CodeRemote, Stage: Fetch}}}, "release-411 active; git is away (remote-unreachable)", true, true, false},
		{Status{Phase: PhaseIdle, Active: active, Systems: runs, Remote: Contact{Failure: &Failure{Code: CodeRemote, Stage: Verify}}}, "release-411 active; git is away (remote-unreachable)", false, true, false},
		{Status{Phase: PhaseReboot, Active: target, Systems: runs}, "release-412 active, must be rebooted to run the newest release", false, false, true},
	} {
		if line := c.s.Summary(); line != c.line {
			t.Errorf("got %q, want %q", line, c.line)
		}
		if c.s.Converged() != c.converged || c.s.Healthy() != c.healthy || c.s.Stuck() != c.stuck {
			t.Errorf("%s: converged %v, healthy %v, stuck %v", c.line, c.s.Converged(), c.s.Healthy(), c.s.Stuck())
		}
	}
}

func TestNamesByHand(t *testing.T) {
	const hash = "0123456789abcdfghijklmnpqrsvwxyz"
	for name, ok := range map[string]bool{"a": true, "joker-1.example": true, "": false, "-a": false, "a-": false, "a..b": false, "a b": false, "ä": false, strings.Repeat("a", 253): true, strings.Repeat("a", 254): false} {
		if ValidHostName(name) != ok {
			t.Errorf("host %q: %v", name, !ok)
		}
	}
	for path, ok := range map[string]bool{
		"/nix/store/" + hash + "-a": true, "/nix/store/" + hash + "-a/b": false, "/nix/store/" + hash: false, "/nix/store/" + hash + "-": false, "/nix/store/" + hash[1:] + "e-a": false,
		"/nix/store/" + hash + "-" + strings.Repeat("a", 211): true, "/nix/store/" + hash + "-" + strings.Repeat("a", 212): false, "/nix/store/" + hash + "-a\n": false, "store/" + hash + "-a": false,
	} {
		if ValidStorePath(path) != ok {
			t.Errorf("path %q: %v", path, !ok)
		}
	}
	for id, ok := range map[string]bool{strings.Repeat("a", 40): true, strings.Repeat("0", 64): true, strings.Repeat("a", 41): false, strings.Repeat("A", 40): false, "": false} {
		if ValidCommit(id) != ok {
			t.Errorf("commit %q: %v", id, !ok)
		}
	}
}
