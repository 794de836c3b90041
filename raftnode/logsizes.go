package raftnode

import "encoding/binary"

// maxSizes is how many of a log's newest entries have their size remembered.
const maxSizes = 16_384

// sizeRing holds the sizes in bytes of the newest entries of a log, whose
// indexes are consecutive. The zero value is an empty one. At most maxSizes.
type sizeRing struct {
	first uint64 // index of the oldest entry, if n > 0
	n     int
	ring  []uint32 // of the entry i at i mod maxSizes; made at first use
}

// append adds an entry that follows the last one. An index that comes again
// replaces what stood from there on; after a gap the ring starts anew.
func (r *sizeRing) append(index uint64, size int) {
	r.cutEnd(index)
	if r.n == 0 || index != r.first+uint64(r.n) {
		r.first, r.n = index, 0
	}
	if r.ring == nil {
		r.ring = make([]uint32, maxSizes)
	}
	if r.n == maxSizes {
		r.first++
		r.n--
	}
	r.ring[index%maxSizes] = uint32(size)
	r.n++
}

// cutEnd forgets the entries from index from on.
func (r *sizeRing) cutEnd(from uint64) {
	switch {
	case from <= r.first:
		r.n = 0
	case from < r.first+uint64(r.n):
		r.n = int(from - r.first)
	}
}

// cutStart forgets the entries up to index to.
func (r *sizeRing) cutStart(to uint64) {
	switch {
	case r.n == 0 || to < r.first:
	case to >= r.first+uint64(r.n)-1:
		r.n = 0
	default:
		r.n -= int(to + 1 - r.first)
		r.first = to + 1
	}
}

// since returns the bytes of the entries after index.
func (r *sizeRing) since(index uint64) (sum uint64) {
	for i := r.first + uint64(r.n); i > r.first && i-1 > index; i-- {
		sum += uint64(r.ring[(i-1)%maxSizes])
	}
	return sum
}

// total returns the bytes of all entries.
func (r *sizeRing) total() (sum uint64) {
	for i := range uint64(r.n) {
		sum += uint64(r.ring[(r.first+i)%maxSizes])
	}
	return sum
}

// fit returns how many of the newest entries fit together in budget bytes.
func (r *sizeRing) fit(budget uint64) (entries uint64) {
	for i := r.first + uint64(r.n); i > r.first; i-- {
		size := uint64(r.ring[(i-1)%maxSizes])
		if size > budget {
			break
		}
		budget -= size
		entries++
	}
	return entries
}

// beUint64 reads a log's key; 0 of no key.
func beUint64(key []byte) uint64 {
	if len(key) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}
