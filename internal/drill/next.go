package drill

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// next is what somebody looks at, and types, who is to find out why a scenario failed.
func (r *run) next() []string {
	switch {
	case r.yard != nil:
		return append(r.yard.trail(), "again: garrison drill --only "+r.Name)
	case r.live != nil:
		return append(r.live.trail(), r.live.once(r.Name))
	}
	return nil
}

// trail are the logs of a sandbox's machines. They stay until the next drill in that folder.
func (y *yard) trail() []string {
	all := []string{"hub and CI: " + shown(filepath.Join(y.dir, "hosts", "forge", "var", "log", "hub.log"))}
	for _, name := range y.hosts() {
		disk := filepath.Join(y.dir, "hosts", name)
		if y.bases[name] != "" { // what it wrote, above its base: the host itself is gone when somebody looks
			disk = filepath.Join(disk, "upper")
		}
		all = append(all, fmt.Sprintf("%s: %s; its last activation: %s", name, shown(filepath.Join(disk, "var/log/agent.log")), shown(filepath.Join(disk, "var/lib/garrison/activation/log"))))
	}
	return all
}

// trail are the commands that say what became of a drill of somebody's fleet.
func (l *live) trail() (all []string) {
	if l.hub != nil {
		at := " --hub " + l.Hub
		all = append(all, "CI's run and its log: "+strings.TrimSuffix(l.Hub, "/")+"/-/runs")
		if l.agent {
			all = append(all, "the host: garrison explain --host "+l.Host+at, "what was said there: garrison logs --host "+l.Host+at)
		}
	} else {
		all = append(all, "CI: garrison ci status "+l.tip+" --repo "+l.Repo+" --remote "+l.Remote)
	}
	if p, ok := l.Probes[l.Host]; ok && len(p.Via) > 0 {
		all = append(all, "the host's log: "+strings.Join(p.Via, " ")+" '"+p.Log+"'")
	}
	return append(all, "if "+markerFile+" was not put back: garrison drill --live "+l.Host+" --repo "+l.Repo+" --revert")
}

// once is the command that drills one scenario once more.
func (l *live) once(name string) string {
	text := "again, once the fleet is well: garrison drill --live " + l.Host + " --repo " + l.Repo + " --only " + name
	if slices.Contains(l.Allow, name) {
		text += " --allow " + name
	}
	return text
}

// failedCheck is a check that failed: what was expected, and what was seen.
type failedCheck struct{ Expected, Seen string }

// failedChecks are a scenario's, and what went wrong beside them.
func failedChecks(s fleet.DrillScenario) (all []failedCheck) {
	for _, c := range s.Checks {
		if c.Result == fleet.DrillFail {
			all = append(all, failedCheck{c.Name, c.Detail})
		}
	}
	if s.Result == fleet.DrillFail && s.Detail != "" {
		all = append(all, failedCheck{"nothing else goes wrong", s.Detail})
	}
	return all
}

// skipped are the scenarios that were skipped, by the reason, in the order of the report.
func skipped(r fleet.DrillReport) (all []skips) {
	for _, s := range r.Scenarios {
		if s.Result != fleet.DrillSkip {
			continue
		}
		i := slices.IndexFunc(all, func(x skips) bool { return x.Why == s.Detail })
		if i < 0 {
			i, all = len(all), append(all, skips{Why: s.Detail})
		}
		all[i].Names = append(all[i].Names, s.Name)
	}
	return all
}

type skips struct {
	Why   string
	Names []string
}

// summary tells how a drill ended: at the end, where people look first.
func (p *printer) summary(r fleet.DrillReport) {
	for _, s := range r.Scenarios {
		if s.Result != fleet.DrillFail {
			continue
		}
		p.title("%s failed: %s", s.Name, s.Title)
		for _, c := range failedChecks(s) {
			p.line("  expected  %s", c.Expected)
			p.line("  seen      %s", p.paint(red, indented(c.Seen, 12)))
		}
		for i, n := range s.Next {
			p.line("  %-8s  %s", map[bool]string{true: "next", false: ""}[i == 0], n)
		}
	}
	if list := skipped(r); len(list) > 0 {
		p.title("Skipped")
		for _, s := range list {
			p.line("  %d %s: %s", len(s.Names), s.Why, p.paint(grey, strings.Join(s.Names, " ")))
		}
	}
	verdict := p.paint(green, "PASS")
	if !r.Passed {
		verdict = p.paint(red, "FAIL")
	}
	text := counts(r)
	if t := r.Timing; t != nil {
		text += fmt.Sprintf("; push → healthy %.2f s, p95 %.2f s, n = %d, limit %s s", t.PushToHealthy.Median, t.PushToHealthy.P95, t.PushToHealthy.Count, plainly(t.LimitSeconds))
	}
	p.line("\n%s  %s; took %s", verdict, text, took(r))
}

// indented is a text whose further lines stand below the first.
func indented(text string, by int) string {
	return strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", by))
}
