package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// mostMissing is how many deployments, and acts, a hub is told of that missed them, or lost them. What happened before is in the host's own history.
const mostMissing = 200

// maxHubAnswer bounds what the hub says to a report, in bytes.
const maxHubAnswer = 64 << 10

// tellHub posts a document and reads the answer into v, where v is not nil and there is one.
func (a *Agent) tellHub(ctx context.Context, client *http.Client, path string, body []byte, v any) error {
	resp, err := a.ask(ctx, client, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxHubAnswer)) // to its end: so that the connection is used again
	if err != nil {
		return fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the hub stopped answering").WithCause(err)
	}
	if v != nil && len(answer) > 0 {
		_ = json.Unmarshal(answer, v) // what is no answer of a hub's tells nothing
	}
	return nil
}

// tellMissing tells the hub of deployments and acts that it does not know yet, oldest first.
// The history is the only queue: whatever was not received is found missing when the hub answers next, be that after weeks. The hub knows each by when it
// happened, so that one which is told again, because an answer was lost, is not another.
func (a *Agent) tellMissing(ctx context.Context, client *http.Client, r fleet.Received) error {
	if last := a.Status().Last; last != nil && last.Host == a.Config.Host && (r.Deployment == nil || !r.Deployment.Equal(last.Key())) {
		known := func(d fleet.Deployment) bool { return r.Deployment != nil && r.Deployment.Equal(d.Key()) }
		err := tellPast(a, &a.told.deployment, a.historyFile(), known, r.Deployment != nil, last.EndedAt, func(d fleet.Deployment) (time.Time, error) {
			if d.Host != a.Config.Host { // from when this host had another name, for which its token does not speak
				return d.EndedAt, nil
			}
			a.hubDiff = fleet.HostDiff{} // the hub may have lost it, too
			return d.EndedAt, a.tellDeployment(ctx, client, d)
		})
		if err != nil {
			return err
		}
	}
	if last := a.lastAct.Load(); last != nil && last.Host == a.Config.Host && (r.Act == nil || !r.Act.Equal(last.At)) {
		known := func(act fleet.Act) bool { return r.Act != nil && r.Act.Equal(act.At) }
		return tellPast(a, &a.told.act, a.actsFile(), known, r.Act != nil, last.At, func(act fleet.Act) (time.Time, error) {
			body, err := json.Marshal(act)
			if err != nil || act.Host != a.Config.Host {
				return act.At, err
			}
			return act.At, a.unlessInvalid(a.tellHub(ctx, client, "/api/v1/acts", body, nil))
		})
	}
	return nil
}

// told is when what the hub was told last by this process happened; of reportAll alone.
type told struct {
	deployment, act time.Time
	stranger        bool // somebody else speaks for this host, which was logged
}

// tellPast tells what a history has after what is known, oldest first. A hub that knows something of which nothing is here, although it was told of our last, was told so
// by somebody else: telling all again would not end.
func tellPast[T any](a *Agent, told *time.Time, file string, known func(T) bool, knowsSome bool, last time.Time, tell func(T) (time.Time, error)) error {
	past, err := durable.ReadJournal[T](file, mostMissing)
	if err != nil && !errors.Is(err, durable.ErrDamaged) {
		return stateError(err)
	}
	at := slices.IndexFunc(past, known)
	if at < 0 && knowsSome && told.Equal(last) {
		if !a.told.stranger {
			a.told.stranger = true
			a.Log.Warn("somebody else reports to the hub as this host", "stage", fleet.Reporting, "hint", "has another machine the same host in its configuration, or its token?")
		}
		return nil
	}
	for _, v := range past[at+1:] {
		when, err := tell(v)
		if err != nil {
			return err
		}
		*told = when
	}
	return nil
}

func (a *Agent) tellDeployment(ctx context.Context, client *http.Client, d fleet.Deployment) error {
	log, err := tail(a.logFile(d.Key()), fleet.MaxReportedLog*3/4) // JSON makes it longer
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.Log.Warn("a kept log cannot be read", "release", d.Release.Number, "err", err)
	}
	body, err := json.Marshal(fleet.DeploymentReport{Schema: fleet.StatusSchema, Deployment: d, Log: reportable(log)})
	if err != nil {
		return err
	}
	return a.unlessInvalid(a.tellHub(ctx, client, "/api/v1/deployments", body, nil))
}

// tellDiff tells what waits to be changed, or was changed last, when that is another than the hub was told. It asks no cache:
// what is under way is soon known, and what waits is in the store.
func (a *Agent) tellDiff(ctx context.Context, client *http.Client) error {
	s := a.Status()
	d := a.question()
	if s.Phase == fleet.PhaseStaging || s.Phase == fleet.PhaseActivating || d.Release == nil || sameQuestion(d, a.hubDiff) {
		return nil
	}
	d = a.compare(ctx, d, false)
	if len(d.Diff) > fleet.MaxReportedDiff {
		d.Diff, d.Unknown = nil, "it is too long to be reported; ask the host itself"
	}
	d.Unknown = proc.Redact(d.Unknown)
	body, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if err = a.unlessInvalid(a.tellHub(ctx, client, "/api/v1/diffs", body, nil)); err == nil {
		a.hubDiff = d
	}
	return err
}

// unlessInvalid passes over what the hub will never take: told again, it would keep back all else.
func (a *Agent) unlessInvalid(err error) error {
	if fleet.CodeOf(err) == fleet.CodeInvalid {
		a.Log.Warn("passing over a report", "stage", fleet.Reporting, "err", err)
		return nil
	}
	return err
}
