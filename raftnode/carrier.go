package raftnode

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// A carrier is a raft.Log that holds a piece of an entry of one group, so that
// raft-boltdb, which knows one log and no checksums, keeps many logs with them.
//
//	Index       u8 group, u44 index of the entry, u12 number of the piece
//	Extensions  u32 CRC-32C; and of the first piece u64 term, u8 type, i64 time of
//	            the append (Unix nanoseconds), u32 bytes of data of the entry,
//	            the entry's own extensions
//	Data        the piece
//
// all big-endian. The sum covers the Index, u32 bytes of Data, the rest of the
// Extensions, and Data.
//
// bbolt puts at least two values on a page, however long, divides a page only if it has
// five, and writes the last one anew with every append. So an entry of some length ends
// in four tiny pieces: three of them are all that the next append writes again. Without
// them entries of 12 KiB went to the disk six times, and those of 64 KiB twice
// (BenchmarkAppend). Larger pieces than 16 KiB, two of which just fit in eight pages, and
// smaller ones gain nothing.
const (
	maxGroup = 1<<8 - 1
	maxIndex = 1<<44 - 1
	maxPiece = 1<<12 - 1

	pieceSize   = 16<<10 - 256 // so that the carrier around it fits in 16 KiB, too
	wholeUpTo   = 4 << 10      // an entry that is one piece: more of them cost more than they save
	tailPieces  = 4
	tailSize    = 32 // of each
	maxEntry    = (maxPiece - tailPieces) * pieceSize
	firstHeader = 4 + 8 + 1 + 8 + 4 // bytes before an entry's own extensions
)

func carrierKey(group uint32, index, piece uint64) uint64 {
	return uint64(group)<<56 | index<<12 | piece
}

// splitKey takes apart what carrierKey put together.
func splitKey(key uint64) (group uint32, index, piece uint64) {
	return uint32(key >> 56), key >> 12 & maxIndex, key & maxPiece
}

// carriers is the memory of what one group appends, used again for each append.
type carriers struct {
	logs []raft.Log
	list []*raft.Log
	head []byte
}

// carry returns the carriers of entries, which share the entries' data, and how
// many bytes they hold. They are good until release.
func (c *carriers) carry(group uint32, entries []*raft.Log) (_ []*raft.Log, bytes int, err error) {
	for _, l := range entries {
		if l.Index == 0 || l.Index > maxIndex || len(l.Data) > maxEntry {
			return nil, 0, fmt.Errorf("entry %d of %d bytes does not fit in a log", l.Index, len(l.Data))
		}
		for piece, rest := uint64(0), l.Data; piece == 0 || len(rest) > 0; piece++ {
			data := rest[:nextPiece(piece, len(rest))]
			rest = rest[len(data):]
			from := len(c.head)
			c.head = append(c.head, 0, 0, 0, 0)
			if piece == 0 {
				c.head = appendFirstHeader(c.head, l)
			}
			head := c.head[from:len(c.head):len(c.head)]
			key := carrierKey(group, l.Index, piece)
			binary.BigEndian.PutUint32(head, carrierSum(key, head[4:], data))
			c.logs = append(c.logs, raft.Log{Index: key, Extensions: head, Data: data})
			bytes += len(head) + len(data)
		}
	}
	for i := range c.logs { // which no longer move
		c.list = append(c.list, &c.logs[i])
	}
	return c.list, bytes, nil
}

// nextPiece is the length of a piece, with which the rest of an entry begins.
func nextPiece(piece uint64, rest int) int {
	const tail = tailPieces * tailSize
	switch {
	case piece == 0 && rest <= wholeUpTo:
		return rest
	case rest > tail:
		return min(rest-tail, pieceSize)
	}
	return min(rest, tailSize)
}

// release lets go of the entries' data.
func (c *carriers) release() {
	clear(c.logs)
	c.logs, c.list, c.head = c.logs[:0], c.list[:0], c.head[:0]
}

func appendFirstHeader(b []byte, l *raft.Log) []byte {
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = append(b, byte(l.Type))
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Data)))
	return append(b, l.Extensions...)
}

// carrierSum is the checksum of a carrier; header is its extensions after the sum.
func carrierSum(key uint64, header, data []byte) uint32 {
	var place [12]byte
	binary.BigEndian.PutUint64(place[:], key)
	binary.BigEndian.PutUint32(place[8:], uint32(len(data)))
	s := crc32.Update(0, castagnoli, place[:])
	return crc32.Update(crc32.Update(s, castagnoli, header), castagnoli, data)
}

// reassembly puts an entry together again. The zero value awaits the first piece
// of any.
type reassembly struct {
	entry raft.Log
	total int    // bytes of the entry's data
	next  uint64 // number of the piece that is awaited; 0 begins an entry
}

// add takes the carrier that was found under key, and tells whether the entry
// is whole; the next one begins another then. The entry keeps the carrier's memory.
func (r *reassembly) add(key uint64, c *raft.Log) (done bool, err error) {
	_, index, piece := splitKey(key)
	x := c.Extensions
	switch {
	case c.Index != key || len(x) < 4 || carrierSum(key, x[4:], c.Data) != binary.BigEndian.Uint32(x),
		piece == 0 && len(x) < firstHeader:
		return false, fmt.Errorf("entry %d: %w", index, errWrongSum)
	case piece != r.next || piece > 0 && index != r.entry.Index:
		return false, fmt.Errorf("piece %d of entry %d comes where piece %d of entry %d belongs", piece, index, r.next, r.entry.Index)
	}
	if piece == 0 {
		r.entry = raft.Log{Index: index, Term: binary.BigEndian.Uint64(x[4:]), Type: raft.LogType(x[12]), Data: c.Data}
		if at := int64(binary.BigEndian.Uint64(x[13:])); at != 0 {
			r.entry.AppendedAt = time.Unix(0, at)
		}
		if len(c.Data) == 0 {
			r.entry.Data = nil
		}
		r.total = int(binary.BigEndian.Uint32(x[21:]))
		if len(x) > firstHeader {
			r.entry.Extensions = x[firstHeader:]
		}
	} else {
		if piece == 1 { // one allocation
			r.entry.Data = append(make([]byte, 0, min(r.total, maxEntry)), r.entry.Data...)
		}
		r.entry.Data = append(r.entry.Data, c.Data...)
	}
	r.next++
	if len(r.entry.Data) > r.total || len(r.entry.Data) < r.total && len(c.Data) == 0 {
		return false, fmt.Errorf("entry %d has %d bytes of %d", index, len(r.entry.Data), r.total)
	}
	if done = len(r.entry.Data) == r.total; done {
		r.next = 0
	}
	return done, nil
}

// sum is the checksum of what a key and its value hold.
func sum(key, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, rest)
}
