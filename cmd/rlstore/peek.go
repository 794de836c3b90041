package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
)

func newPeek(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "peek POLICY KEY",
		Short: "Look at a bucket without taking from it",
		Args:  between(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var o takeOptions
			if err := o.parse(args); err != nil {
				return err
			}
			return runPeek(cmd, a, &o)
		},
	}
}

func runPeek(cmd *cobra.Command, a *app, o *takeOptions) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := c.Peek(cmd.Context(), o.policy, o.key)
	if err != nil {
		return err
	}
	answer := api.PeekResponse{State: apiState(s)}
	return a.print(answer, func(w io.Writer) { writeState(w, o.key, answer.State) })
}
