package sandbox

import "time"

// initConfig is the first line that an init reads from its owner: what the host is.
type initConfig struct {
	Name     string    `json:"name"`
	Hostname string    `json:"hostname"`
	Root     string    `json:"root"` // folder that becomes /
	Binds    []Bind    `json:"binds"`
	Env      []string  `json:"env"`
	Services []Service `json:"services"`
	Base     string    `json:"base,omitempty"` // lower layer of a host with systemd
}

// request is each further line, answered by one reply. The end of the lines is the
// owner's end, and then the init's.
type request struct {
	Op      string `json:"op"` // boot, start, stop, restart, signal
	Service string `json:"service,omitempty"`
	Signal  int    `json:"signal,omitempty"`
}

type reply struct {
	Error string `json:"error,omitempty"`
	Pid   int    `json:"pid,omitempty"`
}

// How long a service that was told to stop may take, and how long one that ended
// stays down before it is started again.
const (
	stopGrace    = 5 * time.Second
	restartDelay = 100 * time.Millisecond
)
