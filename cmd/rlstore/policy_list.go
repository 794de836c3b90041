package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
)

func newPolicyList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all policies",
		Args:  between(0, 0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return runPolicyList(cmd, a) },
	}
}

func runPolicyList(cmd *cobra.Command, a *app) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	list, err := c.Policies(cmd.Context())
	if err != nil {
		return err
	}
	return a.print(list, func(w io.Writer) { writePolicies(w, list.Policies) })
}

func writePolicies(w io.Writer, policies []api.Policy) {
	row(w, "NAME", "REVISION", "MODE", "LIMITS")
	for _, p := range policies {
		row(w, p.Name, p.Revision, p.Mode, limitsText(p.Limits))
	}
}

// limitsText is a policy's limits in one line.
func limitsText(limits []api.Limit) string {
	var list []string
	for _, l := range limits {
		switch l.Algorithm {
		case "token_bucket":
			list = append(list, fmt.Sprintf("%s: %d per %s, burst %d", l.Name, l.Rate, l.Per, l.Burst))
		case "concurrency":
			list = append(list, fmt.Sprintf("%s: %d at a time", l.Name, l.Max))
		default:
			list = append(list, fmt.Sprintf("%s: %d per %s, %s", l.Name, l.Rate, l.Per, l.Algorithm))
		}
	}
	return strings.Join(list, "; ")
}
