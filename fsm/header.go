package fsm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// The header of every log entry, of all state machines, 16 bytes,
// little-endian:
//
//	off  size  field
//	  0     1  format version, 1
//	  1     1  kind: below 64 of a bucket shard, from 64 on of the catalog
//	  2     2  0
//	  4     4  CRC-32C of the whole entry without these four bytes
//	  8     8  stamp: cluster time, nanoseconds
//	 16        body, of the kind's own layout
//
// A machine that meets a version or a kind it does not know, or a checksum
// that does not hold, halts its replica: it must never skip an entry.
const (
	entryVersion    = 1
	entryHeaderSize = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendHeader appends an entry's header to dst, which must be empty; the
// checksum and the stamp come later, with sealHeader.
func appendHeader(dst []byte, kind uint8) []byte {
	return append(dst, entryVersion, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
}

// sealHeader writes stamp and checksum into a whole entry. Nothing of it may
// change afterwards.
func sealHeader(entry []byte, stamp uint64) {
	binary.LittleEndian.PutUint64(entry[8:], stamp)
	binary.LittleEndian.PutUint32(entry[4:], entryCRC(entry))
}

// openHeader checks an entry's version and checksum. body aliases entry. The
// kind is left to the machine.
func openHeader(entry []byte) (kind uint8, stamp uint64, body []byte, err error) {
	if len(entry) < entryHeaderSize {
		return 0, 0, nil, fmt.Errorf("fsm: an entry of %d bytes, shorter than its header", len(entry))
	}
	if got, want := binary.LittleEndian.Uint32(entry[4:]), entryCRC(entry); got != want {
		return 0, 0, nil, fmt.Errorf("fsm: the entry's checksum is %08x, its bytes give %08x", got, want)
	}
	if entry[0] != entryVersion {
		return 0, 0, nil, fmt.Errorf("fsm: the entry has version %d, and this build applies only %d: it was written by a newer rlstore", entry[0], entryVersion)
	}
	if entry[2] != 0 || entry[3] != 0 {
		return 0, 0, nil, fmt.Errorf("fsm: reserved bytes of the entry are %#02x %#02x, not 0", entry[2], entry[3])
	}
	return entry[1], binary.LittleEndian.Uint64(entry[8:]), entry[entryHeaderSize:], nil
}

// entryCRC leaves out the four bytes that hold it.
func entryCRC(entry []byte) uint32 {
	return crc32.Update(crc32.Checksum(entry[:4], castagnoli), castagnoli, entry[8:])
}
