package limiter

import "github.com/rlstore/rlstore/api"

// NotLeader tells a caller that wants no forwarding where to go with key
// instead: the leader's address, the shard, and the slot map's version, as this
// node sees them now. The results in replies have no room for these.
func (l *Limiter) NotLeader(key string) *api.Problem {
	shard := l.catalog.Route(api.Slot(key))
	return l.notLeader(shard, l.log.Leader(shard))
}
