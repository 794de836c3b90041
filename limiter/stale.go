package limiter

import (
	"context"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// Replicas reads this node's own copies of the shards. It is safe for
// concurrent use.
type Replicas interface {
	// StalePeek answers one peek with an encoded reply. age is how long ago
	// this node last heard of the shard's leader: the answer may lack what was
	// decided since.
	StalePeek(shard uint32, op api.Op, set *policy.Set) (reply []byte, age time.Duration, err error)
}

// StalePeek answers a batch of one peek from this node's own copy, whoever
// leads the shard, also while nobody does.
func (l *Limiter) StalePeek(_ context.Context, b *api.Batch) (reply []byte, age time.Duration, err error) {
	if l.replicas == nil {
		return nil, 0, api.NewProblem(api.InvalidRequest, "stale peeks are not supported on this node")
	}
	op, _, err := api.DecodeOp(b.Ops)
	if err != nil || b.N != 1 || op.Kind != api.Peek {
		return nil, 0, api.NewProblem(api.InvalidRequest, "only a single peek can be stale")
	}
	sets, unresolved := l.resolve(b.Policies)
	if p := l.check(&op, b, sets, nil, unresolved); p != nil {
		return nil, 0, p
	}
	set := sets[op.Policy]
	if o := overrideOf(set, op.Key); o != nil {
		set = o
	}
	return l.replicas.StalePeek(l.catalog.Route(api.Slot(op.Key)), op, set)
}
