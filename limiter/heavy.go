package limiter

import (
	"container/heap"
	"strings"
)

// heavyKeys is how many keys a sketch tells apart: about 200 kB with keys of usual
// length, and the bound of what a node sends when it is asked for all.
const heavyKeys = 1024

// subject is whom a take is charged to.
type subject struct{ policy, key string }

// counter is one key of a sketch.
type counter struct {
	subject
	count uint64 // by which the sketch ranks: never below the true number
	over  uint64 // of count, what may be another key's
	other uint64 // what the sketch does not rank by, since the key came in
	at    int    // place in the heap
}

// heavy finds the heaviest of any number of keys in bounded memory: the space-saving
// sketch of Metwally, Agrawal and El Abbadi. A key that has no counter takes over
// the smallest one with its count. So of n in all, every key with more than
// n/heavyKeys has a counter.
//
// Invariants: count-over <= true <= count for a key that has a counter, and
// true <= floor for one that has none; decay rounds down, by less than one in all.
type heavy struct {
	keys  map[subject]*counter
	least counters // a heap
	floor uint64   // the largest count taken over, decayed as counts are
}

func newHeavy() *heavy { return &heavy{keys: make(map[subject]*counter)} }

// add counts n, which is not 0, for a key. s may alias memory of the caller.
func (h *heavy) add(s subject, n uint64) {
	if c := h.keys[s]; c != nil {
		c.count += n
		heap.Fix(&h.least, c.at)
		return
	}
	if len(h.least) == heavyKeys {
		c := h.least[0]
		h.floor = c.count
		delete(h.keys, c.subject)
		heap.Pop(&h.least)
	}
	c := &counter{
		subject: subject{strings.Clone(s.policy), strings.Clone(s.key)},
		count:   h.floor + n, over: h.floor,
	}
	h.keys[c.subject] = c
	heap.Push(&h.least, c)
}

// note counts n of what the sketch does not rank by.
func (h *heavy) note(s subject, n uint64) {
	if c := h.keys[s]; c != nil {
		c.other += n
	}
}

// decay halves every count, and drops keys of which nothing is left.
func (h *heavy) decay() {
	h.floor /= 2
	kept := h.least[:0]
	for _, c := range h.least {
		c.count, c.over, c.other = c.count/2, c.over/2, c.other/2
		if c.count == 0 {
			delete(h.keys, c.subject)
			continue
		}
		c.at = len(kept)
		kept = append(kept, c)
	}
	clear(h.least[len(kept):])
	h.least = kept
	heap.Init(&h.least)
}

// counters is a heap of the smallest count, for container/heap.
type counters []*counter

func (q counters) Len() int           { return len(q) }
func (q counters) Less(i, j int) bool { return q[i].count < q[j].count }
func (q counters) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}
func (q *counters) Push(x any) {
	c := x.(*counter)
	c.at = len(*q)
	*q = append(*q, c)
}
func (q *counters) Pop() any {
	last := len(*q) - 1
	c := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return c
}
