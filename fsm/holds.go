package fsm

import (
	"bytes"
	"cmp"
	"container/heap"
	"slices"
	"strings"

	"github.com/rlstore/rlstore/api"
)

// Bounds of the memory for holds, each shard's.
const (
	// MaxHolds is how many live at once; one more is refused as overloaded.
	MaxHolds = 1 << 18
	// SettledWindow is how long the end of a hold is remembered: 5 minutes of
	// cluster time, in nanoseconds.
	SettledWindow = 5 * 60 * 1_000_000_000
	// MaxSettled is how many ends are remembered; one more and the oldest is
	// forgotten.
	MaxSettled = 1 << 18
)

// A hold is a promise that the shard keeps until it is settled or expires: a
// reservation, whose tokens are charged and may yet be given back, a permit,
// which takes one slot of every concurrency limit of its bucket, or a lease; of
// those, leases.go tells what is different.
//
//   - A hold lives while the stamp is below its expiry. It is settled, once, by an
//     operation, or by its expiry: then a reservation counts as committed as it
//     was made, or as cancelled, whichever it chose, and a permit as released.
//   - How many permits a bucket has is counted from the permits that live, not
//     kept in the bucket: whatever becomes of the bucket and of its policy, a
//     permit takes its slot where the limit is a concurrency limit now, and no
//     slot gets lost.
//   - Expiry is exact for permits: what is overdue does not count. Reservations
//     that are overdue are settled as entries come, oldest first, at most 4 for
//     an entry and 2 for each operation in it, or 4096 for a tick; one that is
//     operated on is settled before. What a late settlement gives back is no
//     more than what a prompt one would have.
//   - A settled hold is remembered for [SettledWindow], so that what settled it
//     may come again.
//   - A reset of the bucket takes its holds along: they are not remembered.
//   - While the policy is off, or where it would deny and is in shadow, a hold is
//     made all the same, but free: it charges nothing and takes no slot, and its
//     settlement comes to nothing.
//   - A bucket with holds is not swept, so that the newest numbers that it was
//     decided by stay with it.
//
// A hold is never changed once it is made, only replaced: a capture shares it.
type hold struct {
	id      api.HoldID
	kind    api.Kind // that makes it: Reserve, Acquire, or Lease
	cancel  bool     // of a reservation: its expiry gives it back
	set     *set     // by which it was charged; referred to
	key     string
	cost    int64 // what each limit that is not of concurrency was charged
	free    bool  // nothing was charged: the policy was not enforced
	made    moment
	expires uint64 // stamp, from which on it is overdue
}

// print is the fingerprint of the operation that made h.
func (h *hold) print() uint64 {
	op := api.Op{Kind: h.kind, Cost: h.cost}
	if h.kind == api.Lease { // its cost is what it got, not what was asked for
		op.Cost = 0
	}
	return fingerprint(&op, h.set, api.Hash(h.key))
}

// bucketHash is the place of h's bucket; see set.bucketHash.
func (h *hold) bucketHash() uint64 { return h.set.bucketHash(api.Hash(h.key)) }

// before is the order in which holds expire, in which no two are equal.
func (h *hold) before(o *hold) bool { return h.compare(o.expires, &o.id) < 0 }

func (h *hold) compare(expires uint64, id *api.HoldID) int {
	return cmp.Or(cmp.Compare(h.expires, expires), bytes.Compare(h.id[:], id[:]))
}

// holdNode is the place of a live hold in [holds].
type holdNode struct {
	*hold
	due          int // index into holds.due
	of           *bucketHolds
	older, newer *holdNode // of the others of the bucket
}

// bucketName is what tells buckets apart.
type bucketName struct{ policy, key string }

// bucketHolds is the live holds of one bucket, overdue ones included. Those that
// count for something while they live stand in the order in which they expire.
type bucketHolds struct {
	name    bucketName
	permits []*holdNode // that take a slot
	leases  []*holdNode // that are charged
	leased  int64       // sum of the leases' costs
	others  *holdNode   // the newest of a list
}

// ordered is the list that n belongs in, or nil for the one of the others.
func (b *bucketHolds) ordered(n *holdNode) *[]*holdNode {
	switch {
	case n.free:
	case n.kind == api.Acquire:
		return &b.permits
	case n.kind == api.Lease:
		return &b.leases
	}
	return nil
}

// holds is the holds of a shard. Every live one is in byID, in due and in
// byBucket.
type holds struct {
	byID     map[api.HoldID]*holdNode
	byBucket map[bucketName]*bucketHolds
	due      dueHolds
	ends     ends

	leased map[uint64]int // how many leases count, by the hash of their bucket
	leases int            // that live, those that count or not
	tokens int64          // of all leases that count

	max, maxEnds int // the constants if 0; tests set less
}

func newHolds() holds {
	return holds{
		byID: map[api.HoldID]*holdNode{}, byBucket: map[bucketName]*bucketHolds{}, leased: map[uint64]int{},
		ends: ends{byID: map[api.HoldID]uint64{}},
	}
}

// has says whether a bucket has live holds.
func (t *holds) has(policy, key string) bool {
	return len(t.byBucket) > 0 && t.byBucket[bucketName{policy, key}] != nil
}

// permits returns the permits that take a slot of a bucket and are not overdue, in the order in
// which they expire.
func (t *holds) permits(policy, key string, now uint64) []*holdNode {
	b := t.byBucket[bucketName{policy, key}]
	if b == nil {
		return nil
	}
	return b.permits[overdue(b.permits, now):]
}

// overdue returns how many of the first of holds are overdue.
func overdue(holds []*holdNode, now uint64) int {
	n, _ := slices.BinarySearchFunc(holds, now, func(n *holdNode, now uint64) int {
		if n.expires <= now {
			return -1
		}
		return 1
	})
	return n
}

// add adds a hold, whose set it refers to from now on.
func (t *holds) add(h *hold) *holdNode {
	h.set.refs++
	b := t.byBucket[bucketName{h.set.policy, h.key}]
	if b == nil {
		b = &bucketHolds{name: bucketName{strings.Clone(h.set.policy), h.key}}
		t.byBucket[b.name] = b
	}
	n := &holdNode{hold: h, of: b}
	t.byID[h.id] = n
	heap.Push(&t.due, n)
	if h.kind == api.Lease {
		t.countLease(n, 1)
	}
	if l := b.ordered(n); l != nil {
		insert(l, n)
		return n
	}
	if n.older = b.others; n.older != nil {
		n.older.newer = n
	}
	b.others = n
	return n
}

// remove takes a live hold out.
func (t *holds) remove(n *holdNode, sets *sets) {
	delete(t.byID, n.id)
	heap.Remove(&t.due, n.due)
	if n.kind == api.Lease {
		t.countLease(n, -1)
	}
	if l := n.of.ordered(n); l != nil {
		cut(l, n)
	} else {
		if n.older != nil {
			n.older.newer = n.newer
		}
		if n.newer != nil {
			n.newer.older = n.older
		} else {
			n.of.others = n.older
		}
	}
	if len(n.of.permits) == 0 && len(n.of.leases) == 0 && n.of.others == nil {
		delete(t.byBucket, n.of.name)
	}
	sets.unref(n.set)
}

// countLease counts a lease in, by 1, or out, by -1.
func (t *holds) countLease(n *holdNode, by int) {
	t.leases += by
	if n.free {
		return
	}
	cost, hash := int64(by)*n.cost, n.bucketHash()
	t.tokens += cost
	n.of.leased += cost
	if t.leased[hash] += by; t.leased[hash] == 0 {
		delete(t.leased, hash)
	}
}

// renew gives a permit another expiry.
func (t *holds) renew(n *holdNode, expires uint64) {
	h := *n.hold
	h.expires = expires
	l := n.of.ordered(n)
	if l != nil {
		cut(l, n)
	}
	n.hold = &h
	if l != nil {
		insert(l, n)
	}
	heap.Fix(&t.due, n.due)
}

// drop takes out all holds of a bucket that is reset.
func (t *holds) drop(policy, key string, sets *sets) {
	b := t.byBucket[bucketName{policy, key}]
	if b == nil {
		return
	}
	for len(b.permits) > 0 {
		t.remove(b.permits[len(b.permits)-1], sets)
	}
	for len(b.leases) > 0 {
		t.remove(b.leases[len(b.leases)-1], sets)
	}
	for b.others != nil {
		t.remove(b.others, sets)
	}
}

// find returns where n is, or belongs, in a list in the order of expiry.
func find(l []*holdNode, n *holdNode) int {
	i, _ := slices.BinarySearchFunc(l, n.hold, func(m *holdNode, h *hold) int { return m.compare(h.expires, &h.id) })
	return i
}

func insert(l *[]*holdNode, n *holdNode) { *l = slices.Insert(*l, find(*l, n), n) }

func cut(l *[]*holdNode, n *holdNode) {
	i := find(*l, n)
	if i == 0 { // the usual way for those that expire
		(*l)[0] = nil
		*l = (*l)[1:]
		return
	}
	*l = slices.Delete(*l, i, i+1)
}

// dueHolds is a heap of the live holds: the first to expire is at 0.
type dueHolds []*holdNode

func (d dueHolds) Len() int           { return len(d) }
func (d dueHolds) Less(i, j int) bool { return d[i].before(d[j].hold) }
func (d dueHolds) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].due, d[j].due = i, j
}

// Push implements [heap.Interface].
func (d *dueHolds) Push(x any) {
	n := x.(*holdNode)
	n.due = len(*d)
	*d = append(*d, n)
}

// Pop implements [heap.Interface].
func (d *dueHolds) Pop() any {
	last := len(*d) - 1
	n := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	return n
}

// ending is what is remembered of a hold that was settled.
type ending struct {
	id     api.HoldID
	by     api.Kind // Settle, Cancel or Release; also of an expiry
	permit bool
	expiry bool   // it was settled by its expiry
	print  uint64 // fingerprint of the operation that made it
	cost   int64  // that a Settle asked for
	at     uint64 // stamp

	committed, refunded, charged int64 // see api.HoldOutcome
}

// ends remembers ends in the order in which they came about. They lie in chunks
// that are only ever appended to, so a capture shares them.
type ends struct {
	chunks     [][]ending // of endChunk each; chunks[0] is number first
	first      uint64
	head, tail uint64 // numbers of the oldest end, and of the next one
	byID       map[api.HoldID]uint64
}

const endChunk = 256

func (e *ends) len() int { return int(e.tail - e.head) }

func (e *ends) get(n uint64) *ending { return &e.chunks[n/endChunk-e.first][n%endChunk] }

// find returns the end of a hold, nil if it is not remembered.
func (e *ends) find(id api.HoldID, now uint64) *ending {
	n, ok := e.byID[id]
	if !ok {
		return nil
	}
	if r := e.get(n); !expired(r.at, now, SettledWindow) {
		return r
	}
	return nil
}

func (e *ends) add(r ending, most int) {
	for e.len() >= most {
		e.forget()
	}
	if n := len(e.chunks); n == 0 || len(e.chunks[n-1]) == endChunk {
		if n == 0 { // begin at a chunk's edge
			e.first = (e.tail + endChunk - 1) / endChunk
			e.head, e.tail = e.first*endChunk, e.first*endChunk
		}
		e.chunks = append(e.chunks, make([]ending, 0, endChunk))
	}
	last := &e.chunks[len(e.chunks)-1]
	*last = append(*last, r)
	e.byID[r.id] = e.tail
	e.tail++
}

// forget drops the oldest end, and its chunk with the last one in it.
func (e *ends) forget() {
	if id := e.get(e.head).id; e.byID[id] == e.head { // else the id was used again
		delete(e.byID, id)
	}
	e.head++
	switch {
	case e.head == e.tail:
		e.chunks = nil
	case e.head%endChunk == 0:
		e.chunks[0] = nil
		e.chunks = e.chunks[1:]
		e.first++
	}
}

// expire forgets at most budget ends that are over the window.
func (e *ends) expire(now uint64, budget int) {
	for ; budget > 0 && e.len() > 0 && expired(e.get(e.head).at, now, SettledWindow); budget-- {
		e.forget()
	}
}
