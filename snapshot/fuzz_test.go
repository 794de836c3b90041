package snapshot

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"
)

func FuzzReader(f *testing.F) {
	f.Add(small(f))
	f.Add(encode(f, Header{Kind: KindCatalog}))
	f.Add([]byte(magic))
	buf := bufio.NewReaderSize(nil, bufferSize)
	f.Fuzz(func(t *testing.T, file []byte) { readsBackOrIsRefused(t, buf, file) })
}

// FuzzSealedReader mends the checksums of what it gives to the reader, or else
// hardly anything but damage would be tried.
func FuzzSealedReader(f *testing.F) {
	f.Add(small(f))
	f.Add(encode(f, Header{Kind: KindCatalog}))
	f.Add(append(small(f), 0))
	buf := bufio.NewReaderSize(nil, bufferSize)
	f.Fuzz(func(t *testing.T, file []byte) { readsBackOrIsRefused(t, buf, seal(bytes.Clone(file))) })
}

// readsBackOrIsRefused: the format is canonical, so what reads is what the
// writer writes. The reader takes buf for its buffer, and so needs none each time.
func readsBackOrIsRefused(t *testing.T, buf *bufio.Reader, file []byte) {
	buf.Reset(bytes.NewReader(file))
	h, records, err := decode(buf)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Fatalf("error %v is neither", err)
		}
		return
	}
	if !bytes.Equal(encode(t, h, records...), file) {
		t.Error("reads, but not back to the same bytes")
	}
}

// seal writes right magic, checksums, count and digest into file, as far as its
// lengths make sense.
func seal(file []byte) []byte {
	if len(file) < headerSize {
		return file
	}
	copy(file, magic)
	le := binary.LittleEndian
	le.PutUint32(file[20:], headerCRC((*[headerSize]byte)(file)))
	count := uint64(0)
	for at := headerSize; at+recordHeadSize <= len(file); count++ {
		typ, size := file[at], int(le.Uint32(file[at:])>>8)
		end := at + recordHeadSize + size
		if end > len(file) {
			break
		}
		payload := file[at+recordHeadSize : end]
		if typ == footerType && size == footerSize {
			le.PutUint64(payload, count)
			sum := sha256.Sum256(file[:at])
			copy(payload[8:], sum[:])
		}
		le.PutUint32(file[at+4:], recordCRC(file[at:at+4], payload))
		at = end
	}
	return file
}
