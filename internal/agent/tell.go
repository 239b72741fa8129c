package agent

import (
	"context"
	"time"

	"github.com/garrison-nix/garrison/internal/activate"
	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// tell logs what changed in the record.
func (a *Agent) tell(was, now deploy.Record) {
	switch {
	case now.Refused != nil && now.Refused != was.Refused:
		f := now.Refused.Failure
		a.counts.failed(f.Code)
		a.Log.Error("release refused", "stage", f.Stage, "tip", now.Refused.Tip, "code", f.Code, "err", firstLine(f.Message), "hint", f.Hint)
	case now.Refused == nil && was.Refused != nil:
		a.Log.Info("the release branch is in order again", "stage", fleet.Verify)
	}
	a.tellDrift(was.Drift, now.Drift)
	a.tellTest(was.Test, now.Test)
	switch {
	case now.Suspended != nil && was.Suspended != now.Suspended:
		a.Log.Warn("activations are suspended", "by", now.Suspended.By, "reason", now.Suspended.Reason, "until", now.Suspended.Until.Format(time.RFC3339))
	case now.Suspended == nil && was.Suspended != nil:
		a.Log.Info("activations are no longer suspended")
	}
	if now.Phase == was.Phase {
		return
	}
	log := a.Log.With("release", releaseNumber(now))
	switch now.Phase {
	case fleet.PhaseStaging:
		log.Info("staging", "storePath", now.Target.OutPath, "attempt", now.Attempt+1)
	case fleet.PhaseActivating:
		log.Info("activating", "storePath", now.Target.OutPath)
	case fleet.PhaseWaiting:
		until := ""
		if now.Wait.Until != nil {
			until = now.Wait.Until.Format(time.RFC3339)
		}
		log.Info("staged, and waiting", "stage", fleet.Gate, "for", now.Wait.For, "until", until)
	case fleet.PhaseOverruled:
		if now.Choice != nil {
			log.Info("this host runs what an operator chose", "by", now.Choice.By, "reason", now.Choice.Reason, "storePath", now.Active.OutPath)
		}
	case fleet.PhaseRetrying:
		log.Warn("trying again later", "attempt", now.Attempt, "at", now.RetryAt.Format(time.RFC3339), "stage", now.Failure.Stage)
	case fleet.PhaseHeld:
		log.Error("holding: this release is bad for this host", "stage", now.Failure.Stage, "code", now.Failure.Code)
	case fleet.PhaseReboot:
		log.Warn("waiting for a reboot into the new system", "storePath", now.Active.OutPath)
	case fleet.PhaseManual:
		log.Info("this host is not deployed by this release")
	case fleet.PhaseIdle:
		if was.Phase != fleet.PhaseActivating { // else its end was told
			log.Info("this host runs what the release says")
		}
	}
}

// tellDrift logs that somebody switched the host, and keeps it in the history.
func (a *Agent) tellDrift(was, now *fleet.Drift) {
	switch {
	case now == nil && was != nil:
		a.Log.Info("the host runs what was confirmed again")
	case now == nil, was != nil && was.Current == now.Current && was.Profile == now.Profile:
	default:
		a.Log.Warn("DRIFT: somebody switched this host by hand", "storePath", now.Current, "profile", now.Profile)
		if err := a.rememberAct(fleet.Act{Act: fleet.ActSwitched, At: now.Since, OutPath: now.Current}); err != nil {
			a.Log.Error("the history cannot be written", "err", err)
		}
	}
}

// rebootHost reboots the host, which is on record already: it is not tried twice for one system.
func (a *Agent) rebootHost(ctx context.Context) {
	active := *a.record.Active
	a.Log.Warn("rebooting this host, as its configuration asks for", "release", active.Release.Number, "storePath", active.OutPath)
	err := a.rememberAct(fleet.Act{Act: fleet.ActReboot, Release: &active.Release, OutPath: active.OutPath})
	if err != nil {
		a.Log.Error("the history cannot be written", "err", err)
	}
	a.tasks.Go(func() {
		if err := activate.Reboot(ctx); err != nil {
			a.send(ctx, rebooted{err})
		}
	})
}

// permitted has the record say which boot the host's ring lets it end: this one when a remote that answers says so.
func (a *Agent) permitted(ctx context.Context) {
	if !a.policy.Permits {
		return
	}
	boot := ""
	for _, m := range a.remotes {
		if a.status.Remotes[m.at].Failure == nil && m.permitted == a.boot {
			boot = m.permitted
		}
	}
	if boot != a.record.Permit && (a.record.Active == nil || a.record.Rebooted != a.record.Active.OutPath) {
		a.apply(ctx, deploy.Permitted{Boot: boot})
	}
}

// afterReboot looks how a host is that this agent rebooted: when it starts, and from then on as long as something is wrong.
func (a *Agent) afterReboot(ctx context.Context) {
	r, f := a.record, a.rebootFailure
	if r.Active == nil || r.Rebooted != r.Active.OutPath {
		a.rebootFailure = nil
		return
	}
	if a.checkingBoot || f != nil && f.Code != fleet.CodeCheck {
		return
	}
	a.checkingBoot = true
	a.tasks.Go(func() {
		err := activate.AfterBoot(ctx, time.Duration(a.Config.CheckTime))
		a.send(ctx, rebooted{err})
	})
}

type rebooted struct{ err error }

// take has the status say what became of a reboot.
func (r rebooted) take(_ context.Context, a *Agent) {
	was := a.rebootFailure
	a.checkingBoot, a.rebootFailure = false, fleet.FailureOf(fleet.Check, r.err)
	switch {
	case r.err == nil:
		a.Log.Info("this host is well after its reboot")
	case was == nil || was.Message != a.rebootFailure.Message:
		a.Log.Error("this host is not well after its reboot", "err", r.err)
	}
	a.publish()
}
