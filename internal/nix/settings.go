package nix

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// Settings are what nix is set to on this machine, as `nix config show` says, by name. A list is its values with blanks between them.
func (n *Nix) Settings(ctx context.Context) (map[string]string, error) {
	ask := func(command ...string) ([]byte, error) {
		return proc.Run(ctx, proc.Cmd{Program: "nix", Args: append([]string{"--extra-experimental-features", "nix-command"}, command...), Env: append([]string{"NO_COLOR=1", "LC_ALL=C"}, n.Env...)})
	}
	out, err := ask("show-config", "--json") // until 2.19
	if err != nil && ctx.Err() == nil {
		out, err = ask("config", "show", "--json")
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeConfig, "nix does not say what it is set to").WithHint("nix config show says why").WithCause(err)
	}
	var said map[string]struct {
		Value any `json:"value"`
	}
	if err := json.Unmarshal(out, &said); err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeInvalid, "what nix says of its settings cannot be read").WithCause(err)
	}
	settings := map[string]string{}
	for name, s := range said {
		settings[name] = setting(s.Value)
	}
	return settings, nil
}

func setting(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []any:
		words := make([]string, len(v))
		for i, w := range v {
			words[i] = fmt.Sprint(w)
		}
		return strings.Join(words, " ")
	}
	return fmt.Sprint(v)
}

// Parses says whether text is an expression of the Nix language; else the error is what nix says.
func (n *Nix) Parses(ctx context.Context, text string) error {
	_, err := proc.Run(ctx, proc.Cmd{Program: "nix-instantiate", Args: []string{"--parse", "-"}, Stdin: strings.NewReader(text), Env: []string{"NO_COLOR=1", "LC_ALL=C"}})
	return err
}
