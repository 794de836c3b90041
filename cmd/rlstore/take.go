package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

type takeOptions struct {
	policy, key string
	cost        int64
	requestID   string
}

// parse reads POLICY KEY [COST].
func (o *takeOptions) parse(args []string) error {
	o.policy, o.key, o.cost = args[0], args[1], 1
	if err := api.CheckKey(o.key); err != nil {
		return usagef("%s", sentence(err))
	}
	if err := api.CheckRequestID(o.requestID); err != nil {
		return usagef("%s", sentence(err))
	}
	if len(args) < 3 {
		return nil
	}
	cost, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return usagef("COST is a whole number, not %q", args[2])
	}
	if err := api.CheckCost(cost); err != nil {
		return usagef("%s", sentence(err))
	}
	o.cost = cost
	return nil
}

// options are those of the client's call.
func (o *takeOptions) options() []client.TakeOption {
	if o.requestID == "" {
		return nil
	}
	return []client.TakeOption{client.RequestID(o.requestID)}
}

func newTake(a *app) *cobra.Command {
	var o takeOptions
	cmd := &cobra.Command{
		Use:   "take POLICY KEY [COST]",
		Short: "Ask for tokens: exit code 0 allowed, 10 denied",
		Args:  between(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.parse(args); err != nil {
				return err
			}
			return runTake(cmd, a, &o)
		},
	}
	cmd.Flags().StringVar(&o.requestID, "request-id", "", "`id` that makes the take exactly-once: the same id again returns the first answer")
	return cmd
}

func runTake(cmd *cobra.Command, a *app, o *takeOptions) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	d, err := c.Take(cmd.Context(), o.policy, o.key, o.cost, o.options()...)
	if err != nil {
		return err
	}
	answer := api.Decision{
		Allowed: d.Allowed, State: apiState(d.State),
		WaitMS: ms(d.Wait), Shadowed: d.Shadowed, Duplicate: d.Duplicate,
	}
	err = a.print(answer, func(w io.Writer) {
		verdict := "denied "
		if d.Allowed {
			verdict = "allowed"
		}
		if d.Duplicate {
			verdict += " before, under this request id"
		}
		writeState(w, verdict, answer.State)
	})
	if err != nil {
		return fmt.Errorf("the take was decided, but its answer could not be printed: %w", err)
	}
	if !d.Allowed {
		return errDenied
	}
	return nil
}
