package fsm

import "slices"

// The sweep drops buckets that are full again and have no holds, for those
// decide like no bucket at all. It goes round the hash space of 40 bits with a cursor that is part
// of the state. How far it goes in one entry follows from the number of
// buckets and from the entry alone, and which buckets it meets from their
// hashes: the layout in memory plays no part, so two replicas drop the same
// buckets at the same entry.
//
// Buckets made pay for the sweep: at four looks for each, a round is over
// before their number has grown by a third, so of all buckets at most about
// that share is waiting to be dropped when the keys never come back. Where keys
// do come back, looks would be wasted work, so operations pay only an eighth.
const (
	sweepAlways  = 4 // buckets looked at in any entry of operations: enough to go on
	sweepMade    = 4 // for each bucket made
	sweepOps     = 8 // one for as many operations
	sweepTick    = 4096
	sweepMaximum = 1 << 20 // so that the product below fits 64 bits
)

// sweep looks at budget buckets from the cursor on, or goes as far as holds so
// many on average. Only where hashes are equal may it look at more.
func (m *Buckets) sweep(budget int) {
	if m.table.n == 0 {
		return
	}
	window := uint64(1) << hashBits
	if budget < m.table.n {
		window = window * uint64(min(budget, sweepMaximum)) / uint64(m.table.n)
	}
	for window > 0 && budget > 0 {
		lo := m.cursor & (1<<32 - 1)
		span := min(window, 1<<32-lo) // to the end of the stripe at most
		looked, span := m.sweepStripe(uint8(m.cursor>>32), lo, span, budget)
		m.cursor = (m.cursor + span) & (1<<hashBits - 1)
		window -= span
		budget -= looked
	}
}

// sweepStripe drops the full buckets among the first budget ones whose tags are
// in the span from lo on. It returns how many it looked at and how far it came.
func (m *Buckets) sweepStripe(stripe uint8, lo, span uint64, budget int) (looked int, came uint64) {
	s := &m.table.stripes[stripe]
	m.swept = s.index.appendRange(m.swept[:0], uint32(lo), uint32(lo+span-1))
	if len(m.swept) > budget { // stop at a tag, which is the same on every replica
		slices.Sort(m.swept)
		end := budget
		for end < len(m.swept) && slotTag(m.swept[end]) == slotTag(m.swept[end-1]) {
			end++
		}
		m.swept = m.swept[:end]
		span = uint64(slotTag(m.swept[end-1])) + 1 - lo
	}
	for _, e := range m.swept { // see table.touch
		m.touched += uint64(s.record(slotValue(e))[0])
	}
	looked = len(m.swept)
	gone := m.swept[:0]
	for _, e := range m.swept {
		b := &m.b
		reason := b.load(s.record(slotValue(e)), &m.sets, m.last)
		if reason == ResetNone {
			if b.advance(m.at); !b.isFresh() || m.holds.has(b.set.policy, string(recordKey(s.record(slotValue(e))))) {
				continue
			}
			m.dropped++
		} else {
			m.resets[reason]++
		}
		gone = append(gone, e)
	}
	m.table.dropAll(stripe, gone, &m.sets)
	return looked, span
}
