package fleet

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Words says in a line what happened. Data that cannot be read, as of a later version, leave what the envelope says.
func (e Event) Words() string {
	words := map[string]func() (string, error){
		EventRun: func() (string, error) { return wordsOf(e, Run.words) },
		EventReleased: func() (string, error) {
			return wordsOf(e, func(p Published) string {
				return fmt.Sprintf("%s was published: %s (changes %d of %d hosts)", p.Release.Name(), p.Release.Source.Subject, len(p.Changed), p.Hosts)
			})
		},
		EventPhase: func() (string, error) { return wordsOf(e, PhaseChange.words) },
		EventDeployment: func() (string, error) {
			return wordsOf(e, func(d Deployment) string {
				return fmt.Sprintf("%s: %s %s%s", d.Host, d.Release.Name(), d.Result, why(d.Failure))
			})
		},
		EventAct: func() (string, error) { return wordsOf(e, Act.words) },
		EventAlert: func() (string, error) {
			return wordsOf(e, func(a Alert) string { return string(a.Severity) + ": " + a.What })
		},
		EventResolved: func() (string, error) { return wordsOf(e, func(a Alert) string { return "over: " + a.What }) },
		EventDrill:    func() (string, error) { return wordsOf(e, DrillReport.words) },
		EventRollout:  func() (string, error) { return wordsOf(e, RolloutAct.words) },
	}
	if f := words[e.Type]; f != nil {
		if text, err := f(); err == nil {
			return text
		}
	}
	return strings.TrimSpace(e.Subject + " (" + e.Source + ")")
}

func wordsOf[T any](e Event, say func(T) string) (string, error) {
	var v T
	if err := json.Unmarshal(e.Data, &v); err != nil {
		return "", err
	}
	return say(v), nil
}

func why(f *Failure) string {
	if f == nil {
		return ""
	}
	return ": " + failed(f)
}

func (r Run) words() string {
	text := fmt.Sprintf("CI run %d of %.12s on %s: %s", r.ID, r.Source.Commit, r.Source.Branch, r.State)
	if r.State == RunRunning && r.Stage != "" {
		text += ", " + string(r.Stage)
	}
	if r.Release != nil {
		text += ", " + r.Release.Name()
	}
	return text + why(r.Failure)
}

func (c PhaseChange) words() string {
	text := c.Host + ": " + string(c.Phase)
	if c.Was != "" {
		text += ", was " + string(c.Was)
	}
	if c.Release != nil {
		text += " (" + c.Release.Name() + ")"
	}
	return text + why(c.Failure)
}

func (a Act) words() string {
	text := a.Host + ": " + a.Act
	if a.By != nil {
		text += " by " + a.By.String()
	}
	if a.Release != nil {
		text += ", " + a.Release.Name()
	}
	if a.Reason != "" {
		text += ": " + a.Reason
	}
	return text
}

func (r DrillReport) words() string {
	var failed []string
	for _, s := range r.Scenarios {
		if s.Result == DrillFail {
			failed = append(failed, s.Name)
		}
	}
	if r.Passed {
		return fmt.Sprintf("a drill of %s passed (%d scenarios)", r.Host, len(r.Scenarios))
	}
	return fmt.Sprintf("a drill of %s FAILED: %s", r.Host, strings.Join(failed, ", "))
}

func (a RolloutAct) words() string {
	release := "everything"
	if a.Release > 0 {
		release = TagName(a.Release)
	}
	text := ""
	switch a.Act {
	case RolloutPromoted:
		text = fmt.Sprintf("roll-out: %s goes to ring %s", release, a.Ring)
		if a.Batch > 1 {
			text += fmt.Sprintf(", batch %d", a.Batch)
		}
	case RolloutApproved:
		text = fmt.Sprintf("roll-out: ring %s may be given %s", a.Ring, release)
	case RolloutPaused:
		text = fmt.Sprintf("roll-out: %s is paused", release)
		if a.Ring != "" {
			text = "roll-out: " + RingStops(release, a.Ring)
		}
	case RolloutFrozen:
		text = "roll-out: frozen"
		if a.Until != nil {
			text += " until " + a.Until.UTC().Format("2006-01-02 15:04 UTC")
		}
	case RolloutUnfrozen:
		text = "roll-out: the freeze has been ended"
	case RolloutAborted:
		text = fmt.Sprintf("roll-out: %s was aborted: back to %s", release, TagName(a.To))
	case RolloutRebooting:
		text = "roll-out: may reboot now: " + strings.Join(a.Hosts, ", ")
	case RolloutComplete:
		text = fmt.Sprintf("roll-out: all rings have %s", release)
	default:
		text = fmt.Sprintf("roll-out: %s is %s", release, a.Act)
	}
	if a.By != "" && a.By != "hub" {
		text += " by " + a.By
	}
	if a.Reason != "" {
		text += ": " + a.Reason
	}
	return text
}
