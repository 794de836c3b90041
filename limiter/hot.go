package limiter

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

const (
	// crowd is how many batches of callers wait for an entry of a shard when its
	// log counts as the bottleneck: far more than are on their way at a moderate
	// load, and far fewer than the queue holds.
	crowd = 32
	// hotTakes in about a second, while there is a crowd, make a key hot.
	hotTakes = 200
	// A key stays hot for hotFor, and for as long again if it had keptTakes by then.
	hotFor    = 30 * time.Second
	keptTakes = 30 * 30
	// maxHot bounds how many keys are hot at a time.
	maxHot = 1024
)

// hot is the keys of policies of mode auto that are leased. A leader finds those of
// the shards that it leads; the others learn of them from its answers.
type hot struct {
	n atomic.Int32 // of keys

	mu      sync.RWMutex // guards the next
	keys    map[subject]*hotKey
	counts  *heavy // of takes in a crowd
	decayed time.Duration
}

// hotKey is one of them.
type hotKey struct {
	until atomic.Int64
	takes atomic.Int64 // since it became hot, or was last kept so
}

// isHot tells whether a key of a policy of mode auto is to be leased.
func (l *Limiter) isHot(set *policy.Set, key string) bool {
	if set.HotKeys[key] {
		return true
	}
	h := &l.hot
	if h.n.Load() == 0 {
		return false
	}
	h.mu.RLock()
	k := h.keys[subject{set.Policy, key}]
	h.mu.RUnlock()
	switch now := l.now(); {
	case k == nil:
		return false
	case now < k.until.Load():
		k.takes.Add(1)
		return true
	case k.takes.Swap(0) >= keptTakes:
		k.until.Store(now + int64(hotFor))
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.keys, subject{set.Policy, key})
	h.n.Store(int32(len(h.keys)))
	return false
}

// mark makes a key hot. s may alias memory of the caller.
func (h *hot) mark(now int64, s subject) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.marked(now, s)
}

func (h *hot) marked(now int64, s subject) {
	if h.keys[s] != nil || len(h.keys) >= maxHot {
		return
	}
	if h.keys == nil {
		h.keys = map[subject]*hotKey{}
	}
	k := &hotKey{}
	k.until.Store(now + int64(hotFor))
	h.keys[subject{strings.Clone(s.policy), strings.Clone(s.key)}] = k
	h.n.Store(int32(len(h.keys)))
}

// crowded counts, on the leader, the takes of a part that met a crowd, and makes
// keys hot that have many.
func (h *hot) crowded(now int64, w *work) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.counts == nil {
		h.counts = newHeavy()
	}
	if since := time.Duration(now) - h.decayed; since >= time.Second {
		if h.decayed = time.Duration(now); since >= 10*time.Second {
			h.counts = newHeavy()
		}
		h.counts.decay()
	}
	rest := w.batch.Ops
	for range w.batch.N {
		op, r, err := api.DecodeOp(rest)
		if err != nil {
			return
		}
		if rest = r; op.Kind != api.Take || w.sets[op.Policy].Hot == nil {
			continue
		}
		s := subject{w.sets[op.Policy].Policy, op.Key}
		h.counts.add(s, 1)
		if c := h.counts.keys[s]; c.count-c.over >= hotTakes {
			h.marked(now, s)
		}
	}
}

// heed marks the keys that the leader of a shard has leased out, though they were
// not hot here.
func (l *Limiter) heed(w *work, reply []byte) {
	r, err := api.DecodeReply(reply)
	if err != nil {
		return
	}
	leased := false
	for i := range r.Sets {
		leased = leased || r.Sets[i].Mode == api.Leased
	}
	if !leased {
		return
	}
	var res api.Result
	rest := w.batch.Ops
	for range w.batch.N {
		op, after, err := api.DecodeOp(rest)
		if ok, bad := r.Next(&res); err != nil || bad != nil || !ok {
			return
		}
		if rest = after; op.Kind == api.Take && !res.Status.Bare() && w.sets[op.Policy].Hot != nil && r.Sets[res.Set].Mode == api.Leased {
			l.hot.mark(l.now(), subject{w.sets[op.Policy].Policy, op.Key})
		}
	}
}

// isAuto tells the sets of keys that may become hot.
func isAuto(s *policy.Set) bool { return s.Hot != nil }
