package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
)

func newClusterRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NODE",
		Short: "Remove a node from the cluster for good",
		Long: `Remove a node from every shard, whether it runs or is lost. Its leaderships are
handed over first; stop it afterwards. Its id may not come back: the machine
returns with an empty folder under a new --node-id. If it is cut off half-way, the
same command goes on.`,
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := api.CheckNodeID(args[0]); err != nil {
				return &usageError{err}
			}
			return runClusterRemove(cmd, a, args[0])
		},
	}
}

func runClusterRemove(cmd *cobra.Command, a *app, id string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := c.RemoveMember(cmd.Context(), id)
	if err != nil {
		return err
	}
	return a.print(s, func(w io.Writer) {
		fmt.Fprintf(w, "%s is removed; %s\n", id, members(s))
	})
}

// members is one line on who is in the cluster.
func members(s api.Cluster) string {
	var ids []string
	for _, n := range s.Nodes {
		ids = append(ids, n.ID)
	}
	return "the members are " + strings.Join(ids, ", ")
}
