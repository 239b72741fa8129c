package fleet

import (
	"fmt"
	"strings"
	"time"
)

// Explanation is why a host is where it is: sentences, in the order in which they matter, each with what to type about it.
type Explanation struct {
	Schema int      `json:"schema"`
	Host   string   `json:"host"`
	Why    []Reason `json:"why"`
}

// Reason is one of the sentences.
type Reason struct {
	About    string   `json:"about"` // a phase, or a flag of the status
	Said     string   `json:"said"`
	Commands []string `json:"commands"` // to type, if this is to change
}

// Explain makes sentences of a status.
func Explain(s Status) Explanation {
	e := Explanation{Schema: StatusSchema, Host: s.Host, Why: []Reason{}}
	add := func(about, said string, commands ...string) {
		if commands == nil {
			commands = []string{}
		}
		e.Why = append(e.Why, Reason{about, said, commands})
	}
	addFailure := func(about, begin string, f *Failure) {
		add(about, begin+failed(f)+".", hints(f)...)
	}
	if h := s.Seen; h != nil && h.Gone {
		add("gone", "The newest release does not name this host. If it is no more: have the hub forget it.", "garrison hub forget "+s.Host)
	}
	if s.Phase == PhaseUnheard {
		said := "This host is named by the newest release, and has never reported to the hub."
		if s.Seen != nil && s.Seen.Silent != nil {
			said = "Since " + Moment(*s.Seen.Silent) + ", releases name this host, and it has never reported to the hub."
		}
		add(string(PhaseUnheard), said, "systemctl status garrison-agent (on the host: is it installed, does it reach the hub, does it have a token for it?)", "garrison doctor (on the host)")
		return e
	}
	if h := s.Seen; h != nil && h.Silent != nil {
		add("silent", "Since "+Moment(*h.Silent)+", nothing was heard of this host: it is down, its agent is, or it cannot reach the hub. All that follows is what it said last.",
			"ping "+s.Host, "systemctl status garrison-agent (on the host)", "garrison explain (on the host)")
	}
	said, commands := explainPhase(s)
	add(string(s.Phase), said, commands...)
	if a := s.Ahead; a != nil {
		add("ring", explainAhead(s, *a))
	}
	if p := s.Suspended; p != nil && s.Phase != PhaseWaiting {
		add("suspended", fmt.Sprintf("Since %s, %s keeps activations from starting until %s: %s.", Moment(p.Since), p.By, Moment(p.Until), p.Reason), "garrison resume")
	}
	if d := s.Drifted; d != nil && s.Phase != PhaseOverruled || s.Drift && d == nil {
		add("drift", "It runs "+s.Systems.Current+", to which somebody switched it by hand"+sinceDrift(d)+".", "garrison history")
	}
	if b := s.Reboot; b != nil && b.Needed && s.Phase != PhaseReboot {
		add("reboot", "Its kernel, initrd or kernel modules are not those that were booted: "+b.Meaning()+".", "systemctl reboot")
	}
	if b := s.Reboot; b != nil && b.Failure != nil {
		addFailure("rebooted", "The agent rebooted it, or tried to: ", b.Failure)
	}
	if f := s.Failure; f != nil && s.Phase != PhaseHeld && s.Phase != PhaseRetrying {
		addFailure("failure", "The last failure: ", f)
	}
	if r := s.Refused; r != nil {
		addFailure("refused", fmt.Sprintf("Since %s, the release branch points at something that is not an acceptable release, and nothing of it is used: ", Moment(r.Since)), &r.Failure)
	}
	for _, r := range s.Remotes {
		if r.Ignored != nil {
			addFailure("test", "What the host's test branch points at is not tried: ", &r.Ignored.Failure)
		}
	}
	for _, d := range s.Disks {
		if d.Full() {
			add("disk", fmt.Sprintf("The disk of its %s is full: %d MiB of %d are left.", d.Of, d.FreeBytes>>20, d.TotalBytes>>20),
				"df -h (on the host)", "nix-collect-garbage --delete-older-than 30d (on the host)")
		}
	}
	if s.ClockOffSeconds != 0 {
		add("clock", "Its clock is "+clockOff(s.ClockOffSeconds)+" the hub's: windows open at the wrong time, and what it says of when things were is wrong.",
			"timedatectl set-ntp true (on the host; NixOS: services.timesyncd.enable = true)")
	}
	if f := s.Remote.Failure; f != nil {
		addFailure("remote", fmt.Sprintf("Since %s, it cannot see new releases: ", Moment(s.Remote.Since)), f)
	}
	if f := s.Hub.Failure; f != nil {
		addFailure("hub", fmt.Sprintf("Since %s, the hub is not reached: releases are polled for, and the hub's picture of this host is old: ", Moment(s.Hub.Since)), f)
	}
	return e
}

// clockOff says by how much a clock is off, as in "24h0m0s ahead of".
func clockOff(seconds float64) string {
	d, how := time.Duration(seconds*float64(time.Second)).Round(time.Second), "ahead of"
	if d < 0 {
		d, how = -d, "behind"
	}
	return d.String() + " " + how
}

func sinceDrift(d *Drift) string {
	if d == nil {
		return ""
	}
	return " " + Moment(d.Since)
}

// explainPhase says what the phase means here, and what would change it.
func explainPhase(s Status) (string, []string) {
	since := "Since " + Moment(s.Since) + ", this host "
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
	case PhaseNew:
		return since + "has not seen a release. The first one that is published and verified is deployed.", []string{"garrison release (in CI, or where the repository is)"}
	case PhaseIdle:
		return since + "runs what " + newest + " says. A newer release that changes it changes this.", nil
	case PhaseManual:
		if s.Failure != nil {
			return since + "is in no release: " + newest + " does not know it, and it is left as it is.", nil
		}
		return since + "is left to be deployed by hand, as garrison.toml says (hosts.manual).", []string{"garrison deploy STOREPATH"}
	case PhaseStaging:
		return since + "fetches the system of " + release + ". It is activated when it is there whole.", []string{"garrison suspend --reason WHY --for 1h (to keep it from that)"}
	case PhaseActivating:
		return since + "is switched to " + release + ". It is kept if it passes its checks, else " + running + " comes back.", []string{"garrison status"}
	case PhaseReboot:
		said := since + "waits for a reboot: " + running + " is what it boots next, and cannot be switched to while it runs."
		if s.Reboot != nil && s.Reboot.At != nil {
			said += " A reboot is " + s.Reboot.Meaning() + "."
		}
		return said, []string{"systemctl reboot"}
	case PhaseHeld:
		return since + "holds " + release + ", which failed here for a reason of its own: " + failed(s.Failure) + ". What was confirmed before is " + running +
			". It is not tried again by itself; a newer release with another system for this host ends that.", append(hints(s.Failure), "garrison retry")
	case PhaseRetrying:
		said := since + "tries " + release + " again and again, for the network, the cache or the host itself is at fault: " + failed(s.Failure) + "."
		if s.RetryAt != nil {
			said += " The next try is at " + Moment(*s.RetryAt) + "."
		}
		return said, append(hints(s.Failure), "garrison retry")
	case PhaseTesting:
		test := "a test release"
		if s.Test != nil {
			test = s.Test.Name()
		}
		return since + "tries " + test + ". No boot takes it: " + running + " is what comes back with one, when the test branch is deleted, or with a newer release.",
			[]string{"garrison deploy " + newest + " (to end it here)"}
	case PhaseOverruled:
		return explainOverruled(s, since, newest)
	case PhaseWaiting:
		return explainWaiting(s, since, release)
	}
	return since + "is in a phase that this garrison does not know: " + string(s.Phase) + ".", nil
}

// explainAhead says what a host has of a release that its ring is not given yet.
func explainAhead(s Status, a Ahead) string {
	said := fmt.Sprintf("%s is published, and this host's ring, %s, has not been given it yet", a.Release.Name(), s.Ring)
	if s.Batch > 1 {
		said = fmt.Sprintf("%s is published, and this host's batch, %d of ring %s, has not been given it yet", a.Release.Name(), s.Batch, s.Ring)
	}
	switch {
	case a.StagedAt != nil:
		return said + ". Its system is here since " + Moment(*a.StagedAt) + ", so that nothing but activation is left to do then."
	case a.Failure != nil:
		return said + ". Its system could not be fetched ahead, which is tried again and stops nothing: " + failed(a.Failure) + "."
	}
	return said + ". Its system is not here whole yet."
}

// hints are what a failure says helps against it.
func hints(f *Failure) []string {
	if f == nil || f.Hint == "" {
		return nil
	}
	return []string{f.Hint}
}

func failed(f *Failure) string {
	if f == nil {
		return "nobody knows why"
	}
	return strings.TrimRight(FirstLine(f.Message), ".")
}

func explainOverruled(s Status, since, newest string) (string, []string) {
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

func explainWaiting(s Status, since, release string) (string, []string) {
	said := since + "has " + release + " in its store, and waits " + s.WaitsFor() + "."
	if s.Wait == nil {
		return said, nil
	}
	switch s.Wait.For {
	case ForResume:
		if p := s.Suspended; p != nil {
			said += fmt.Sprintf(" %s suspended activations %s: %s.", p.By, Moment(p.Since), p.Reason)
		}
		return said, []string{"garrison resume"}
	case ForConfirm:
		return said, []string{"garrison confirm " + release, "garrison confirm " + release + " --now (whatever the window)"}
	case ForWindow:
		if s.Target != nil && s.Target.Release.Number == 0 && s.Target.Release.Test == "" {
			return said, []string{"garrison deploy " + s.Target.OutPath + " --now"}
		}
		return said, []string{"garrison confirm " + release + " --now"}
	}
	return said + " Then it is brought back to " + release + ", as onDrift says.", []string{"garrison suspend --reason WHY --for 1h (to keep it from that)"}
}

// Meaning says what becomes of a reboot that is needed.
func (b Reboot) Meaning() string {
	switch {
	case b.At != nil && b.Ring:
		return "needed; the agent reboots this host when its ring lets it, and not before " + Moment(*b.At)
	case b.At != nil:
		return "needed; the agent reboots this host at " + Moment(*b.At)
	case b.Tried:
		return "needed; the agent rebooted once for it already, and leaves it to a person now"
	}
	return "needed; reboot when it suits"
}

// FirstLine is s up to its first line break: what of an error fits in a line.
func FirstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// reason is a reason as the end of a sentence.
func reason(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
