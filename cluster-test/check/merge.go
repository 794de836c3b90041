package check

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
)

// groupLog is the log of one group, put together from its replicas, by index.
type groupLog struct {
	group   uint32
	entries []*Entry
}

// merge puts the replicas' entries together and checks that they agree: a place
// has one entry, on whichever node and however often it is applied.
func merge(replicas []*Replica, r *Report) []groupLog {
	type seen struct {
		*Entry
		node string
	}
	logs := map[uint32]map[uint64]seen{}
	for _, rep := range replicas {
		type at struct {
			index uint64
			run   int
		}
		last := map[uint32]at{}
		for i := range rep.Entries {
			e := &rep.Entries[i]
			switch was := last[e.Group]; {
			case e.Index > was.index:
			case e.Run == was.run && e.Run != 0:
				r.add(IndexesGoBack, "node %s applied index %d of group %d after index %d in its run %d", rep.Node, e.Index, e.Group, was.index, e.Run)
			default:
				r.Restarts++
			}
			last[e.Group] = at{e.Index, e.Run}

			log := logs[e.Group]
			if log == nil {
				log = map[uint64]seen{}
				logs[e.Group] = log
			}
			first, ok := log[e.Index]
			switch {
			case !ok:
				log[e.Index] = seen{e, rep.Node}
			case first.Term != e.Term:
				r.add(ReplicasDiffer, "index %d of group %d has term %d on node %s and %d on node %s", e.Index, e.Group, first.Term, first.node, e.Term, rep.Node)
			case !bytes.Equal(first.Data, e.Data):
				r.add(ReplicasDiffer, "index %d of group %d has %d bytes on node %s and %d other bytes on node %s", e.Index, e.Group, len(first.Data), first.node, len(e.Data), rep.Node)
			}
		}
	}
	var merged []groupLog
	for _, group := range slices.Sorted(maps.Keys(logs)) {
		l := groupLog{group: group}
		for _, s := range logs[group] {
			l.entries = append(l.entries, s.Entry)
		}
		slices.SortFunc(l.entries, func(a, b *Entry) int { return cmp.Compare(a.Index, b.Index) })
		for i, e := range l.entries[1:] {
			// Raft: terms never go back along a log.
			if before := l.entries[i]; e.Term < before.Term {
				r.add(TermsGoBack, "index %d of group %d has term %d, and index %d before it term %d", e.Index, group, e.Term, before.Index, before.Term)
			}
		}
		r.Entries += len(l.entries)
		if group != 0 {
			r.Shards++
		}
		merged = append(merged, l)
	}
	return merged
}
