// Package modulestest evaluates the NixOS modules for tests, without nixpkgs, and writes what came of it as the files
// that a host would have. Start at Eval.
package modulestest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Host is what the modules make of a host.
type Host struct {
	Etc map[string]string `json:"etc"` // texts of files in /etc; "-> ", the path and the builder's arguments of what is linked
	// Activation are the texts of system.activationScripts.
	Activation map[string]string `json:"activation"`
	Units      map[string]Unit   `json:"units"`
	Paths      map[string]Path   `json:"paths"`
	Timers     map[string]Timer  `json:"timers"`
	Nix        map[string]any    `json:"nixSettings"` // nix.settings
	Packages   []string          `json:"packages"`
	Groups     []string          `json:"groups"`
	HostKeys   []string          `json:"hostKeys"`
	Checks     map[string]any    `json:"checks"`
	Failed     []string          `json:"failed"` // messages of assertions that do not hold
}

// Unit is a service as a module defines it in systemd.services.
type Unit struct {
	Description      string            `json:"description"`
	WantedBy         []string          `json:"wantedBy"`
	After            []string          `json:"after"`
	Wants            []string          `json:"wants"`
	Path             []string          `json:"path"`
	Environment      map[string]string `json:"environment"`
	RestartIfChanged bool              `json:"restartIfChanged"`
	StopIfChanged    bool              `json:"stopIfChanged"`
	RestartTriggers  []string          `json:"restartTriggers"`
	UnitConfig       map[string]any    `json:"unitConfig"`
	ServiceConfig    map[string]any    `json:"serviceConfig"`
}

// Path is a path unit as a module defines it in systemd.paths.
type Path struct {
	WantedBy   []string       `json:"wantedBy"`
	PathConfig map[string]any `json:"pathConfig"`
}

// Timer is a timer unit as a module defines it in systemd.timers.
type Timer struct {
	WantedBy    []string       `json:"wantedBy"`
	TimerConfig map[string]any `json:"timerConfig"`
}

// Text is the unit as NixOS writes it.
func (t Timer) Text() string {
	return section("Timer", t.TimerConfig) + "\n" + section("Install", map[string]any{"WantedBy": strings.Join(t.WantedBy, " ")})
}

// Text is the unit as NixOS writes it.
func (p Path) Text() string {
	return section("Path", p.PathConfig) + "\n" + section("Install", map[string]any{"WantedBy": strings.Join(p.WantedBy, " ")})
}

// Dir is the folder nix of the repository.
func Dir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(file))
}

// Eval evaluates a module, a Nix expression, with all modules, by the Nix on PATH. env is added to its environment.
func Eval(ctx context.Context, env []string, module string) (Host, error) {
	var h Host
	expr := fmt.Sprintf("import %[1]s/tests/eval.nix { modules = [ %[1]s/modules/agent.nix %[1]s/modules/hub.nix %[1]s/modules/cache.nix %[1]s/modules/push.nix %[1]s/modules/drill.nix (%s) ]; }", Dir(), module)
	cmd := exec.CommandContext(ctx, "nix-instantiate", "--eval", "--strict", "--json", "--expr", expr)
	cmd.Env = append(cmd.Environ(), env...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return h, fmt.Errorf("nix-instantiate: %w: %s", err, said.String())
	}
	return h, json.Unmarshal(out, &h)
}

// Text is the unit as NixOS writes it, in the parts that the modules use.
func (u Unit) Text() string {
	unit := maps.Clone(u.UnitConfig)
	if unit == nil {
		unit = map[string]any{}
	}
	for key, value := range map[string]any{"Description": u.Description, "After": strings.Join(u.After, " "), "Wants": strings.Join(u.Wants, " "),
		"X-Restart-Triggers": strings.Join(u.RestartTriggers, " ")} {
		if value != "" {
			unit[key] = value
		}
	}
	service := maps.Clone(u.ServiceConfig)
	if !u.RestartIfChanged {
		service["X-RestartIfChanged"] = false
	}
	if !u.StopIfChanged {
		service["X-StopIfChanged"] = false
	}
	environment := maps.Clone(u.Environment)
	var bin []string
	for _, p := range u.Path {
		if p += "/bin"; !slices.Contains(bin, p) {
			bin = append(bin, p)
		}
	}
	environment["PATH"] = strings.Join(bin, ":")
	var lines []any
	for _, name := range slices.Sorted(maps.Keys(environment)) {
		lines = append(lines, fmt.Sprintf("%q", name+"="+environment[name]))
	}
	service["Environment"] = lines
	text := section("Unit", unit) + "\n" + section("Service", service)
	if len(u.WantedBy) > 0 {
		text += "\n" + section("Install", map[string]any{"WantedBy": strings.Join(u.WantedBy, " ")})
	}
	return text
}

// section writes keys in order; a list is a line for each of its elements.
func section(name string, keys map[string]any) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[%s]\n", name)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		values, ok := keys[key].([]any)
		if !ok {
			values = []any{keys[key]}
		}
		for _, v := range values {
			fmt.Fprintf(&b, "%s=%v\n", key, v)
		}
	}
	return b.String()
}
