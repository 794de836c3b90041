package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/rlstore/rlstore/api"
)

// ownership is the set of slots that the shard decides for, as of a version of
// the slot map. A new shard owns none.
type ownership struct {
	version uint64
	slots   [api.Slots / 64]uint64 // bits
}

func (o *ownership) has(slot uint16) bool { return o.slots[slot/64]>>(slot%64)&1 != 0 }

func (o *ownership) set(slot uint16) { o.slots[slot/64] |= 1 << (slot % 64) }

// ranges returns the owned slots as the fewest ranges, in order.
func (o *ownership) ranges(shard uint32) (r []api.SlotRange) {
	for s := range uint16(api.Slots) {
		if !o.has(s) {
			continue
		}
		if n := len(r); n > 0 && r[n-1].To+1 == s {
			r[n-1].To = s
		} else {
			r = append(r, api.SlotRange{From: s, To: s, Shard: shard})
		}
	}
	return r
}

// decodeOwn reads the body of an entry made by [EncodeOwn].
func decodeOwn(body []byte, shard uint32) (o ownership, err error) {
	if o.version, body, err = api.CutUvarint(body); err != nil {
		return o, err
	}
	n, body, err := api.CutUvarint(body)
	if err != nil {
		return o, err
	}
	if n > api.Slots || uint64(len(body)) != n*8 {
		return o, errors.New("the ranges do not fill it")
	}
	for ; len(body) > 0; body = body[8:] {
		from, to := binary.LittleEndian.Uint16(body), binary.LittleEndian.Uint16(body[2:])
		if from > to || to >= api.Slots {
			return o, fmt.Errorf("slots %d to %d", from, to)
		}
		if binary.LittleEndian.Uint32(body[4:]) == shard {
			for s := from; s <= to; s++ {
				o.set(s)
			}
		}
	}
	return o, nil
}

// own applies an entry of ownership. One of an older version than the machine
// has is late, and changes nothing. The buckets of a slot that is lost stay
// until they are full: should the slot come back, nothing was given away.
func (m *Buckets) own(body []byte) error {
	o, err := decodeOwn(body, m.shard)
	if err == nil && o.version >= m.owned.version {
		m.owned = o
	}
	return err
}
