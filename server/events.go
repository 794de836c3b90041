package server

import (
	"context"
	"slices"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
)

// eventsEvery is the pace at which a node looks for what has changed. Of changes of
// leaders within it only the outcome is told; no change of a policy is missed that
// its history holds.
const eventsEvery = 200 * time.Millisecond

// watchEvents tells the feed what changes once the node is ready, until ctx ends.
func (s *Server) watchEvents(ctx context.Context) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(eventsEvery)
	defer tick.Stop()
	cluster, view := s.before.cluster, s.before.view
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		nextCluster, nextView := s.node.Outline(), s.node.Catalog()
		events := clusterEvents(cluster, nextCluster)
		if nextView.Revision != view.Revision {
			events = append(events, catalogEvents(view, nextView)...)
		}
		at := time.Now().UTC().Format(time.RFC3339Nano)
		for _, e := range events {
			e.At = at
			s.feed.Add(e)
		}
		cluster, view = nextCluster, nextView
	}
}

// clusterEvents is what has changed from a to b.
func clusterEvents(a, b api.Cluster) (events []api.Event) {
	was := map[string]api.ClusterNode{}
	for _, n := range a.Nodes {
		was[n.ID] = n
	}
	for _, n := range b.Nodes {
		old, ok := was[n.ID]
		delete(was, n.ID)
		if !ok {
			events = append(events, api.Event{Type: api.EventMember, Node: n.ID, Change: "joined"})
		}
		if n.Draining && !old.Draining {
			events = append(events, api.Event{Type: api.EventDrain, Node: n.ID, Change: "begun"})
		} else if old.Draining && !n.Draining && n.Reachable {
			events = append(events, api.Event{Type: api.EventDrain, Node: n.ID, Change: "ended"})
		}
	}
	for _, n := range a.Nodes {
		if _, gone := was[n.ID]; gone {
			events = append(events, api.Event{Type: api.EventMember, Node: n.ID, Change: "removed"})
		}
	}
	for i, shard := range b.Shards {
		var old, now string
		if i < len(a.Shards) && a.Shards[i].Leader != nil {
			old = *a.Shards[i].Leader
		}
		if shard.Leader != nil {
			now = *shard.Leader
		}
		if old != now {
			events = append(events, api.Event{Type: api.EventLeader, Shard: &shard.ID, Node: now, Term: shard.Term})
		}
	}
	return events
}

// catalogEvents is what has changed from a to b, in the order of revisions.
func catalogEvents(a, b *fsm.CatalogView) (events []api.Event) {
	for name, p := range b.Policies { // order-free: sorted below
		var since uint64
		if old := a.Policies[name]; old != nil {
			since = old.Doc.Revision
		}
		if p.Doc.Revision == since {
			continue
		}
		for _, r := range p.Revisions() {
			if r.Revision > since {
				events = append(events, api.Event{Type: api.EventPolicy, Policy: name, Change: r.Change, Override: r.Override, Revision: r.Revision})
			}
		}
	}
	for name := range a.Policies { // order-free: sorted below
		if b.Policies[name] == nil {
			events = append(events, api.Event{Type: api.EventPolicy, Policy: name, Change: "deleted", Revision: b.Revision})
		}
	}
	if e := b.Enforcement; e != a.Enforcement {
		events = append(events, api.Event{Type: api.EventEnforcement, Change: e.Enforcement, Revision: e.Revision})
	}
	slices.SortStableFunc(events, func(x, y api.Event) int {
		if x.Revision != y.Revision {
			return map[bool]int{true: -1, false: 1}[x.Revision < y.Revision]
		}
		return map[bool]int{true: -1, false: 1}[x.Policy < y.Policy]
	})
	return events
}
