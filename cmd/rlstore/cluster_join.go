package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
)

func newClusterJoin(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "join NODE RAFT HTTP",
		Short: "Add a running node to the cluster",
		Long: `Add a node that runs, with --join and the raft address of a member, to every
shard. RAFT is its host:port and HTTP its base URL, as it announces them. A node
asks for this by itself too; the command checks its addresses, and waits. It gets its
votes once it has caught up; see cluster status.`,
		Args: between(3, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			m := api.MemberRequest{ID: args[0], Raft: args[1], HTTP: args[2]}
			if err := m.Check(); err != nil {
				return &usageError{err}
			}
			return runClusterJoin(cmd, a, m)
		},
	}
}

func runClusterJoin(cmd *cobra.Command, a *app, m api.MemberRequest) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := c.AddMember(cmd.Context(), m)
	if err != nil {
		return err
	}
	return a.print(s, func(w io.Writer) {
		fmt.Fprintf(w, "%s has joined; %s\n", m.ID, members(s))
	})
}
