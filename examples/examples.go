// Package examples holds the example fleet, so that the demo can be run from the binary alone.
package examples

import "embed"

// Fleet is the folder fleet.
//
//go:embed fleet
var Fleet embed.FS
