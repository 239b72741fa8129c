package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// doctorSchema is the schema of report.
const doctorSchema = 1

// health is what a check came to.
type health string

const (
	healthy health = "ok"
	doubt   health = "warning" // it works, or may; somebody should look
	broken  health = "failure"
)

// report is what doctor found, in the order of the checks.
type report struct {
	Schema   int         `json:"schema"`
	Side     string      `json:"side"` // repository, ci, host
	At       time.Time   `json:"at"`
	Passed   bool        `json:"passed"`
	Findings []diagnosis `json:"findings"`
}

// diagnosis is what one check found. Remedy says what to do, with the command to type; it is there unless all is well.
type diagnosis struct {
	Check   string  `json:"check"`
	State   health  `json:"state"`
	Seen    string  `json:"seen"`
	Remedy  string  `json:"remedy,omitempty"`
	Seconds float64 `json:"seconds"`
}

func well(format string, args ...any) diagnosis {
	return diagnosis{State: healthy, Seen: fmt.Sprintf(format, args...)}
}

func ill(state health, remedy, format string, args ...any) diagnosis {
	return diagnosis{State: state, Seen: fmt.Sprintf(format, args...), Remedy: remedy}
}

// because makes a diagnosis of an error; remedy is for errors that have none of their own.
func because(state health, err error, remedy string) diagnosis {
	d := diagnosis{State: state, Seen: err.Error(), Remedy: remedy}
	var e *fleet.Error
	if errors.As(err, &e) {
		d.Seen, d.Remedy = e.What, cmp.Or(e.Hint, remedy)
		if e.Err != nil {
			d.Seen += ": " + e.Err.Error()
		}
	}
	return d
}

// notLookedAt is for what depends on something that another check complains of.
func notLookedAt(on string) diagnosis {
	return ill(doubt, "put right what the check \""+on+"\" says", "not looked at: it depends on %q", on)
}

// inspection is one check. It changes nothing, and shows no secret.
type inspection struct {
	name string
	most time.Duration // 0: checkTime
	look func(context.Context) diagnosis
}

const (
	checkTime    = 15 * time.Second
	evaluateTime = 10 * time.Minute
)

// inspectAll makes all checks beside each other, each within its time.
func inspectAll(ctx context.Context, side string, all []inspection) (report, error) {
	r := report{Schema: doctorSchema, Side: side, At: time.Now().UTC(), Passed: true, Findings: make([]diagnosis, len(all))}
	var wait sync.WaitGroup
	for n, i := range all {
		wait.Go(func() { r.Findings[n] = i.inspect(ctx) })
	}
	wait.Wait()
	for _, d := range r.Findings {
		r.Passed = r.Passed && d.State != broken
	}
	return r, ctx.Err()
}

func (i inspection) inspect(ctx context.Context) diagnosis {
	began, most := time.Now(), cmp.Or(i.most, checkTime)
	limited, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	ended := make(chan diagnosis, 1)
	go func() { ended <- i.look(limited) }()
	var d diagnosis
	select {
	case d = <-ended:
	case <-limited.Done():
		select { // what heeds the time, says more
		case d = <-ended:
		case <-time.After(time.Second):
			d = ill(broken, "see what it waits for, and run this again", "no answer within %s", most)
		}
	}
	d.Check, d.Seconds = i.name, time.Since(began).Seconds()
	d.Seen, d.Remedy = proc.Redact(strings.TrimSpace(d.Seen)), proc.Redact(d.Remedy)
	return d
}

// writeText shows the report to a person.
func (a *app) writeDiagnoses(r report) {
	marks := map[health]string{healthy: "ok", doubt: "WARNING", broken: "FAIL"}
	count := map[health]int{}
	for _, d := range r.Findings {
		count[d.State]++
		fmt.Fprintf(a.Out, "%-8s %-18s %s\n", marks[d.State], d.Check, strings.ReplaceAll(d.Seen, "\n", "\n"+strings.Repeat(" ", 28)))
		if d.Remedy != "" {
			fmt.Fprintf(a.Out, "%-8s %-18s → %s\n", "", "", d.Remedy)
		}
	}
	fmt.Fprintf(a.Out, "\n%d ok, %d warnings, %d failures\n", count[healthy], count[doubt], count[broken])
}

// doctorFlags say where to look. Which keys and tokens to look with, they say as those of garrison ci do.
type doctorFlags struct {
	evalFlags
	repo, remote string
	hub, runner  string
	host         bool
	config       string
	given        ciFlags
}

func (a *app) doctor() *cobra.Command {
	f := doctorFlags{given: ciFlags{files: map[string]*string{}}}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check all that must be in place: in the repository, in a CI job, on a host",
		Long: `Doctor looks at all that releases and deployments need, from where it stands, and says for each what it saw and, where something is wrong,
what to type. It changes nothing, and prints no token. In a repository, and in a CI job (with the tokens of its environment): Nix
and git, the flake, garrison.toml, keys, the remote, the forge's token, permissions and branch protection, the workflow, the
cache, the hub, the clock. On a host (--host, or where there is an agent.toml and no repository): the agent and its unit, remotes, signers,
caches, Nix's settings, disks, the clock, the hub. Checks are made beside each other, each within its time.
It exits with 0 unless something fails.`,
		Args: exactly(),
	}
	format := output(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "the fleet's repository on this machine")
	fl.StringVar(&f.remote, "remote", "origin", "name of the remote that releases are published to")
	for _, in := range ciInputs {
		f.given.files[in.env] = fl.String(in.flag, "", in.help+" (or "+in.env+", "+in.env+"_FILE)")
	}
	fl.StringVar(&f.hub, "hub", "", "URL of the hub (default: GARRISON_HUB, or hub.url in garrison.toml)")
	fl.StringVar(&f.runner, "runner", "", "label of the runners that the workflow is for (default: nixos)")
	fl.BoolVar(&f.host, "host", false, "look at this host, not at a repository")
	fl.StringVar(&f.config, "config", agentConfigFile, "the agent's configuration, for --host")
	f.evalFlags.add(fl)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.runDoctor(cmd.Context(), f, *format == "json")
	}
	return cmd
}

const agentConfigFile = "/etc/garrison/agent.toml"

func (a *app) runDoctor(ctx context.Context, f doctorFlags, asJSON bool) error {
	if !f.host { // a host, if it is one and this is no repository
		_, err := os.Stat(f.config)
		f.host = err == nil && !inRepository(ctx, f.repo)
	}
	side, all, done := "host", []inspection(nil), func() {}
	if f.host {
		all = hostInspections(f)
	} else {
		var err error
		if side, all, done, err = a.repositoryInspections(ctx, f); err != nil {
			return err
		}
	}
	defer done()
	r, err := inspectAll(ctx, side, all)
	if err != nil {
		return err
	}
	if asJSON {
		if err := a.json(r); err != nil {
			return err
		}
	} else {
		a.writeDiagnoses(r)
	}
	if !r.Passed {
		return exitCode(1)
	}
	return nil
}
