package main

import (
	"context"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rlstore/rlstore/server"
)

// settings registers the flags of a node's configuration.
func settings(flags *pflag.FlagSet) {
	flags.String("config", "", "YAML `file` of these settings, each under its flag's name")
	for _, s := range server.Settings {
		if s.Bool {
			flags.Bool(s.Name, false, s.About)
			continue
		}
		flags.String(s.Name, s.Default(), s.About)
	}
}

// loadConfig reads a node's configuration: flag, environment, file, default.
func (a *app) loadConfig(flags *pflag.FlagSet) (server.Config, error) {
	set := given(flags)
	file, ok := set["config"]
	if !ok {
		file, _ = a.lookup("RLSTORE_CONFIG")
	}
	cfg, err := server.Load(server.Sources{File: file, Env: a.lookup, Flags: set})
	if err != nil {
		return cfg, &usageError{err}
	}
	return cfg, nil
}

func newServe(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node",
		Long: `serve runs one node until SIGTERM or SIGINT, hands its leaderships over, answers
what is under way, and stops. A second signal ends it at once.

A setting is taken from its flag, else from the environment (RLSTORE_NODE_ID), else
from the --config file (node-id: n1), else it is the default. 'rlstore config print'
with the same flags shows them all.`,
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			coarseTimers() // first: what was read before would have to be read again
			cfg, err := a.loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			return runServe(cmd.Context(), cfg)
		},
	}
	settings(cmd.Flags())
	return cmd
}

func runServe(ctx context.Context, cfg server.Config) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	s, err := server.New(cfg)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// untilSignal ends the context at the first SIGTERM or SIGINT; the second one
// then ends the process, as it does by default.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
