//go:build !race

package rollout_test

// simulations is how many runs there are, stride that each combination is looked at.
const (
	simulations = 1000
	stride      = 1
)
