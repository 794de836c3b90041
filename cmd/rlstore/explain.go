package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
)

func newExplain(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "explain POLICY KEY [COST]",
		Short: "Tell why a take would be allowed or denied, without taking",
		Args:  between(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			var o takeOptions
			if err := o.parse(args); err != nil {
				return err
			}
			return runExplain(cmd, a, &o)
		},
	}
}

func runExplain(cmd *cobra.Command, a *app, o *takeOptions) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	x, err := c.Explain(cmd.Context(), o.policy, o.key, o.cost)
	if err != nil {
		return err
	}
	return a.print(x, func(w io.Writer) { writeExplanation(w, &x) })
}

func writeExplanation(w io.Writer, x *api.Explanation) {
	switch {
	case x.Passes:
		row(w, "a take of", fmt.Sprintf("%d passes now", x.Cost))
	case x.RetryAfterMS == 0:
		row(w, "a take of", fmt.Sprintf("%d never passes: it exceeds the burst", x.Cost))
	default:
		row(w, "a take of", fmt.Sprintf("%d passes in %s", x.Cost, span(x.RetryAfterMS)))
	}
	row(w, "policy", fmt.Sprintf("%s, revision %d", x.Policy, x.PolicyRevision))
	if o := x.Override; o != nil {
		row(w, "override", fmt.Sprintf("%s: %s", o.Key, limitsText(o.Limits)))
	} else {
		row(w, "override", "none")
	}
	enforcement := x.Enforcement
	if x.Enforcement != x.PolicyEnforcement {
		enforcement += ", by the switch of the cluster"
	}
	row(w, "enforcement", enforcement)
	for _, l := range x.Limits {
		text := level(l.Remaining, l.Limit, l.RetryAfterMS, l.ResetAfterMS)
		if l.Name == x.Binding {
			text += "; it binds"
		}
		row(w, "limit "+l.Name, text)
	}
	leader := "no leader"
	if x.Leader != nil {
		leader = "led by " + *x.Leader
	}
	row(w, "shard", fmt.Sprintf("%d, %s, for slot %d", x.Shard, leader, x.Slot))
	row(w, "as of", fmt.Sprintf("index %d, cluster time %d ns", x.Commit.Index, x.Commit.TimeNS))
}
