package nix

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Native is this machine's system, as Nix calls it, such as x86_64-linux.
func Native() string {
	cpu := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i686"}[runtime.GOARCH]
	if cpu == "" {
		cpu = runtime.GOARCH
	}
	return cpu + "-" + runtime.GOOS
}

// Systems are the kinds of machines that this Nix can build for: its own first, then
// those it emulates and those of its remote builders (nix.conf: system, extra-platforms, builders).
func (n *Nix) Systems(ctx context.Context) ([]string, error) {
	args := []string{"show-config", "--json"}
	out, err := n.run(ctx, "nix", args...)
	if err != nil { // newer ones call it so
		out, err = n.run(ctx, "nix", "config", "show", "--json")
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeMissingTool, "nix does not tell its configuration").WithCause(err)
	}
	var c struct {
		System   struct{ Value string }
		Extra    struct{ Value []string } `json:"extra-platforms"`
		Builders struct{ Value string }
	}
	if err := json.Unmarshal(out, &c); err != nil || c.System.Value == "" {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeMissingTool, "nix does not tell its system").WithCause(err)
	}
	systems := append([]string{c.System.Value}, c.Extra.Value...)
	for _, s := range builderSystems(c.Builders.Value, 0) {
		if !slices.Contains(systems, s) {
			systems = append(systems, s)
		}
	}
	return systems, nil
}

// maxMachines bounds a file of remote builders, in bytes.
const maxMachines = 1 << 20

// builderSystems reads the builders setting: machines separated by newlines or ";", "@file" for a file of them,
// the second word of each its systems. A machine that names none is of unknown systems and left out.
func builderSystems(setting string, depth int) []string {
	var systems []string
	lines := bufio.NewScanner(strings.NewReader(strings.ReplaceAll(setting, ";", "\n")))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line = strings.TrimSpace(line)
		if file, ok := strings.CutPrefix(line, "@"); ok {
			if f, err := os.Open(file); err == nil && depth < 3 {
				data, _ := io.ReadAll(io.LimitReader(f, maxMachines)) // what can be read of it
				f.Close()
				systems = append(systems, builderSystems(string(data), depth+1)...)
			}
			continue
		}
		if words := strings.Fields(line); len(words) > 1 && words[1] != "-" {
			systems = append(systems, strings.Split(words[1], ",")...)
		}
	}
	return systems
}
