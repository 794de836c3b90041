package fsm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/rlstore/rlstore/api"
)

// A hold in a snapshot:
//
//	16 bytes id
//	u8       flags: 1 a permit, 2 a reservation that is given back when it
//	         expires, 4 it is free, 8 a lease; other bits are 0
//	uvarint  number of its set
//	uvarint  length of the key, and its bytes
//	uvarint  cost
//	uvarint  age, the header's stamp less the one that made it
//	varint   time of day when it was made, nanoseconds
//	uvarint  span from then until it expires
//
// A settled hold:
//
//	16 bytes id
//	u8       bits 0-3 kind of the operation that settled it; bit 4 it was its
//	         expiry; other bits are 0
//	u64      fingerprint of the operation that made it
//	uvarint  age; uvarint cost asked for; uvarint committed, refunded, charged
const (
	holdPermit = 1
	holdCancel = 2
	holdFree   = 4
	holdLease  = 8

	endExpiry = 1 << 4
)

// list returns the live holds to a capture, in no particular order.
func (t *holds) list() []*hold {
	l := make([]*hold, len(t.due))
	for i, n := range t.due {
		l[i] = n.hold
	}
	return l
}

func (c *Capture) holdRecords(number []uint32, f *filler) error {
	slices.SortFunc(c.holds, func(a, b *hold) int { return bytes.Compare(a.id[:], b.id[:]) })
	for _, h := range c.holds {
		flags := byte(0)
		switch h.kind {
		case api.Acquire:
			flags |= holdPermit
		case api.Lease:
			flags |= holdLease
		}
		if h.cancel {
			flags |= holdCancel
		}
		if h.free {
			flags |= holdFree
		}
		f.buf = append(append(f.buf, h.id[:]...), flags)
		f.buf = binary.AppendUvarint(f.buf, uint64(number[h.set.id]))
		f.buf = api.AppendString(f.buf, h.key)
		f.buf = binary.AppendUvarint(f.buf, uint64(h.cost))
		f.buf = binary.AppendUvarint(f.buf, c.st.last-h.made.now)
		f.buf = binary.AppendVarint(f.buf, h.made.wall)
		f.buf = binary.AppendUvarint(f.buf, h.expires-h.made.now)
		if err := f.done(false); err != nil {
			return err
		}
	}
	return f.done(true)
}

func (c *Capture) endRecords(f *filler) error {
	left, from := c.endsKept, c.endsFrom
	for _, chunk := range c.ends {
		for _, e := range chunk[from:] {
			if left == 0 {
				break
			}
			left--
			how := byte(e.by)
			if e.expiry {
				how |= endExpiry
			}
			f.buf = append(append(f.buf, e.id[:]...), how)
			f.buf = binary.LittleEndian.AppendUint64(f.buf, e.print)
			for _, v := range [...]uint64{c.st.last - e.at, uint64(e.cost), uint64(e.committed), uint64(e.refunded), uint64(e.charged)} {
				f.buf = binary.AppendUvarint(f.buf, v)
			}
			if err := f.done(false); err != nil {
				return err
			}
		}
		from = 0
	}
	return f.done(true)
}

func (l *loader) hold(r []byte) ([]byte, error) {
	h := &hold{}
	if len(r) <= len(h.id) {
		return nil, errShort
	}
	r = r[copy(h.id[:], r):]
	h.cancel, h.free = r[0]&holdCancel != 0, r[0]&holdFree != 0
	switch r[0] &^ holdFree {
	case 0, holdCancel:
		h.kind = api.Reserve
	case holdPermit:
		h.kind = api.Acquire
	case holdLease:
		h.kind = api.Lease
	default:
		return nil, fmt.Errorf("hold %x has the flags %#x", h.id, r[0])
	}
	n, r, err := api.CutUvarint(r[1:])
	if err != nil || n >= uint64(len(l.sets)) {
		return nil, errShort
	}
	h.set = l.sets[n]
	key, r, err := api.CutString(r)
	if err != nil || len(key) < 1 || len(key) > api.MaxKey {
		return nil, errShort
	}
	h.key = string([]byte(key))
	cost, r, err := api.CutUvarint(r)
	if err != nil || cost < 1 || cost > api.MaxCost {
		return nil, errShort
	}
	age, r, err := api.CutUvarint(r)
	if err != nil || age > l.state.last {
		return nil, errShort
	}
	wall, k := binary.Varint(r)
	if k <= 0 || wall < 0 || wall > maxWall {
		return nil, errShort
	}
	span, r, err := api.CutUvarint(r[k:])
	if err != nil {
		return nil, errShort
	}
	h.cost, h.made = int64(cost), moment{l.state.last - age, wall}
	if h.expires = h.made.now + span; h.expires < span {
		return nil, fmt.Errorf("hold %x expires beyond the end of time", h.id)
	}
	if h.id.Slot() != api.Slot(h.key) || len(l.state.holds.byID) > 0 && bytes.Compare(l.holdID[:], h.id[:]) >= 0 {
		return nil, fmt.Errorf("hold %x is not in its place", h.id)
	}
	l.holdID = h.id
	if h.set == nil {
		return r, errSetLost
	}
	if h.kind == api.Lease && span > api.MaxTTL*1_000_000 {
		return nil, fmt.Errorf("lease %x lives too long", h.id)
	}
	l.state.holds.add(h)
	return r, nil
}

// checkLeases checks that no bucket has given more than a level can hold.
func (l *loader) checkLeases() error {
	for name, t := range l.state.holds.byBucket { // order-free: any that fails is refused
		if len(t.leases) == 0 {
			continue
		}
		from, hash := l.state.last, t.leases[0].bucketHash()
		if where := l.state.table.find(hash, name.policy, name.key, &l.state.sets); where.found {
			from = binary.LittleEndian.Uint64(l.state.table.stripes[stripeOf(hash)].record(where.loc)[4:])
		}
		leased := int64(0)
		for _, n := range t.leases[overdue(t.leases, from):] {
			leased += n.cost
		}
		if leased > maxBurst {
			return fmt.Errorf("%d tokens are leased of bucket %q", leased, name.key)
		}
	}
	return nil
}

func (l *loader) ending(r []byte) ([]byte, error) {
	e := ending{}
	if len(r) < len(e.id)+9 {
		return nil, errShort
	}
	r = r[copy(e.id[:], r):]
	e.by, e.expiry = api.Kind(r[0]&^endExpiry), r[0]&endExpiry != 0
	e.print = binary.LittleEndian.Uint64(r[1:])
	r = r[9:]
	switch e.by {
	case api.Settle, api.Cancel:
	case api.Release:
		e.permit = true
	default:
		return nil, fmt.Errorf("hold %x was settled by a %v", e.id, e.by)
	}
	var v [5]uint64
	var err error
	for i := range v {
		if v[i], r, err = api.CutUvarint(r); err != nil || i > 0 && v[i] > 1<<62 {
			return nil, errShort
		}
	}
	if v[0] > l.state.last || l.state.last-v[0] < l.endedAt {
		return nil, fmt.Errorf("settled hold %x is not in its place", e.id)
	}
	e.at = l.state.last - v[0]
	l.endedAt = e.at
	e.cost, e.committed, e.refunded, e.charged = int64(v[1]), int64(v[2]), int64(v[3]), int64(v[4])
	l.state.holds.ends.add(e, 1<<62)
	return r, nil
}
