package fsm

// index is an open-addressing hash index from 32-bit tags to 32-bit values,
// with linear probing. It holds no pointers. Equal tags are allowed; the caller
// tells their values apart.
//
// A tag's home is the high bits of the tag, so the table lies in the order of
// the tags, up to displacement: a range of tags is a range of slots, which is
// what lets the sweep go through the hash space piece by piece.
type index struct {
	slots []uint64 // tag<<32 | value+1; 0 is empty
	shift uint8    // home = tag >> shift
	n     int      // slots in use, at most 4 in 5
}

const minIndex = 8 // slots; a power of two, as every size is

func (x *index) home(tag uint32) int { return int(tag >> x.shift) }

func slotTag(s uint64) uint32   { return uint32(s >> 32) }
func slotValue(s uint64) uint32 { return uint32(s) - 1 }

// add adds an entry. value is below 2^32-1.
func (x *index) add(tag, value uint32) {
	if (x.n+1)*5 > len(x.slots)*4 {
		x.resize(max(minIndex, 2*len(x.slots)))
	}
	x.place(uint64(tag)<<32 | uint64(value) + 1)
	x.n++
}

func (x *index) place(s uint64) {
	mask := len(x.slots) - 1
	i := x.home(slotTag(s))
	for x.slots[i] != 0 {
		i = (i + 1) & mask
	}
	x.slots[i] = s
}

func (x *index) resize(size int) {
	old := x.slots
	x.slots = make([]uint64, size)
	x.shift = 32
	for s := size; s > 1; s >>= 1 {
		x.shift--
	}
	for _, s := range old {
		if s != 0 {
			x.place(s)
		}
	}
}

// first returns the first entry with the tag as its slot holds it, or 0.
func (x *index) first(tag uint32) uint64 {
	if x.n == 0 {
		return 0
	}
	for i, mask := x.home(tag), len(x.slots)-1; ; i = (i + 1) & mask {
		if s := x.slots[i]; s == 0 || slotTag(s) == tag {
			return s
		}
	}
}

// find returns the slot of exactly this entry, or -1.
func (x *index) find(tag, value uint32) int {
	if x.n == 0 {
		return -1
	}
	want, mask := uint64(tag)<<32|uint64(value)+1, len(x.slots)-1
	for i := x.home(tag); x.slots[i] != 0; i = (i + 1) & mask {
		if x.slots[i] == want {
			return i
		}
	}
	return -1
}

// replace gives the entry another value.
func (x *index) replace(tag, from, to uint32) {
	x.slots[x.find(tag, from)] = uint64(tag)<<32 | uint64(to) + 1
}

// remove takes the entry out and closes the gap, so that there are no
// tombstones to probe through. It may move every other entry.
func (x *index) remove(tag, value uint32) {
	gap, mask := x.find(tag, value), len(x.slots)-1
	for i := (gap + 1) & mask; x.slots[i] != 0; i = (i + 1) & mask {
		home := x.home(slotTag(x.slots[i]))
		if (i-home)&mask >= (i-gap)&mask { // it may stand in the gap
			x.slots[gap] = x.slots[i]
			gap = i
		}
	}
	x.slots[gap] = 0
	x.n--
	if len(x.slots) > minIndex && x.n*8 < len(x.slots) {
		x.resize(len(x.slots) / 2)
	}
}

// appendRange appends the entries whose tags are from lo to hi, both included,
// in no particular order.
func (x *index) appendRange(dst []uint64, lo, hi uint32) []uint64 {
	if x.n == 0 {
		return dst
	}
	mask, start := len(x.slots)-1, x.home(lo)
	last := x.home(hi) - start
	for step := 0; step <= mask; step++ {
		s := x.slots[(start+step)&mask]
		switch tag := slotTag(s); {
		case s == 0:
			if step >= last {
				return dst
			}
		case lo <= tag && tag <= hi:
			dst = append(dst, s)
		}
	}
	return dst
}
