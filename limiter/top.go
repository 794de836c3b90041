package limiter

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rlstore/rlstore/api"
)

const (
	// topBudget is about how many operations a node counts in a second, which
	// takes a few milliseconds. When more are decided, one of 2, 4, 8… batches is
	// counted, for all.
	topBudget = 8192
	topHalf   = api.TopWindow / 2 // after which counts are halved
)

// top counts the heaviest keys among what this node decides as a leader.
type top struct {
	now    func() time.Duration // monotonic
	oneIn  atomic.Uint32        // one of so many batches is counted
	seen   atomic.Uint64        // operations since second
	second atomic.Int64         // when oneIn was last set, of now

	mu     sync.Mutex // guards the next three
	denied *heavy
	taken  *heavy
	halved time.Duration // up to when counts are halved
}

func newTop() *top {
	start := time.Now()
	t := &top{now: func() time.Duration { return time.Since(start) }, denied: newHeavy(), taken: newHeavy()}
	t.oneIn.Store(1)
	return t
}

// observe counts a batch that was decided. It reads b and reply, and keeps neither.
func (t *top) observe(b *api.Batch, reply []byte) {
	now := t.now()
	t.pace(now, uint64(b.N))
	weight := t.oneIn.Load()
	if weight > 1 && rand.Uint32N(weight) != 0 {
		return
	}
	r, err := api.DecodeReply(reply)
	if err != nil || r.Replayed || r.N != b.N {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.decay(now)
	var op api.Op
	var res api.Result
	for rest := b.Ops; ; {
		ok, err := r.Next(&res)
		if err != nil || !ok {
			return
		}
		if op, rest, err = api.DecodeOp(rest); err != nil {
			return
		}
		if res.Duplicate || res.Set >= len(r.Sets) {
			continue
		}
		switch res.Status {
		case api.StatusDenied, api.StatusAllowed, api.StatusHeld:
		default:
			continue
		}
		s := subject{r.Sets[res.Set].Policy, op.Key}
		if strings.HasPrefix(s.policy, inlinePolicy+":") {
			s.policy = inlinePolicy
		}
		if res.Status == api.StatusDenied || res.Shadowed {
			t.denied.add(s, uint64(weight))
			t.taken.note(s, uint64(weight))
		} else {
			n := uint64(op.Cost) * uint64(weight)
			t.taken.add(s, n)
			t.denied.note(s, n)
		}
	}
}

// pace sets each second how many batches are counted, by how many operations the
// last one had.
func (t *top) pace(now time.Duration, n uint64) {
	seen := t.seen.Add(n)
	last := t.second.Load()
	if passed := uint64(now) - uint64(last); passed >= uint64(time.Second) && t.second.CompareAndSwap(last, int64(now)) {
		t.seen.Store(0)
		oneIn := uint32(1)
		for seen*uint64(time.Second)/passed/uint64(oneIn) > topBudget {
			oneIn *= 2
		}
		t.oneIn.Store(oneIn)
	}
}

// decay halves the counts for every topHalf that has passed.
func (t *top) decay(now time.Duration) {
	for ; now-t.halved >= topHalf; t.halved += topHalf {
		if len(t.denied.keys)+len(t.taken.keys) == 0 && t.denied.floor+t.taken.floor == 0 {
			t.halved = now
			return
		}
		t.denied.decay()
		t.taken.decay()
	}
}

// TopPart is one node's counts.
type TopPart struct {
	OneIn uint32       `json:"one_in"`
	Floor uint64       `json:"floor"` // a key that is not among Keys has at most so many
	Keys  []api.TopKey `json:"keys"`  // in no order
}

// Top returns this node's own counts: of the keys that it decides, as the leader of
// their shards. by is [api.TopDenied] or [api.TopTaken].
func (l *Limiter) Top(by string) TopPart {
	t := l.top
	t.mu.Lock()
	defer t.mu.Unlock()
	t.decay(t.now())
	h := t.taken
	if by == api.TopDenied {
		h = t.denied
	}
	p := TopPart{OneIn: t.oneIn.Load(), Floor: h.floor, Keys: make([]api.TopKey, 0, len(h.least))}
	for _, c := range h.least {
		k := api.TopKey{Policy: c.policy, Key: c.key, Taken: c.count, Denied: c.other, ErrorBound: c.over}
		if by == api.TopDenied {
			k.Taken, k.Denied = c.other, c.count
		}
		p.Keys = append(p.Keys, k)
	}
	return p
}

// MergeTop adds up the counts of several nodes, by their ids, and returns the n
// heaviest keys. A key has counts on two nodes if its shard's leader has moved.
func MergeTop(by string, n int, parts map[string]TopPart) api.Top {
	out := api.Top{By: by, WindowMS: api.Millis(api.TopWindow), OneIn: 1, Keys: []api.TopKey{}, Nodes: []string{}, Missing: []string{}}
	floors := uint64(0)
	for id, p := range parts {
		out.Nodes = append(out.Nodes, id)
		out.OneIn = max(out.OneIn, int(p.OneIn))
		floors += p.Floor
	}
	slices.Sort(out.Nodes)
	sum := map[subject]*api.TopKey{}
	for _, id := range out.Nodes {
		p := parts[id]
		for _, k := range p.Keys {
			s := subject{k.Policy, k.Key}
			m := sum[s]
			if m == nil {
				// The nodes that do not tell of it may have as much as their floors.
				m = &api.TopKey{Policy: k.Policy, Key: k.Key, ErrorBound: floors}
				sum[s] = m
			}
			m.Taken += k.Taken
			m.Denied += k.Denied
			m.ErrorBound = m.ErrorBound - p.Floor + k.ErrorBound
		}
	}
	for _, k := range sum {
		out.Keys = append(out.Keys, *k)
	}
	rank := func(k *api.TopKey) uint64 {
		if by == api.TopDenied {
			return k.Denied
		}
		return k.Taken
	}
	slices.SortFunc(out.Keys, func(a, b api.TopKey) int {
		return cmp.Or(cmp.Compare(rank(&b), rank(&a)), cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Key, b.Key))
	})
	out.Keys = out.Keys[:min(n, len(out.Keys))]
	return out
}
