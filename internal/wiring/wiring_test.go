package wiring_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/garrison-nix/garrison/examples"
	"github.com/garrison-nix/garrison/internal/wiring"
)

const url, module = "github:garrison-nix/garrison", "./garrison.nix"

// Each file of testdata has a flake.nix, what becomes of it, and what is missing.
func TestFlake(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 8 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			texts := map[string]string{}
			for _, f := range txtar.Parse(data).Files {
				texts[f.Name] = string(f.Data)
			}
			got := wiring.Flake(texts["before"], url, module)
			missing := ""
			for _, m := range got.Missing {
				missing += m.What + ": " + m.Lines + "\n"
			}
			if got.Text != texts["after"] || missing != texts["missing"] {
				t.Errorf("got\n%s\nmissing\n%s", got.Text, missing)
			}
			if again := wiring.Flake(got.Text, url, module); again.Text != got.Text {
				t.Errorf("a second time it becomes\n%s", again.Text)
			}
		})
	}
}

func FuzzFlake(f *testing.F) {
	fleet, err := examples.Fleet.ReadFile("fleet/flake.nix")
	if err != nil {
		f.Fatal(err)
	}
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(txtar.Parse(data).Files[0].Data))
	}
	f.Add(string(fleet))
	f.Add("{ outputs = { a }: ''${\"${x}\"}''; }")
	f.Fuzz(func(t *testing.T, text string) {
		got := wiring.Flake(text, url, module)
		rest := got.Text // all that was there is there still, in its order
		for i := range len(text) {
			_, after, there := strings.Cut(rest, text[i:i+1])
			if !there {
				t.Fatalf("%q lost what is at %d: %q", text, i, got.Text)
			}
			rest = after
		}
	})
}
