// Package modules is the folder of what makes Garrison a part of NixOS: the package (package.nix) and the modules
// (modules/). No program of ours uses them; the tests beside this file evaluate them without nixpkgs, on the
// oldest and the newest Nix, with a library of options of their own (tests/lib.nix).
package modules
