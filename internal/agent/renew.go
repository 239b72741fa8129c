package agent

import (
	"context"

	"github.com/garrison-nix/garrison/internal/activate"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// Replaced is why Run ended by itself: a deployment brought another agent, which is to be executed in place of this one.
type Replaced struct{ Program string }

func (r *Replaced) Error() string { return "this agent is replaced by " + r.Program }

// renew has another agent take over if a deployment changed the unit or the program of this one. A deployment leaves the
// agent alone, so as not to be cut off from it; what is on record tells the next agent all that this one knew.
func (a *Agent) renew(ctx context.Context) {
	after := a.afterDone
	a.tasks.Go(func() {
		if after != nil { // it would be ended along with this agent
			select {
			case <-after:
			case <-ctx.Done():
				return
			}
		}
		bySystemd, program := a.self.Replacement(ctx)
		switch {
		case bySystemd:
			a.Log.Info("the agent's unit changed: restarting")
			if err := a.self.Restart(ctx); err != nil {
				a.Log.Error("this agent goes on", "err", err)
			}
		case program != "":
			a.Log.Info("the agent's program changed: executing the new one", "program", program)
			a.send(ctx, replaced{program})
		}
	})
}

type replaced struct{ program string }

func (r replaced) take(_ context.Context, a *Agent) {
	a.replacement = &Replaced{r.program}
	a.stop()
}

// endpoints are what a new system must reach on the network. The hub is not among them: a host does without; nor is a remote that does not
// answer now: the activation would only wait for it, and in vain.
func (a *Agent) endpoints(systems fleet.Systems) []activate.Endpoint {
	if systems.Current == "" {
		return nil // there is nothing to go back to
	}
	var all []activate.Endpoint
	for _, m := range a.remotes {
		s := a.status.Remotes[m.at] // written by the loop alone
		if s.LastOK.IsZero() && s.Failure == nil || s.Failure != nil && s.Failure.Class == fleet.Transient {
			continue
		}
		if e, ok := activate.GitEndpoint(m.URL); ok {
			all = append(all, e)
		}
	}
	for _, c := range a.Config.Caches {
		if e, ok := activate.CacheEndpoint(c.URL); ok {
			all = append(all, e)
		}
	}
	return all
}
