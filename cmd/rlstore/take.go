package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

type takeOptions struct {
	policy, key string
	cost        int64
	requestID   requestID
	maxWait     time.Duration
}

// requestID is the value of --request-id. Given, it is an id: an empty one would
// make a script's mistake a take that is not exactly-once.
type requestID string

// Set implements [pflag.Value].
func (id *requestID) Set(s string) error {
	if s == "" {
		return errors.New("it is empty; give 1 to 64 bytes, or leave the flag out")
	}
	*id = requestID(s)
	return api.CheckRequestID(s)
}

// String implements [pflag.Value].
func (id *requestID) String() string { return string(*id) }

// Type implements [pflag.Value].
func (id *requestID) Type() string { return "id" }

// parse reads POLICY KEY [COST].
func (o *takeOptions) parse(args []string) error {
	o.policy, o.key, o.cost = args[0], args[1], 1
	if err := api.CheckKey(o.key); err != nil {
		return usagef("%s", sentence(err))
	}
	if len(args) < 3 {
		return nil
	}
	var err error
	o.cost, err = parseCost(args[2])
	return err
}

// parseCost reads COST.
func parseCost(s string) (int64, error) {
	cost, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, usagef("COST is a whole number, not %q", s)
	}
	if err := api.CheckCost(cost); err != nil {
		return 0, usagef("COST: %s", sentence(err))
	}
	return cost, nil
}

// options are those of the client's call.
func (o *takeOptions) options() []client.TakeOption {
	var opts []client.TakeOption
	if o.requestID != "" {
		opts = append(opts, client.RequestID(string(o.requestID)))
	}
	if o.maxWait > 0 {
		opts = append(opts, client.MaxWait(o.maxWait))
	}
	return opts
}

func newTake(a *app) *cobra.Command {
	var o takeOptions
	cmd := &cobra.Command{
		Use:   "take POLICY KEY [COST]",
		Short: "Ask for tokens: exit code 0 allowed, 10 denied",
		Long: `Take COST tokens, or 1, of what POLICY allows KEY: of all its limits or of none.

While no leader answers, the policy's on_unavailable decides, once --timeout is over. If
that is closed, or no node can be reached that knows the policy, exit code 11 says that
nothing was taken, and 12 that nobody knows.`,
		Args: between(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.parse(args); err != nil {
				return err
			}
			if o.maxWait < 0 || o.maxWait > api.MaxWait*time.Millisecond {
				return usagef("--max-wait: it needs to be 0 to 24h, not %v", o.maxWait)
			}
			return runTake(cmd, a, &o)
		},
	}
	cmd.Flags().Var(&o.requestID, "request-id", "`id` that makes the take exactly-once: the same id again returns the first answer")
	cmd.Flags().DurationVar(&o.maxWait, "max-wait", 0, "borrow from the future up to this `wait`; the answer tells how long to sleep before acting")
	return cmd
}

// fromSource says who decided, if it was not the store.
func fromSource(source string) string {
	switch source {
	case "lease":
		return " from a lease"
	case "soft":
		return " from a soft bucket"
	case "open":
		return " without the store, as on_unavailable says"
	case "local":
		return " by a local bucket, without the store"
	case api.SourceOff:
		return " unchecked, the enforcement being off"
	}
	return " by " + source
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
		WaitMS: api.Millis(d.Wait), Shadowed: d.Shadowed, Duplicate: d.Duplicate,
	}
	err = a.print(answer, func(w io.Writer) {
		verdict := "denied "
		if d.Allowed {
			verdict = "allowed"
		}
		if d.Duplicate {
			verdict += " before, under this request id"
		}
		if d.Shadowed {
			verdict += " in shadow: it would have been denied"
		}
		if d.Source != api.SourceStore {
			verdict += fromSource(d.Source)
		}
		if d.Wait > 0 {
			verdict += fmt.Sprintf(" after a wait of %v", time.Duration(answer.WaitMS)*time.Millisecond)
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
