package modules_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/nix/modulestest"
)

// drilledBy evaluates a host whose repository has that drill.json.
func drilledBy(t *testing.T, text string) (modulestest.Host, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "drill.json")
	if text != "" {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return eval(t, `networking.hostName = "ratched"; services.garrison.drill = { enable = true; file = `+file+`; };`)
}

// TestDrill has drill.json break each thing that it can, on this host and on another.
func TestDrill(t *testing.T) {
	plain, err := drilledBy(t, "")
	if err != nil || len(plain.Failed) > 0 {
		t.Fatalf("without the file: %v %q", err, plain.Failed)
	}
	if _, there := plain.Etc["gitops-test"]; there {
		t.Error("a marker that nobody pushed")
	}
	marker := func(host, what string) string {
		return fmt.Sprintf(`{"schema": 1, "text": "garrison drill X\n", "break": {%q: %q}}`, host, what)
	}
	complaint := func(what string) string { return "garrison drill: " + what + " is broken on purpose" }
	for what, see := range map[string]func(modulestest.Host) string{
		"build":    func(h modulestest.Host) string { return h.Etc["garrison-drill-broken"] },
		"activate": func(h modulestest.Host) string { return h.Activation["garrison-drill"] },
		"slow":     func(h modulestest.Host) string { return h.Activation["garrison-drill"] },
		"check":    func(h modulestest.Host) string { return fmt.Sprint(h.Checks["drill"]) },
		"unit":     func(h modulestest.Host) string { return h.Units["garrison-drill"].Text() },
		"network":  func(h modulestest.Host) string { return h.Units["garrison-drill-network"].Text() },
	} {
		other, err := drilledBy(t, marker("joker", what))
		if err != nil || len(other.Failed) > 0 || other.Etc["gitops-test"] != "garrison drill X\n" {
			t.Fatalf("%s, of another host: %v %q %q", what, err, other.Failed, other.Etc["gitops-test"])
		}
		if len(other.Etc) != 1 || len(other.Activation)+len(other.Units) != 0 || other.Checks["drill"] != nil {
			t.Errorf("%s of another host makes here: %+v", what, other)
		}
		h, err := drilledBy(t, marker("ratched", what))
		if err != nil || len(h.Failed) > 0 {
			t.Fatalf("%s: %v %q", what, err, h.Failed)
		}
		if got := see(h); !strings.Contains(got, complaint(what)) {
			t.Errorf("%s: %q", what, got)
		}
	}
	if _, err := drilledBy(t, marker("ratched", "evaluate")); err == nil || !strings.Contains(err.Error(), complaint("evaluate")) {
		t.Errorf("evaluate: %v", err)
	}
	for _, bad := range []string{marker("ratched", "everything"), `{"schema": 2, "text": "x"}`} {
		if h, err := drilledBy(t, bad); err != nil || len(h.Failed) != 1 {
			t.Errorf("%s: %v %q", bad, err, h.Failed)
		}
	}
}
