package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
)

func newRefund(a *app) *cobra.Command {
	var o takeOptions
	cmd := &cobra.Command{
		Use:   "refund POLICY KEY [COST]",
		Short: "Give tokens back, never above the burst",
		Args:  between(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.parse(args); err != nil {
				return err
			}
			return runRefund(cmd, a, &o)
		},
	}
	cmd.Flags().Var(&o.requestID, "request-id", "`id` that makes the refund exactly-once: the same id again returns the first answer")
	return cmd
}

func runRefund(cmd *cobra.Command, a *app, o *takeOptions) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	r, err := c.RefundN(cmd.Context(), o.policy, o.key, o.cost, o.options()...)
	if err != nil {
		return err
	}
	answer := api.RefundResponse{State: apiState(r.State), Refunded: r.Refunded, Duplicate: r.Duplicate}
	return a.print(answer, func(w io.Writer) {
		verdict := fmt.Sprintf("refunded %d", r.Refunded)
		if r.Duplicate {
			verdict += " before, under this request id"
		}
		writeState(w, verdict, answer.State)
	})
}
