package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
)

func newClusterEnforcement(a *app) *cobra.Command {
	var o editOptions
	values := []string{api.EnforcementEnforce, api.EnforcementShadow, api.EnforcementOff}
	cmd := &cobra.Command{
		Use:   "enforcement [VALUE]",
		Short: "Show the switch that makes every policy milder, or set it",
		Long: `Show the switch of the whole cluster, or set it to VALUE. With shadow no policy
denies, and answers say what would have been denied; with off takes are allowed and
not even counted; with enforce each policy does what its document says. A policy
that is milder by itself stays so.`,
		Args: between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			value := ""
			if len(args) == 1 {
				if value = args[0]; !slices.Contains(values, value) {
					return usagef("VALUE is one of %s, not %q", strings.Join(values, ", "), value)
				}
			}
			return runClusterEnforcement(cmd, a, &o, value)
		},
	}
	o.register(cmd)
	return cmd
}

func runClusterEnforcement(cmd *cobra.Command, a *app, o *editOptions, value string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	var e api.Enforcement
	if value == "" {
		e, err = c.Enforcement(cmd.Context())
	} else {
		e, err = c.SetEnforcement(cmd.Context(), value, o.options()...)
	}
	if err != nil {
		return err
	}
	return a.print(e, func(w io.Writer) {
		fmt.Fprint(w, e.Enforcement)
		for _, part := range []struct{ name, value string }{{"since", e.At}, {"by", e.Author}, {"because", e.Reason}} {
			if part.value != "" {
				fmt.Fprintf(w, ", %s %s", part.name, part.value)
			}
		}
		fmt.Fprintln(w)
	})
}
