package agent

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// What the service manager is told (sd_notify(3)): that the agent is ready, what it is about, and that its loop turns.

// manage tells the service manager something, where there is one that listens.
func (a *Agent) manage(state string) {
	if a.Notify != nil {
		a.Notify(state)
	}
}

// seen has everybody told who looks at the status: watchers, and the service manager's line.
func (a *Agent) seen() {
	a.watching.tell()
	a.lineMu.Lock()
	defer a.lineMu.Unlock()
	if line := a.Status().Summary(); line != a.line {
		a.line = line
		a.manage("STATUS=" + line)
	}
}

// heartbeat ticks often enough for the manager's watchdog; never, where there is none. The loop answers each tick
// itself: what takes long runs beside the loop, so a loop that does not answer is stuck, and the manager starts another agent.
func (a *Agent) heartbeat() (beat <-chan time.Time, stop func()) {
	if a.Watchdog <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(a.Watchdog / 2)
	return t.C, t.Stop
}

func (a *Agent) alive() { a.manage(daemon.SdNotifyWatchdog) }

// pauseAlive is pause for the loop: what it waits for may last longer than the watchdog's patience.
func (a *Agent) pauseAlive(ctx context.Context, d time.Duration) time.Duration {
	if a.Watchdog > 0 && d > a.Watchdog/2 {
		d = a.Watchdog / 2
	}
	a.alive()
	return pause(ctx, d)
}
