package limiter

import (
	"math/bits"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// syncs hears, on the leader of a shard, who syncs soft buckets and how far these
// fall below zero: the bound of the mode, and what came of it.
type syncs struct {
	mu       sync.Mutex
	policies map[string]*synced
}

// synced is what was heard of one policy.
type synced struct {
	set       *policy.Set              // the last
	instances map[uint64]time.Duration // and when it came last
	worst     [2]int64                 // overshoot, in the running minute and in the one before
	minute    time.Duration            // when the running one began
}

const (
	// syncsKept is how long an instance counts that does not come again: the
	// longest interval of syncs.
	syncsKept = time.Minute
	// maxInstances bounds what one policy can make a node remember.
	maxInstances = 4096
)

// observe counts the syncs of a part that was decided. It keeps neither b nor reply.
func (s *syncs) observe(now time.Duration, b *api.Batch, sets []*policy.Set, reply []byte) {
	r, err := api.DecodeReply(reply)
	if err != nil || r.Replayed || r.N != b.N {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var res api.Result
	for rest := b.Ops; ; {
		if ok, err := r.Next(&res); err != nil || !ok {
			return
		}
		var op api.Op
		if op, rest, err = api.DecodeOp(rest); err != nil {
			return
		}
		if op.Kind != api.Sync || res.Status.Bare() || sets[op.Policy].Mode != api.Soft {
			continue
		}
		p := s.policies[sets[op.Policy].Policy]
		if p == nil {
			if s.policies == nil {
				s.policies = map[string]*synced{}
			}
			p = &synced{instances: map[uint64]time.Duration{}, minute: now}
			s.policies[strings.Clone(sets[op.Policy].Policy)] = p
		}
		p.set = sets[op.Policy]
		p.turn(now)
		if _, known := p.instances[op.Instance]; known || len(p.instances) < maxInstances {
			p.instances[op.Instance] = now
		}
		for i, v := range res.Limits {
			p.worst[0] = max(p.worst[0], debt(&r.Sets[res.Set].Limits[i], v))
		}
	}
}

// turn begins a new minute when it is time.
func (p *synced) turn(now time.Duration) {
	switch since := now - p.minute; {
	case since >= 2*syncsKept:
		p.worst, p.minute = [2]int64{}, now
	case since >= syncsKept:
		p.worst, p.minute = [2]int64{0, p.worst[0]}, now
	}
}

// debt is how many tokens a limit is below zero, by when it has one again. Of
// windows it is whole windows' rates, rounded down.
func debt(l *api.LimitInfo, v api.LimitValues) int64 {
	if v.Remaining > 0 || v.RetryAfter == 0 || l.Per == 0 {
		return 0
	}
	ns := v.RetryAfter*1000 - 999 // for it is rounded up
	if l.Algorithm != api.TokenBucket {
		return int64((ns-1)/uint64(l.Per)) * l.Rate
	}
	hi, lo := bits.Mul64(ns, uint64(l.Rate))
	if hi >= uint64(l.Per) {
		return 0 // no such wait comes from a store
	}
	tokens, rest := bits.Div64(hi, lo, uint64(l.Per))
	if rest == 0 {
		tokens--
	}
	return int64(tokens)
}

// seenSync is what the metrics tell of one policy.
type seenSync struct {
	policy           string
	instances        int
	bound, overshoot int64
}

// seen tells of the policies that were synced in the last minute, by name, and
// forgets the others.
func (s *syncs) seen(now time.Duration) (list []seenSync) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range s.policies { // order-free: sorted below
		p.turn(now)
		for id, last := range p.instances { // order-free: each is looked at
			if now-last > syncsKept {
				delete(p.instances, id)
			}
		}
		if len(p.instances) == 0 {
			delete(s.policies, name)
			continue
		}
		one := seenSync{policy: name, instances: len(p.instances), overshoot: max(p.worst[0], p.worst[1])}
		for i := range p.set.Limits {
			one.bound = max(one.bound, policy.SoftBound(&p.set.Limits[i], time.Duration(p.set.SyncInterval)*time.Millisecond, one.instances))
		}
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b seenSync) int { return strings.Compare(a.policy, b.policy) })
	return list
}
