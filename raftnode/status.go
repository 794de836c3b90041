package raftnode

import (
	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/api"
)

// Cluster is what this node knows of the whole cluster: its own replicas as
// they are, those of peers as they last told.
func (n *Node) Cluster() api.Cluster {
	c := n.Outline()
	for i, g := range n.groupList() {
		if i < len(c.Shards) { // they may have been opened since
			n.addReplicas(&c.Shards[i], g)
		}
	}
	return c
}

// Outline is Cluster without the replicas of each shard. It costs little however
// many shards there are: the library copies a group's configuration for whoever
// asks, and of those only the catalog's is looked at.
func (n *Node) Outline() api.Cluster {
	view := n.catalog.View()
	c := api.Cluster{
		ClusterID: n.ClusterID(), NodeID: n.cfg.NodeID,
		Nodes: []api.ClusterNode{}, Shards: []api.ShardStatus{}, SlotMap: view.SlotMap,
		Enforcement: view.Enforcement.Enforcement,
	}
	if c.SlotMap.Ranges == nil {
		c.SlotMap.Ranges = []api.SlotRange{}
	}
	groups := n.groupList()
	if groups == nil {
		c.Nodes = append(c.Nodes, n.clusterNode(n.self()))
		return c
	}
	for _, m := range n.configured() {
		c.Nodes = append(c.Nodes, n.clusterNode(m))
	}
	for _, g := range groups {
		s := api.ShardStatus{ID: g.id, Term: g.raft.CurrentTerm(), Members: []api.MemberStatus{}}
		if leader := n.leaderOf(g); leader != "" {
			s.Leader = &leader
		}
		c.Shards = append(c.Shards, s)
	}
	return c
}

func (n *Node) clusterNode(m Member) api.ClusterNode {
	node := api.ClusterNode{ID: m.ID, HTTP: m.HTTP, Raft: m.Raft}
	if m.ID == n.cfg.NodeID {
		node.Reachable, node.Draining, node.Version = true, n.isDraining(), n.cfg.Version
	} else if s, ok := n.peers.fresh(m.ID); ok {
		node.Reachable, node.Draining, node.Version = true, s.Draining, s.Version
	}
	return node
}

// addReplicas adds to s what is known of each replica of g.
func (n *Node) addReplicas(s *api.ShardStatus, g *group) {
	own := g.status()
	var commit uint64
	for _, server := range g.servers() {
		id := string(server.ID)
		replica, ok := own, true
		if id != n.cfg.NodeID {
			replica, ok = n.peers.group(id, g.id)
		}
		m := api.MemberStatus{ID: id, Voter: server.Suffrage == raft.Voter}
		if ok {
			m.CommitIndex, m.AppliedIndex, m.Repairing = replica.Commit, replica.Applied, replica.Repairing
			commit = max(commit, replica.Commit)
		}
		s.Members = append(s.Members, m)
	}
	for i := range s.Members {
		s.Members[i].Lag = commit - min(commit, s.Members[i].AppliedIndex)
	}
}
