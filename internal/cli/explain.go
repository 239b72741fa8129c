package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// explanation is why a host is where it is: sentences, in the order in which they matter, each with what to type about it.
type explanation struct {
	Schema int         `json:"schema"`
	Host   string      `json:"host"`
	Why    []reasonWhy `json:"why"`
}

type reasonWhy struct {
	About    string   `json:"about"` // a phase, or a flag of the status
	Said     string   `json:"said"`
	Commands []string `json:"commands"` // to type, if this is to change
}

func (a *app) explain() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say why this host is where it is, since when, and what would change that",
		Args:  exactly(),
	}
	format := output(cmd)
	cmd.Flags().StringVar(&socket, "socket", defaultSocket, "the agent's socket")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var s fleet.Status
		if err := (&from{socket: socket}).ask(cmd.Context(), askTime, "status", &s); err != nil {
			return err
		}
		e := explain(s)
		if *format == "json" {
			return a.json(e)
		}
		a.tellExplanation(e)
		return nil
	}
	return cmd
}

func (a *app) tellExplanation(e explanation) {
	for _, w := range e.Why {
		fmt.Fprintln(a.Out, w.Said)
		for _, c := range w.Commands {
			fmt.Fprintln(a.Out, "  →", c)
		}
	}
}

// explain makes sentences of a status.
func explain(s fleet.Status) explanation {
	e := explanation{Schema: fleet.StatusSchema, Host: s.Host, Why: []reasonWhy{}}
	add := func(about, said string, commands ...string) {
		if commands == nil {
			commands = []string{}
		}
		e.Why = append(e.Why, reasonWhy{about, said, commands})
	}
	addFailure := func(about, begin string, f *fleet.Failure) {
		add(about, begin+failed(f)+".", hints(f)...)
	}
	said, commands := explainPhase(s)
	add(string(s.Phase), said, commands...)
	if p := s.Suspended; p != nil && s.Phase != fleet.PhaseWaiting {
		add("suspended", fmt.Sprintf("Since %s, %s keeps activations from starting until %s: %s.", fleet.Moment(p.Since), p.By, fleet.Moment(p.Until), p.Reason), "garrison resume")
	}
	if d := s.Drifted; d != nil && s.Phase != fleet.PhaseOverruled || s.Drift && d == nil {
		add("drift", "It runs "+s.Systems.Current+", to which somebody switched it by hand"+sinceDrift(d)+".", "garrison history")
	}
	if b := s.Reboot; b != nil && b.Needed && s.Phase != fleet.PhaseReboot {
		add("reboot", "Its kernel, initrd or kernel modules are not those that were booted: "+rebootMeaning(*b)+".", "systemctl reboot")
	}
	if b := s.Reboot; b != nil && b.Failure != nil {
		addFailure("rebooted", "The agent rebooted it, or tried to: ", b.Failure)
	}
	if f := s.Failure; f != nil && s.Phase != fleet.PhaseHeld && s.Phase != fleet.PhaseRetrying {
		addFailure("failure", "The last failure: ", f)
	}
	if r := s.Refused; r != nil {
		addFailure("refused", fmt.Sprintf("Since %s, the release branch points at something that is not an acceptable release, and nothing of it is used: ", fleet.Moment(r.Since)), &r.Failure)
	}
	for _, r := range s.Remotes {
		if r.Ignored != nil {
			addFailure("test", "What the host's test branch points at is not tried: ", &r.Ignored.Failure)
		}
	}
	if f := s.Remote.Failure; f != nil {
		addFailure("remote", fmt.Sprintf("Since %s, it cannot see new releases: ", fleet.Moment(s.Remote.Since)), f)
	}
	if f := s.Hub.Failure; f != nil {
		addFailure("hub", fmt.Sprintf("Since %s, the hub is not reached: releases are polled for, and the hub's picture of this host is old: ", fleet.Moment(s.Hub.Since)), f)
	}
	return e
}

func sinceDrift(d *fleet.Drift) string {
	if d == nil {
		return ""
	}
	return " " + fleet.Moment(d.Since)
}

// explainPhase says what the phase means here, and what would change it.
func explainPhase(s fleet.Status) (string, []string) {
	since := "Since " + fleet.Moment(s.Since) + ", this host "
	release, newest, running := "a release", "the newest release", "nothing that was confirmed"
	if s.Target != nil {
		release = s.Target.Release.Name()
	}
	if s.Newest != nil {
		newest = s.Newest.Name()
	}
	if s.Active != nil {
		running = s.Active.Release.Name()
	}
	switch s.Phase {
	case fleet.PhaseNew:
		return since + "has not seen a release. The first one that is published and verified is deployed.", []string{"garrison release (in CI, or where the repository is)"}
	case fleet.PhaseIdle:
		return since + "runs what " + newest + " says. A newer release that changes it changes this.", nil
	case fleet.PhaseManual:
		if s.Failure != nil {
			return since + "is in no release: " + newest + " does not know it, and it is left as it is.", nil
		}
		return since + "is left to be deployed by hand, as garrison.toml says (hosts.manual).", []string{"garrison deploy STOREPATH"}
	case fleet.PhaseStaging:
		return since + "fetches the system of " + release + ". It is activated when it is there whole.", []string{"garrison suspend --reason WHY --for 1h (to keep it from that)"}
	case fleet.PhaseActivating:
		return since + "is switched to " + release + ". It is kept if it passes its checks, else " + running + " comes back.", []string{"garrison status"}
	case fleet.PhaseReboot:
		said := since + "waits for a reboot: " + running + " is what it boots next, and cannot be switched to while it runs."
		if s.Reboot != nil && s.Reboot.At != nil {
			said += " The agent reboots it at " + fleet.Moment(*s.Reboot.At) + "."
		}
		return said, []string{"systemctl reboot"}
	case fleet.PhaseHeld:
		return since + "holds " + release + ", which failed here for a reason of its own: " + failed(s.Failure) + ". What was confirmed before is " + running +
			". It is not tried again by itself; a newer release with another system for this host ends that.", append(hints(s.Failure), "garrison retry")
	case fleet.PhaseRetrying:
		said := since + "tries " + release + " again and again, for the network, the cache or the host itself is at fault: " + failed(s.Failure) + "."
		if s.RetryAt != nil {
			said += " The next try is at " + fleet.Moment(*s.RetryAt) + "."
		}
		return said, append(hints(s.Failure), "garrison retry")
	case fleet.PhaseTesting:
		test := "a test release"
		if s.Test != nil {
			test = s.Test.Name()
		}
		return since + "tries " + test + ". No boot takes it: " + running + " is what comes back with one, when the test branch is deleted, or with a newer release.",
			[]string{"garrison deploy " + newest + " (to end it here)"}
	case fleet.PhaseOverruled:
		return explainOverruled(s, since, newest)
	case fleet.PhaseWaiting:
		return explainWaiting(s, since, release)
	}
	return since + "is in a phase that this garrison does not know: " + string(s.Phase) + ".", nil
}

// hints are what a failure says helps against it.
func hints(f *fleet.Failure) []string {
	if f == nil || f.Hint == "" {
		return nil
	}
	return []string{f.Hint}
}

func failed(f *fleet.Failure) string {
	if f == nil {
		return "nobody knows why"
	}
	return strings.TrimRight(firstLine(f.Message), ".")
}

func explainOverruled(s fleet.Status, since, newest string) (string, []string) {
	back := []string{}
	if s.Newest != nil {
		back = append(back, "garrison deploy "+newest)
	}
	until := " It is left alone until a release newer than " + newest + " brings this host another system."
	switch {
	case s.Drifted != nil:
		return since + "runs " + s.Drifted.Current + ", to which somebody switched it by hand." + until, back
	case s.Choice != nil:
		return since + fmt.Sprintf("runs %s, which %s chose by garrison %s%s.", s.Choice.Release.Name(), s.Choice.By, s.Choice.Act, reason(s.Choice.Reason)) + until, back
	}
	return since + "runs what somebody chose." + until, back
}

func explainWaiting(s fleet.Status, since, release string) (string, []string) {
	said := since + "has " + release + " in its store, and waits " + s.WaitsFor() + "."
	if s.Wait == nil {
		return said, nil
	}
	switch s.Wait.For {
	case fleet.ForResume:
		if p := s.Suspended; p != nil {
			said += fmt.Sprintf(" %s suspended activations %s: %s.", p.By, fleet.Moment(p.Since), p.Reason)
		}
		return said, []string{"garrison resume"}
	case fleet.ForConfirm:
		return said, []string{"garrison confirm " + release, "garrison confirm " + release + " --now (whatever the window)"}
	case fleet.ForWindow:
		if s.Target != nil && s.Target.Release.Number == 0 && s.Target.Release.Test == "" {
			return said, []string{"garrison deploy " + s.Target.OutPath + " --now"}
		}
		return said, []string{"garrison confirm " + release + " --now"}
	}
	return said + " Then it is brought back to " + release + ", as onDrift says.", []string{"garrison suspend --reason WHY --for 1h (to keep it from that)"}
}

// rebootMeaning says what becomes of a reboot that is needed.
func rebootMeaning(b fleet.Reboot) string {
	switch {
	case b.At != nil:
		return "needed; the agent reboots this host at " + fleet.Moment(*b.At)
	case b.Tried:
		return "needed; the agent rebooted once for it already, and leaves it to a person now"
	}
	return "needed; reboot when it suits"
}
