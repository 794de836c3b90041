package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newNodeDrain(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "drain [NODE]",
		Short: "Have a node lead nothing until it is restarted",
		Long: `Hand over what a node leads, and have it lead nothing until it is restarted. It goes
on answering and replicating. NODE is a node's id; without it, it is the node at the
one endpoint that is given. Where nobody else could lead it is refused.`,
		Args: between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := ""
			switch {
			case len(args) == 1 && args[0] == "":
				return usagef("NODE is empty; give a node's id, or leave it out")
			case len(args) == 1:
				id = args[0]
			case len(a.endpoints) != 1:
				return usagef("there are %d endpoints; give NODE, a node's id", len(a.endpoints))
			}
			return runNodeDrain(cmd, a, id)
		},
	}
}

func runNodeDrain(cmd *cobra.Command, a *app, id string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	if id == "" {
		s, err := c.Cluster(cmd.Context())
		if err != nil {
			return err
		}
		id = s.NodeID
	}
	s, err := c.Drain(cmd.Context(), id)
	if err != nil {
		return err
	}
	return a.print(s, func(w io.Writer) {
		fmt.Fprintf(w, "%s is drained; it leads nothing until it is restarted\n", id)
	})
}
