package main

import (
	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/server"
)

func newConfigPrint(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Show what 'serve' with the same flags would run with, and where each setting comes from",
		Args:  between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			return runConfigPrint(a, cfg)
		},
	}
	settings(cmd.Flags())
	return cmd
}

func runConfigPrint(a *app, cfg server.Config) error {
	if a.json() {
		return a.print(map[string]any{"settings": cfg.Effective()}, nil)
	}
	return cfg.WriteYAML(a.out)
}
