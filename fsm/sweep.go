package fsm

// The sweep drops buckets that are full again, for those decide like no bucket
// at all. It goes round the hash space of 40 bits with a cursor that is part
// of the state. How far it goes in one entry follows from the number of
// buckets and from the entry alone, and which buckets it meets from their
// hashes: the layout in memory plays no part, so two replicas drop the same
// buckets at the same entry.
//
// Buckets made pay for the sweep: at four looks for each, a round is over
// before their number has grown by a third, so of all buckets at most about
// that share is waiting to be dropped when the keys never come back. Where keys
// do come back, looks would be wasted work, so operations pay only a quarter.
const (
	sweepAlways  = 16 // buckets looked at in any entry of operations
	sweepMade    = 4  // for each bucket made
	sweepOps     = 4  // one for as many operations
	sweepTick    = 4096
	sweepMaximum = 1 << 20 // so that the product below fits 64 bits
)

// sweep looks at about budget buckets from the cursor on.
func (m *Buckets) sweep(budget int) {
	if m.table.n == 0 {
		return
	}
	window := uint64(1) << hashBits
	if budget < m.table.n {
		window = window * uint64(min(budget, sweepMaximum)) / uint64(m.table.n)
	}
	for window > 0 {
		lo := m.cursor & (1<<32 - 1)
		span := min(window, 1<<32-lo) // to the end of the stripe at most
		m.sweepStripe(uint8(m.cursor>>32), uint32(lo), uint32(lo+span-1))
		m.cursor = (m.cursor + span) & (1<<hashBits - 1)
		window -= span
	}
}

// sweepStripe drops the full buckets with tags from lo to hi.
func (m *Buckets) sweepStripe(stripe uint8, lo, hi uint32) {
	s := &m.table.stripes[stripe]
	m.swept = s.index.appendRange(m.swept[:0], lo, hi)
	gone := m.swept[:0]
	for _, e := range m.swept {
		b := &m.b
		reason := b.load(s.record(slotValue(e)), &m.sets, m.last)
		if reason == ResetNone {
			if b.refill(m.last); !b.full() {
				continue
			}
			m.dropped++
		} else {
			m.resets[reason]++
		}
		gone = append(gone, e)
	}
	m.table.dropAll(stripe, gone, &m.sets)
}
