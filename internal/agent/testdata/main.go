// Command main is Garrison as the tests of internal/agent build it, in place of cmd/garrison: the activation helper stops at the gate
// /run/gate/line-N when it has said its Nth line, so that it can be killed after each of its effects.
package main

import (
	"io"
	"os"
	"strconv"
	"time"

	"github.com/garrison-nix/garrison/internal/cli"
)

func main() {
	stdio := cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	if len(os.Args) > 1 && os.Args[1] == "activate" {
		stdio.Err = &gated{to: os.Stderr}
	}
	os.Exit(cli.Main(os.Args[1:], stdio))
}

type gated struct {
	to    io.Writer
	lines int
}

func (g *gated) Write(p []byte) (int, error) {
	n, err := g.to.Write(p)
	g.lines++
	gate := "/run/gate/line-" + strconv.Itoa(g.lines)
	for reached := false; ; time.Sleep(5 * time.Millisecond) {
		if _, there := os.Stat(gate); there != nil {
			return n, err
		}
		if !reached {
			reached = os.WriteFile(gate+".reached", nil, 0o644) == nil
		}
	}
}
