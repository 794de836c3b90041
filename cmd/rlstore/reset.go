package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
)

func newReset(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reset POLICY KEY",
		Short: "Forget a bucket, so that it is full again",
		Args:  between(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var o takeOptions
			if err := o.parse(args); err != nil {
				return err
			}
			return runReset(cmd, a, &o)
		},
	}
}

func runReset(cmd *cobra.Command, a *app, o *takeOptions) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Reset(cmd.Context(), o.policy, o.key); err != nil {
		return err
	}
	return a.print(api.ResetResponse{Reset: true}, func(w io.Writer) {
		fmt.Fprintf(w, "%s of policy %s is reset\n", o.key, o.policy)
	})
}
