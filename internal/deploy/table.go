package deploy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Kind names an event in the table.
type Kind string

// KindOf is the kind of an event: the name of its type.
func KindOf(e Event) Kind { return Kind(reflect.TypeOf(e).Name()) }

// rule is one line of the table: what an event does in some phases, which phases it may lead to besides the one that was, and which
// effects it may have.
type rule struct {
	on      Kind
	in      []fleet.Phase
	do      func(*step, Event)
	to      []fleet.Phase
	effects []Effect
	why     string // for people
}

// on makes a rule for the events that do takes.
func on[E Event](do func(*step, E), in, to []fleet.Phase, effects []Effect, why string) rule {
	var e E
	return rule{on: KindOf(e), in: in, do: func(s *step, e Event) { do(s, e.(E)) }, to: to, effects: effects, why: why}
}

func phases(p ...fleet.Phase) []fleet.Phase { return p }

// but are all phases but some.
func but(not ...fleet.Phase) []fleet.Phase {
	return slices.DeleteFunc(fleet.Phases(), func(p fleet.Phase) bool { return slices.Contains(not, p) })
}

// table is the state machine. There is one rule at most for an event in a phase; where there is none, nothing happens.
var table = rules()

func rules() []rule {
	const (
		idle, staging, waiting, activating = fleet.PhaseIdle, fleet.PhaseStaging, fleet.PhaseWaiting, fleet.PhaseActivating
		retrying, held, manual, reboot     = fleet.PhaseRetrying, fleet.PhaseHeld, fleet.PhaseManual, fleet.PhaseReboot
		overruled, testing                 = fleet.PhaseOverruled, fleet.PhaseTesting
	)
	all := fleet.Phases()
	return []rule{
		on((*step).found, but(activating), but(fleet.PhaseNew, activating, retrying, testing), []Effect{Stage}, "a newer release with another system is staged; with the same one it is noted; one that leaves the host out makes it manual"),
		on((*step).noted, phases(activating), nil, nil, "a newer release is turned to afterwards"),
		on((*step).testFound, phases(idle, staging, waiting, retrying, held, testing), phases(idle, staging), []Effect{Stage}, "on a host that runs what the newest release says, and that nobody chose for, the test is staged; its activation is not committed"),
		on((*step).testGone, but(activating), phases(idle, staging, overruled), []Effect{Stage}, "the host goes back to what the newest release says"),
		on((*step).nothing, all, nil, nil, "ends a refusal; a release that the ring does not give yet is noted"),
		on((*step).refused, all, nil, nil, "the tip is kept with its reason until another is accepted"),
		on((*step).staged, phases(staging), phases(waiting, activating), []Effect{Activate}, "the gate: suspended, unconfirmed, or outside its windows it waits"),
		on((*step).stageFailed, phases(staging), phases(held, retrying), nil, "held if the release is to blame, else tried again"),
		on((*step).activated, phases(activating), but(activating), []Effect{Stage}, "a test release that is well: testing; another, committed: idle, or for the next boot, or overruled by an operator's choice; failed: held if the release is to blame, else tried again; then a newer release is turned to"),
		on((*step).due, but(activating), phases(staging, waiting, activating), []Effect{Stage, Activate, Reboot}, "a retry, a window, the end of a suspension or of the grace has come; or the window for a reboot"),
		on((*step).observed, but(activating), phases(fleet.PhaseNew, idle, staging, waiting, reboot, held, manual, overruled), []Effect{Stage}, "somebody switched the host: overruled, or corrected after the grace, or held after three corrections; switched back: as before"),
		on((*step).restarted, but(staging, activating), but(retrying, testing), []Effect{Stage, Activate}, "reality is looked at, and the gate asked again"),
		on((*step).restage, phases(staging), phases(staging), []Effect{Stage}, "begun again"),
		on((*step).resumeHelper, phases(activating), nil, []Effect{Resume}, "the helper is followed"),
		on((*step).permitted, all, nil, nil, "the host's ring lets it reboot, or no longer"),

		on((*step).retry, phases(held, retrying), phases(staging), []Effect{Stage}, "tried again at once"),
		on((*step).confirm, phases(staging, waiting, retrying), phases(staging, activating), []Effect{Stage, Activate}, "that very release may be activated"),
		on((*step).choose, but(activating), phases(staging), []Effect{Stage}, "the system that an operator chose is staged"),
		on((*step).suspend, all, nil, nil, "no activation starts"),
		on((*step).accept, all, nil, nil, "the refused tip, when found next, may have any history"),
		on((*step).resume, all, phases(staging, activating), []Effect{Stage, Activate}, "the gate is asked again"),
	}
}

// ruleFor is the rule for an event of a kind in a phase.
func ruleFor(kind Kind, in fleet.Phase) (rule, bool) {
	i := slices.IndexFunc(table, func(r rule) bool { return r.on == kind && slices.Contains(r.in, in) })
	if i < 0 {
		return rule{}, false
	}
	return table[i], true
}

// Table is the table in Markdown, as it stands in docs/ARCHITECTURE.md.
func Table() string {
	var b strings.Builder
	b.WriteString("| event | in phase | may lead to | effects | |\n|---|---|---|---|---|\n")
	for _, r := range table {
		var effects []string
		for _, e := range r.effects {
			effects = append(effects, e.String())
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.on, names(r.in), names(r.to), strings.Join(effects, " "), r.why)
	}
	return b.String()
}

// names lists phases, the short way round.
func names(of []fleet.Phase) string {
	rest := but(of...)
	words := make([]string, 0, len(of))
	if len(rest) <= 3 && len(of) > 3 {
		if len(rest) == 0 {
			return "any"
		}
		words, of = append(words, "any but"), rest
	}
	for _, p := range of {
		words = append(words, string(p))
	}
	return strings.Join(words, " ")
}
