package snapshot

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
)

var (
	// ErrCorrupt is in the chain of every error about damaged content; the
	// error's text names the byte offset and what is wrong there. Errors of
	// the underlying reader are not damage and do not have it.
	ErrCorrupt = errors.New("snapshot: corrupt")
	// ErrVersion is in the chain when an undamaged file is of a version that
	// this build does not know.
	ErrVersion = errors.New("snapshot: unsupported version")
)

// Reader reads one file, front to back. Its first error sticks.
//
// A record that Next returned has passed its own check, yet the file as a
// whole is proven only by io.EOF: install nothing before that.
type Reader struct {
	r      *bufio.Reader
	digest hash.Hash // of all bytes before off, until the footer
	header Header
	off    int64  // of the next unread byte
	count  uint64 // records returned
	buf    []byte // the current record, head and payload
	err    error
}

// NewReader reads and checks the header.
func NewReader(r io.Reader) (*Reader, error) {
	sr := &Reader{r: bufio.NewReaderSize(r, bufferSize), digest: sha256.New()}
	if err := sr.readHeader(); err != nil {
		return nil, err
	}
	return sr, nil
}

func (r *Reader) readHeader() error {
	var b [headerSize]byte
	if n, err := io.ReadFull(r.r, b[:]); err != nil {
		return r.short(err, int64(n))
	}
	if err := r.parseHeader(b); err != nil {
		return err
	}
	r.digest.Write(b[:])
	r.off = headerSize
	return nil
}

func (r *Reader) parseHeader(b [headerSize]byte) error {
	le := binary.LittleEndian
	if string(b[:8]) != magic {
		return corrupt(0, "this is not a snapshot of rlstore: its first bytes are %q", b[:8])
	}
	if got, want := le.Uint32(b[20:]), headerCRC(&b); got != want {
		return corrupt(0, "the header's checksum is %08x, its bytes give %08x", got, want)
	}
	if v := le.Uint16(b[8:]); v != formatVersion {
		return fmt.Errorf("%w: the file has format version %d, and this build reads only %d", ErrVersion, v, formatVersion)
	}
	if b[11] != 0 || le.Uint16(b[14:]) != 0 {
		return corrupt(0, "reserved bytes of the header are not zero")
	}
	r.header = Header{
		Kind:    b[10],
		Version: le.Uint16(b[12:]),
		Shard:   le.Uint32(b[16:]),
		Index:   le.Uint64(b[24:]),
		TimeNS:  le.Uint64(b[32:]),
	}
	return nil
}

// Header returns the file's header.
func (r *Reader) Header() Header { return r.header }

// Next returns the next record; payload is valid until the next call.
//
// It returns io.EOF once the footer's count and digest have been verified and
// nothing follows; only then is the file known to be whole.
func (r *Reader) Next() (typ uint8, payload []byte, err error) {
	if r.err != nil {
		return 0, nil, r.err
	}
	typ, payload, err = r.next()
	if err != nil {
		r.err = err
		return 0, nil, err
	}
	return typ, payload, nil
}

func (r *Reader) next() (uint8, []byte, error) {
	if err := r.fill(0, recordHeadSize); err != nil {
		return 0, nil, err
	}
	word := binary.LittleEndian.Uint32(r.buf)
	typ, size := uint8(word), int(word>>8)
	if typ == footerType && size != footerSize {
		return 0, nil, corrupt(r.off, "a footer of %d bytes; it needs %d", size, footerSize)
	}
	if err := r.fill(recordHeadSize, size); err != nil {
		return 0, nil, err
	}
	payload := r.buf[recordHeadSize:]
	if got, want := binary.LittleEndian.Uint32(r.buf[4:]), recordCRC(r.buf[:4], payload); got != want {
		return 0, nil, corrupt(r.off, "the record's checksum is %08x, its bytes give %08x", got, want)
	}
	if typ == footerType {
		return 0, nil, r.finish(payload)
	}
	r.digest.Write(r.buf)
	r.off += int64(len(r.buf))
	r.count++
	return typ, payload, nil
}

// fill cuts buf to have bytes and reads n more. It grows buf as bytes arrive, so
// that a length which promises more than there is costs no memory.
func (r *Reader) fill(have, n int) error {
	const step = 64 << 10
	r.buf = r.buf[:have]
	for end := have + n; len(r.buf) < end; {
		k := min(end-len(r.buf), max(step, len(r.buf)))
		r.buf = slices.Grow(r.buf, k)
		got, err := io.ReadFull(r.r, r.buf[len(r.buf):len(r.buf)+k])
		r.buf = r.buf[:len(r.buf)+got]
		if err != nil {
			return r.short(err, r.off+int64(len(r.buf)))
		}
	}
	return nil
}

// finish checks the footer and that it ends the file.
func (r *Reader) finish(footer []byte) error {
	if n := binary.LittleEndian.Uint64(footer); n != r.count {
		return corrupt(r.off, "the footer counts %d records; the file has %d", n, r.count)
	}
	if sum := r.digest.Sum(nil); !bytes.Equal(sum, footer[8:]) {
		return corrupt(r.off, "the footer's digest is %x, the file's bytes give %x", footer[8:], sum)
	}
	r.off += recordHeadSize + footerSize
	switch _, err := r.r.ReadByte(); err {
	case io.EOF:
		return io.EOF
	case nil:
		return corrupt(r.off, "bytes follow the footer")
	default:
		return fmt.Errorf("snapshot: read at byte %d: %w", r.off, err)
	}
}

// short turns an early end, at byte end, into ErrCorrupt at the part that it
// cuts off, and passes read errors on.
func (r *Reader) short(err error, end int64) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return corrupt(r.off, "the file ends too early, at byte %d", end)
	}
	return fmt.Errorf("snapshot: read at byte %d: %w", end, err)
}

func corrupt(off int64, format string, args ...any) error {
	return fmt.Errorf("%w at byte %d: %s", ErrCorrupt, off, fmt.Sprintf(format, args...))
}
