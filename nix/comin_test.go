package modules_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/garrison-nix/garrison/internal/comin"
)

// TestFromComin has the modules evaluate what is made of comin's configurations: with the one thing that everybody is told to
// add, it makes the very agent.toml that is written beside it.
func TestFromComin(t *testing.T) {
	files, err := filepath.Glob("../internal/comin/testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no configurations: %v", err)
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := comin.FromYAML(file, a.Files[0].Data)
		if err != nil {
			t.Fatal(err)
		}
		module := "imports = [ (" + p.Nix() + ") ];"
		h, err := eval(t, module)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		failed := strings.Join(h.Failed, "\n")
		if !strings.Contains(failed, "allowedSigners is empty: no release could be accepted") {
			t.Errorf("%s: nobody is told of allowedSigners: %q", file, h.Failed)
		}
		strange := strings.HasPrefix(filepath.Base(file), "old") // its host's name is none
		if strange != strings.Contains(failed, "cannot be a host's name") || strange != (len(h.Failed) == 2) {
			t.Errorf("%s: assertions: %q", file, h.Failed)
		}
		h, err = eval(t, strings.Replace(module, "allowedSigners = [ ]", `allowedSigners = [ "`+key+`" ]`, 1))
		if err != nil || len(h.Failed) > 0 && !strange {
			t.Errorf("%s: %v, %q", file, err, h.Failed)
			continue
		}
		var byModule, beside map[string]any
		if err := toml.Unmarshal([]byte(h.Etc["garrison/agent.toml"]), &byModule); err != nil {
			t.Error(err)
		}
		if err := toml.Unmarshal([]byte(p.TOML()), &beside); err != nil {
			t.Error(err)
		}
		if !reflect.DeepEqual(byModule, beside) {
			t.Errorf("%s: the module makes %v, beside it stands %v", file, byModule, beside)
		}
	}
}
