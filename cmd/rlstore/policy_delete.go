package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newPolicyDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a policy; takes that name it fail from then on",
		Args:  between(1, 1),
		RunE:  func(cmd *cobra.Command, args []string) error { return runPolicyDelete(cmd, a, args[0]) },
	}
}

func runPolicyDelete(cmd *cobra.Command, a *app, name string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.DeletePolicy(cmd.Context(), name); err != nil {
		return err
	}
	return a.print(map[string]any{"deleted": name}, func(w io.Writer) {
		fmt.Fprintf(w, "policy %s is deleted\n", name)
	})
}
