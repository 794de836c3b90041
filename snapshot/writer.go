package snapshot

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"sync"
)

const (
	magic         = "RLSNAP\r\n"
	formatVersion = 1

	headerSize     = 40
	recordHeadSize = 8
	footerSize     = 8 + sha256.Size // of the footer's payload
	footerType     = 0

	bufferSize = 256 << 10
)

// MaxRecord is the largest payload of a record, in bytes.
const MaxRecord = 1<<24 - 1

// Kinds of state that a file holds.
const (
	KindBuckets uint8 = 1 // one shard's buckets
	KindCatalog uint8 = 2 // policies and slot map
)

// Header says whose state a file holds, and as of when.
type Header struct {
	Kind    uint8
	Version uint16 // of the records' content; each kind counts its own
	Shard   uint32 // number of the Raft group
	Index   uint64 // last Raft index in this state
	TimeNS  uint64 // last cluster time in this state, nanoseconds
}

// Check returns an error when h is not a state of want's kind, content version
// and shard: what a state machine asks before it restores.
func (h Header) Check(want Header) error {
	switch {
	case h.Kind != want.Kind:
		return fmt.Errorf("snapshot: this is a state of kind %d, not %d", h.Kind, want.Kind)
	case h.Version != want.Version:
		return fmt.Errorf("%w: kind %d has content version %d, and this build reads only %d", ErrVersion, h.Kind, h.Version, want.Version)
	case h.Shard != want.Shard:
		return fmt.Errorf("snapshot: this is a state of shard %d, not %d", h.Shard, want.Shard)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// headerCRC leaves out the four bytes that hold it.
func headerCRC(h *[headerSize]byte) uint32 {
	return crc32.Update(crc32.Checksum(h[:20], castagnoli), castagnoli, h[24:])
}

// Writer writes one file, front to back, through a buffer. Its first error
// sticks: every later call returns it, so a caller may check Close alone.
type Writer struct {
	w      io.Writer
	buf    *bufio.Writer // to w and digest
	digest hash.Hash     // of all that left buf
	count  uint64        // records written
	size   int64         // bytes written, those in buf included
	err    error
}

// buffers are those of writers that were closed: they are large beside what a
// small state writes.
var buffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferSize) }}

var errClosed = errors.New("snapshot: the writer is closed")

// NewWriter writes h to w, buffered, and returns the writer of its records.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	var b [headerSize]byte
	copy(b[:], magic)
	binary.LittleEndian.PutUint16(b[8:], formatVersion)
	b[10] = h.Kind
	binary.LittleEndian.PutUint16(b[12:], h.Version)
	binary.LittleEndian.PutUint32(b[16:], h.Shard)
	binary.LittleEndian.PutUint64(b[24:], h.Index)
	binary.LittleEndian.PutUint64(b[32:], h.TimeNS)
	binary.LittleEndian.PutUint32(b[20:], headerCRC(&b))

	sw := &Writer{w: w, digest: sha256.New(), size: headerSize}
	sw.buf = buffers.Get().(*bufio.Writer)
	sw.buf.Reset(io.MultiWriter(w, sw.digest))
	_, err := sw.buf.Write(b[:])
	return sw, err
}

// Record writes one record. typ is 1 to 255, payload at most [MaxRecord]
// bytes; the writer does not keep payload.
func (w *Writer) Record(typ uint8, payload []byte) error {
	if w.err != nil {
		return w.err
	}
	switch {
	case typ == footerType:
		w.err = errors.New("snapshot: record type 0 is the footer's")
	case len(payload) > MaxRecord:
		w.err = fmt.Errorf("snapshot: a record of %d bytes; the most is %d", len(payload), MaxRecord)
	default:
		w.err = w.write(typ, payload)
		w.count++
	}
	return w.err
}

// Close writes the footer and flushes everything to the underlying writer,
// which it leaves open. A file without a successful Close is corrupt.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	if w.err = w.buf.Flush(); w.err != nil {
		return w.err
	}
	footer := binary.LittleEndian.AppendUint64(nil, w.count)
	footer = w.digest.Sum(footer)
	w.buf.Reset(w.w) // the digest does not cover the footer
	if w.err = w.write(footerType, footer); w.err != nil {
		return w.err
	}
	if w.err = w.buf.Flush(); w.err != nil {
		return w.err
	}
	w.buf.Reset(nil)
	buffers.Put(w.buf)
	w.buf, w.err = nil, errClosed
	return nil
}

// Size returns the bytes of the file so far, those still in the buffer included.
func (w *Writer) Size() int64 { return w.size }

func (w *Writer) write(typ uint8, payload []byte) error {
	var h [recordHeadSize]byte
	binary.LittleEndian.PutUint32(h[:], uint32(typ)|uint32(len(payload))<<8)
	binary.LittleEndian.PutUint32(h[4:], recordCRC(h[:4], payload))
	w.size += int64(len(h) + len(payload))
	if _, err := w.buf.Write(h[:]); err != nil {
		return err
	}
	_, err := w.buf.Write(payload)
	return err
}

func recordCRC(head, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, payload)
}
