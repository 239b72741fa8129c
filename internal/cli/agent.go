package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/activate"
	"github.com/garrison-nix/garrison/internal/agent"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

func (a *app) agent() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Follow the release branch on this host",
		Long: `Agent runs on every host: it sees a release, verifies its signature, brings the system's
closure into the store, activates it in a process of its own, and commits it or rolls back.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := agent.ReadConfig(config)
			if err != nil {
				return err
			}
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			defer outlive(syscall.SIGPIPE)()
			debug.SetGCPercent(agentGC)
			watchdog, err := daemon.SdWatchdogEnabled(false)
			log := a.logger()
			if err != nil {
				log.Warn("the service manager's watchdog is not answered", "err", err)
			}
			err = agent.Run(cmd.Context(), agent.Options{Config: c, Version: Version(), Exe: exe, Notify: tellSystemd, Watchdog: watchdog, Log: log})
			var next *agent.Replaced
			if errors.As(err, &next) {
				return syscall.Exec(next.Program, os.Args, os.Environ())
			}
			return err
		},
	}
	cmd.Flags().StringVar(&config, "config", "/etc/garrison/agent.toml", "configuration file")
	cmd.AddCommand(a.accept())
	return cmd
}

// agentGC is GOGC for an agent: its heap is small, and memory on every host dearer than the time to look through it.
const agentGC = 25

// tellSystemd tells systemd something, where it wants to know.
func tellSystemd(state string) { _, _ = daemon.SdNotify(false, state) }

// outlive makes signals harmless to this process until the function that it returns is called; programs that it
// starts get them as ever. SIGPIPE among them: a log that nobody reads any more must end neither agent nor activation.
func outlive(signals ...os.Signal) (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, signals...)
	return func() { signal.Stop(c) }
}

// activate is the helper that the agent starts; no person needs to.
func (a *app) activate() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:    "activate",
		Short:  "Carry out the activation that the agent asked for in a directory",
		Hidden: true,
		Args:   exactly(),
		RunE: func(*cobra.Command, []string) error {
			log := a.logger()
			// Nothing gentler than SIGKILL may interrupt an activation: hence not the command's context either.
			defer outlive(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE, syscall.SIGQUIT)()
			return activate.Run(context.Background(), dir, log)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the agent's directory for activations")
	_ = cmd.MarkFlagRequired("dir")
	return cmd
}

// sandboxInit is PID 1 of a sandbox's host.
func (a *app) sandboxInit() *cobra.Command {
	return &cobra.Command{
		Use:    sandbox.InitCommand,
		Short:  "Be the init of a sandbox's host",
		Hidden: true,
		Args:   exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return exitCode(sandbox.Init(context.Background(), a.In, a.Out, a.Err))
		},
	}
}
