package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
)

func newClusterTransfer(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "transfer SHARD [NODE]",
		Short: "Move a shard's leadership to a node, or to the least loaded one",
		Long: `Move the leadership of a shard to a node, or without NODE to the least loaded
one that can take it. SHARD is a number, or catalog. The leadership stays there for
ten minutes; then leaders are spread evenly again.`,
		Args: between(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			shard, err := parseShard(args[0])
			if err != nil {
				return err
			}
			to := ""
			if len(args) == 2 {
				if to = args[1]; to == "" {
					return usagef("NODE is empty; give a node's id, or leave it out")
				}
			}
			return runClusterTransfer(cmd, a, shard, to)
		},
	}
}

// parseShard reads a shard as cluster status prints it.
func parseShard(s string) (uint32, error) {
	if s == "catalog" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, usagef("SHARD is a number, or catalog, not %q", s)
	}
	return uint32(n), nil
}

func runClusterTransfer(cmd *cobra.Command, a *app, shard uint32, to string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	leader, err := c.Transfer(cmd.Context(), shard, to)
	if err != nil {
		return err
	}
	return a.print(api.TransferResponse{Shard: shard, Leader: leader}, func(w io.Writer) {
		what := "the catalog"
		if shard > 0 {
			what = fmt.Sprintf("shard %d", shard)
		}
		fmt.Fprintf(w, "%s leads %s\n", leader, what)
	})
}
