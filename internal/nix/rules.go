package nix

import "context"

// RuleFile is what a file like agenix's secrets.nix evaluates to. Nothing of its form is taken for granted here.
type RuleFile struct {
	Type  string    `json:"type"`  // as builtins.typeOf says
	Rules []RuleSet `json:"rules"` // of a set, by name
}

// RuleSet is one attribute of such a file.
type RuleSet struct {
	Name  string      `json:"name"`
	Type  string      `json:"type"`
	Attrs []string    `json:"attrs"` // of a set
	Keys  []RuleValue `json:"keys"`  // of its list publicKeys; nil if that is no list
	Armor RuleValue   `json:"armor"`
}

// RuleValue is a value, of a string or a boolean what it says.
type RuleValue struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// RuleFiles evaluates files of a flake's source, by their paths in the repository: all of them in one process, pure, without any input of the flake.
func (n *Nix) RuleFiles(ctx context.Context, f Flake, paths []string) ([]RuleFile, error) {
	list := ""
	for _, p := range paths {
		list += " " + quote("/"+p)
	}
	var files []RuleFile
	err := n.eval(ctx, &files, `let
		root = (builtins.getFlake `+quote(f.URL())+`).sourceInfo.outPath;
		value = v: {
			type = builtins.typeOf v;
			text = if builtins.isString v then builtins.unsafeDiscardStringContext v
				else if builtins.isBool v then (if v then "true" else "false") else "";
		};
		rule = name: r: { inherit name; type = builtins.typeOf r; } // (if !builtins.isAttrs r then { } else {
			attrs = builtins.attrNames r;
			keys = let k = r.publicKeys or null; in if builtins.isList k then map value k else null;
			armor = value (r.armor or false);
		});
		file = v: {
			type = builtins.typeOf v;
			rules = if builtins.isAttrs v then builtins.attrValues (builtins.mapAttrs rule v) else [ ];
		};
	in map (path: file (import (root + path))) [`+list+` ]`)
	if err != nil {
		return nil, evalError(ctx, err, "the rules for secrets do not evaluate")
	}
	return files, nil
}
