//go:build race

package rollout_test

// Nothing here is concurrent: what takes ten times as long with the race detector is done for a part of it.
const (
	simulations = 80
	stride      = 11
)
