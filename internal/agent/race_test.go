//go:build race

package agent_test

const raceFlag = "-race"
