package nix

import (
	"context"
)

// Options evaluates a Nix file that sets services.NAME, as a NixOS module or as the bare options, without the module system
// and without nixpkgs, and returns the options as JSON. What cannot be evaluated so is {"unknown": "why"} there. Errors have CodeEvaluate.
func (n *Nix) Options(ctx context.Context, file, name string) ([]byte, error) {
	out, err := n.run(ctx, "nix", "eval", "--impure", "--json", "--expr", `let
		inherit (builtins) functionArgs isAttrs isFunction isList isPath map mapAttrs tryEval;
		file = import `+quote(file)+`;
		module = if isFunction file then file (mapAttrs (name: _: throw "it needs ${name}, which is not in the file") (functionArgs file)) else file;
		options = module.config.services.`+name+` or module.services.`+name+` or module;
		unknown = why: { unknown = why; };
		plain = v:
			let got = tryEval v; in
			if !got.success then unknown "it needs something that is not in the file"
			else if isAttrs v && v ? outPath then unknown "it is a package"
			else if isAttrs v then mapAttrs (_: plain) v
			else if isList v then map plain v
			else if isFunction v then unknown "it is a function"
			else if isPath v then toString v
			else v;
	in plain options`)
	if err != nil {
		return nil, evalError(ctx, err, "%s does not evaluate by itself", file)
	}
	return out, nil
}
