package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
)

func newPolicyHistory(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "history NAME",
		Short: "Show the last changes of a policy and of its overrides",
		Args:  between(1, 1),
		RunE:  func(cmd *cobra.Command, args []string) error { return runPolicyHistory(cmd, a, args[0]) },
	}
}

func runPolicyHistory(cmd *cobra.Command, a *app, name string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	list, err := c.Revisions(cmd.Context(), name)
	if err != nil {
		return err
	}
	return a.print(list, func(w io.Writer) {
		row(w, "REVISION", "AT", "AUTHOR", "CHANGE", "REASON")
		for _, r := range list.Revisions {
			row(w, r.Revision, r.At, r.Author, changeText(&r), r.Reason)
		}
	})
}

// changeText is what a change did, in a few words.
func changeText(r *api.PolicyRevision) string {
	switch {
	case r.RevertedTo > 0:
		return fmt.Sprintf("%s to %d: %s", r.Change, r.RevertedTo, limitsText(r.Document.Limits))
	case r.Document != nil:
		return fmt.Sprintf("%s: %s", r.Change, limitsText(r.Document.Limits))
	case r.Expired > 0:
		return fmt.Sprintf("%s: %d", r.Change, r.Expired)
	}
	return fmt.Sprintf("%s: %s", r.Change, r.Override)
}

func newPolicyRevert(a *app) *cobra.Command {
	var o editOptions
	cmd := &cobra.Command{
		Use:   "revert NAME REVISION",
		Short: "Bring back the document that a policy had at a revision",
		Long: `Bring back the document that a policy had at a revision, as 'policy history' lists
them. It becomes a new revision. Overrides stay as they are.`,
		Args: between(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			revision, err := strconv.ParseUint(args[1], 10, 63)
			if err != nil || revision == 0 {
				return usagef("REVISION is a number from 1 on, not %q", args[1])
			}
			return runPolicyRevert(cmd, a, &o, args[0], revision)
		},
	}
	o.register(cmd)
	return cmd
}

func runPolicyRevert(cmd *cobra.Command, a *app, o *editOptions, name string, revision uint64) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	p, err := c.Revert(cmd.Context(), name, revision, o.options()...)
	if err != nil {
		return err
	}
	return a.print(p, func(w io.Writer) { writePolicies(w, []api.Policy{p}) })
}
