// Command garrison is GitOps for NixOS fleets: see README.md.
package main

import (
	"os"

	"github.com/garrison-nix/garrison/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
