package nix

import (
	"context"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// Settings are what nix is set to on this machine, as `nix config show` says, by name. A list is its values with blanks between them.
func (n *Nix) Settings(ctx context.Context) (map[string]string, error) {
	ask := func(command ...string) ([]byte, error) {
		return proc.Run(ctx, proc.Cmd{Program: "nix", Args: append([]string{"--extra-experimental-features", "nix-command"}, command...), Env: append([]string{"NO_COLOR=1", "LC_ALL=C"}, n.Env...)})
	}
	out, err := ask("config", "show") // not as JSON, in which older ones have numbers for the names of features
	if err != nil && ctx.Err() == nil {
		out, err = ask("show-config") // up to 2.19
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeConfig, "nix does not say what it is set to").WithHint("nix config show says why").WithCause(err)
	}
	settings := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ="); ok {
			settings[name] = strings.TrimSpace(value)
		}
	}
	return settings, nil
}

// Parses says whether text is an expression of the Nix language; else the error is what nix says.
func (n *Nix) Parses(ctx context.Context, text string) error {
	_, err := proc.Run(ctx, proc.Cmd{Program: "nix-instantiate", Args: []string{"--parse", "-"}, Stdin: strings.NewReader(text), Env: []string{"NO_COLOR=1", "LC_ALL=C"}})
	return err
}
