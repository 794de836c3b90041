package fsm

import "sync/atomic"

// ResetReason says what was impossible about a bucket that was reset.
type ResetReason uint8

// The reasons. ResetNone is no reset.
const (
	ResetNone        ResetReason = iota
	ResetBadSet                  // its limits mean nothing, or do not fit its size
	ResetFutureStamp             // it changed later than the log has come
	ResetBadTokens               // tokens above the burst, or an impossible debt
	ResetBadFraction             // a whole token or more in the fraction
	ResetReasons                 // their number
)

var reasonNames = [ResetReasons]string{"none", "bad_set", "future_stamp", "bad_tokens", "bad_fraction"}

// String is the reason's name in metrics.
func (r ResetReason) String() string { return reasonNames[r] }

// Stats is what a machine holds and has done, as of its last entry.
type Stats struct {
	Index uint64 // of the last entry applied
	Stamp uint64 // cluster time, nanoseconds

	Buckets   int
	Bytes     int // of the buckets' records, without the index
	Sets      int // distinct sets of limits in use
	DedupIDs  int // request ids remembered
	Sessions  int
	Holds     int    // reservations, permits and leases that live
	Settled   int    // reservations and permits whose end is remembered
	Leases    int    // of Holds
	Leased    int64  // tokens of the leases that live
	SlotsFrom uint64 // version of the slot map that ownership is from; 0 before any
	Calendar  int    // of Sets, those with windows of the calendar: see EncodeClock

	// Since this process started or restored; not part of the state.
	Dropped uint64               // full buckets
	Expired uint64               // tokens of leases that nobody settled
	Resets  [ResetReasons]uint64 // impossible buckets
}

// stats is Stats for other goroutines to read: written when an entry ends.
type stats struct {
	index, stamp, buckets, bytes, sets, dedup, sessions, holds, settled, slots, calendar, dropped, leases, leased, expired atomic.Uint64

	resets [ResetReasons]atomic.Uint64
}

func (m *Buckets) publish() {
	m.stats.index.Store(m.index)
	m.stats.stamp.Store(m.last)
	m.stats.buckets.Store(uint64(m.table.n))
	m.stats.bytes.Store(uint64(m.table.bytes))
	m.stats.sets.Store(uint64(len(m.sets.byBytes)))
	m.stats.dedup.Store(uint64(m.dedup.n))
	m.stats.sessions.Store(uint64(len(m.sessions.byID)))
	m.stats.holds.Store(uint64(len(m.holds.byID)))
	m.stats.settled.Store(uint64(m.holds.ends.len()))
	m.stats.leases.Store(uint64(m.holds.leases))
	m.stats.leased.Store(uint64(m.holds.tokens))
	m.stats.expired.Store(m.expired)
	m.stats.slots.Store(m.owned.version)
	m.stats.calendar.Store(uint64(m.sets.calendar))
	m.stats.dropped.Store(m.dropped)
	for i := range m.resets {
		m.stats.resets[i].Store(m.resets[i])
	}
}

// Stats may be called from any goroutine. Its numbers are each exact, but while
// an entry ends they may be of two entries.
func (m *Buckets) Stats() Stats {
	s := Stats{
		Index: m.stats.index.Load(), Stamp: m.stats.stamp.Load(),
		Buckets: int(m.stats.buckets.Load()), Bytes: int(m.stats.bytes.Load()),
		Sets: int(m.stats.sets.Load()), DedupIDs: int(m.stats.dedup.Load()),
		Sessions: int(m.stats.sessions.Load()), SlotsFrom: m.stats.slots.Load(),
		Calendar: int(m.stats.calendar.Load()),
		Holds:    int(m.stats.holds.Load()), Settled: int(m.stats.settled.Load()),
		Leases: int(m.stats.leases.Load()), Leased: int64(m.stats.leased.Load()),
		Dropped: m.stats.dropped.Load(), Expired: m.stats.expired.Load(),
	}
	for i := range s.Resets {
		s.Resets[i] = m.stats.resets[i].Load()
	}
	return s
}
