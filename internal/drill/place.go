package drill

import (
	"context"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// place is a fleet that is drilled: one made for it, or somebody's.
type place interface {
	// where is what reports call it.
	where() string
	// hosts are those that follow releases, the one that is drilled first.
	hosts() []string
	// ready says whether the fleet is well enough to be drilled.
	ready(ctx context.Context) error
	// put pushes a commit with the marker to the source branch.
	put(ctx context.Context, m marker, subject string) (pushed, error)
	// ci is what CI says of a commit.
	ci(ctx context.Context, commit string) (verdict, error)
	// refs are the release branch and tags, a line each with their objects.
	refs(ctx context.Context) (string, error)
	// host is one of them, as far as it can be seen.
	host(name string) observed
	// mend puts back everything that was changed here, and waits until the fleet is well. Nothing to do is no error.
	mend(ctx context.Context) error
	// close ends what was started.
	close() error
}

// pushed is a commit on its way.
type pushed struct {
	commit string
	at     time.Time // just before git push
}

// verdict is what CI says of a commit, as far as it is known.
type verdict struct {
	state ciState
	run   *fleet.Run // where a hub tells of it
	why   string     // of a failure
	log   string     // of a run that ended; "" where nobody has it
}

// ciState is how far CI is with a commit.
type ciState string

const (
	ciUnheard  ciState = ""
	ciRunning  ciState = "running"
	ciFailed   ciState = "failed"
	ciReleased ciState = "released"
)

// observed is a host as it can be seen from outside: by Garrison's agent, or by commands that somebody declared for it.
type observed interface {
	// system is the store path of what runs.
	system(ctx context.Context) (string, error)
	// marker is what the host says at /etc/gitops-test.
	marker(ctx context.Context) (string, error)
	// log is the end of what was said in the host's last deployment, or attempt.
	log(ctx context.Context) (string, error)
	// status is what its agent says; nil where none of Garrison's runs.
	status(ctx context.Context) (*fleet.Status, error)
	// deployment is how the last one of a commit went; nil while there is none, or where no agent of Garrison's runs.
	deployment(ctx context.Context, commit string) (*fleet.Deployment, error)
}
