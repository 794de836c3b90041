package raftnode

import (
	"slices"
	"sort"
	"sync"
)

// maxArrivals bounds the arrivals that a [Timekeeper] remembers. A new leader
// needs the newest one that was committed, and few entries are in flight.
const maxArrivals = 1024

// Timekeeper keeps the cluster time of one shard on one node.
//
// A leader stamps each entry with its [Timekeeper.Now]. Every node notes on its
// own steady clock when entries reach its log. A new leader goes on from the
// last stamp it has applied, plus what it measured since that entry arrived.
//
// Invariant: for any two stamps in the log, the later minus the earlier is at
// most the true time that passed between the two stampings, oscillator drift
// aside. It holds within a leadership because a [Steady] does not run fast, and
// across a change of leaders because arrival follows stamping: what the new
// leader measured is at most what has passed. What the change costs (the way
// from the old leader, a restart) is lost, which is the safe side.
//
// A Timekeeper is safe for concurrent use.
type Timekeeper struct {
	steady *Steady

	mu sync.Mutex
	// arrivals ascend strictly in index and do not descend in reading. One says
	// that by its reading every entry up to its index, as it stands in this
	// node's log now, was here. At most maxArrivals.
	arrivals []arrival

	base   uint64 // cluster time when this node's leadership was anchored
	anchor int64  // the steady reading that belongs to base
}

type arrival struct {
	index   uint64
	reading int64
}

// NewTimekeeper returns the timekeeper of a shard on a node that has seen no
// entry since it started.
func NewTimekeeper(s *Steady) *Timekeeper {
	return &Timekeeper{steady: s}
}

// Arrived notes that the entries up to index are in this node's hands. The log
// store calls it for the newest stamped entry of each write, before the fsync:
// the entry was stamped before it was proposed or sent, so this reading comes
// after the stamping already, and it saves the time that the disk takes. A
// write that then fails ends the process, and the note with it.
//
// The stamp itself is in the entry; only the index is kept.
func (t *Timekeeper) Arrived(index, _ uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// An index that comes again replaces the entry that was noted under it:
	// never let a new stamp meet an old arrival.
	t.cut(index)
	if len(t.arrivals) == maxArrivals {
		t.arrivals = slices.Delete(t.arrivals, 0, maxArrivals/2)
	}
	t.arrivals = append(t.arrivals, arrival{index, t.steady.Now()})
}

// Truncated notes that the entries from fromIndex on were removed from this
// node's log. What is known about the entries before it is kept.
func (t *Timekeeper) Truncated(fromIndex uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cut(fromIndex)
}

// cut forgets the arrivals from index from on. The first of them also spoke
// for the entries before from, and goes on to.
func (t *Timekeeper) cut(from uint64) {
	i := t.find(from)
	if i == len(t.arrivals) {
		return
	}
	reading := t.arrivals[i].reading
	t.arrivals = t.arrivals[:i]
	if from > 0 && (i == 0 || t.arrivals[i-1].index < from-1) {
		t.arrivals = append(t.arrivals, arrival{from - 1, reading})
	}
}

// find returns the place of the first arrival at index or after it.
func (t *Timekeeper) find(index uint64) int {
	return sort.Search(len(t.arrivals), func(i int) bool { return t.arrivals[i].index >= index })
}

// Lead anchors cluster time for a leadership that begins: this node leads, its
// Barrier has passed, and lastStamp is the last stamp its state machine has
// applied, from the entry at lastIndex; 0, 0 when there was none.
//
// When the arrival of that entry is not known (it was in the log before the
// process started, or came in a snapshot), time goes on from lastStamp alone.
//
// [Timekeeper.Now] starts at lastStamp or above, but may be below what the same
// node read in an earlier leadership: those readings were never in the log, and
// whoever led in between did not count them. For the same reason an entry that
// was stamped in an earlier leadership must not be proposed in this one.
func (t *Timekeeper) Lead(lastIndex, lastStamp uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.anchor = t.steady.Now()
	t.base = lastStamp + t.since(lastIndex, t.anchor)
}

// since is how long before now the entry at index arrived; 0 if that is not known.
func (t *Timekeeper) since(index uint64, now int64) uint64 {
	if index == 0 {
		return 0
	}
	// The first arrival at or after index is never earlier than its own.
	if i := t.find(index); i < len(t.arrivals) {
		return uint64(now - t.arrivals[i].reading)
	}
	return 0
}

// Estimate is about the cluster time, on any node, and not ahead of it. The
// arguments are those of [Timekeeper.Lead].
func (t *Timekeeper) Estimate(lastIndex, lastStamp uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return lastStamp + t.since(lastIndex, t.steady.Now())
}

// Now returns the cluster time in nanoseconds. It means something on the leader
// only, after [Timekeeper.Lead]; within a leadership it never goes back.
func (t *Timekeeper) Now() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.base + uint64(t.steady.Now()-t.anchor)
}
