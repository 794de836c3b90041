package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rlstore/rlstore/api"
)

func newClusterStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show nodes, shards, leaders and how far each replica is",
		Args:  between(0, 0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return runClusterStatus(cmd, a) },
	}
}

func runClusterStatus(cmd *cobra.Command, a *app) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := c.Cluster(cmd.Context())
	if err != nil {
		return err
	}
	if !a.json() && s.ClusterID == "" {
		fmt.Fprintf(a.err, "node %s has formed or joined no cluster yet; its log says what it waits for\n", s.NodeID)
		return nil
	}
	if !a.json() {
		// A table of its own each, so that one's columns don't widen the other's.
		fmt.Fprintf(a.out, "cluster %s as %s sees it, slot map %d", s.ClusterID, s.NodeID, s.SlotMap.Version)
		if s.Enforcement == api.EnforcementShadow || s.Enforcement == api.EnforcementOff {
			fmt.Fprintf(a.out, ", enforcement %s", s.Enforcement)
		}
		fmt.Fprint(a.out, "\n\n")
		if err := a.print(s, func(w io.Writer) { writeNodes(w, s.Nodes) }); err != nil {
			return err
		}
		fmt.Fprintln(a.out)
	}
	return a.print(s, func(w io.Writer) { writeShards(w, s) })
}

func writeNodes(w io.Writer, nodes []api.ClusterNode) {
	row(w, "NODE", "HTTP", "RAFT", "STATE", "VERSION")
	for _, n := range nodes {
		state := "unreachable"
		if n.Reachable {
			state = "reachable"
		}
		if n.Draining {
			state += ", draining"
		}
		row(w, n.ID, n.HTTP, n.Raft, state, n.Version)
	}
}

func writeShards(w io.Writer, s api.Cluster) {
	slots := map[uint32][]string{}
	for _, r := range s.SlotMap.Ranges {
		slots[r.Shard] = append(slots[r.Shard], fmt.Sprintf("%d-%d", r.From, r.To))
	}
	away := map[string]bool{}
	for _, n := range s.Nodes {
		away[n.ID] = !n.Reachable && n.ID != s.NodeID
	}
	row(w, "SHARD", "SLOTS", "LEADER", "TERM", "REPLICA", "COMMIT", "APPLIED", "LAG")
	for _, sh := range s.Shards {
		id, leader := fmt.Sprint(sh.ID), "none"
		if sh.ID == 0 {
			id = "catalog"
		}
		if sh.Leader != nil {
			leader = *sh.Leader
		}
		owned := strings.Join(slots[sh.ID], ",")
		if owned == "" {
			owned = "-"
		}
		for _, m := range sh.Members {
			replica := m.ID
			switch {
			case m.Repairing:
				replica += " (no vote, repairing)"
			case !m.Voter:
				replica += " (no vote)"
			}
			if away[m.ID] { // nobody knows how far it is
				row(w, id, owned, leader, sh.Term, replica, "-", "-", "-")
				continue
			}
			row(w, id, owned, leader, sh.Term, replica, m.CommitIndex, m.AppliedIndex, m.Lag)
		}
	}
}
