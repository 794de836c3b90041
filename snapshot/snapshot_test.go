package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

type record struct {
	typ     uint8
	payload string
}

var testHeader = Header{Kind: KindBuckets, Version: 3, Shard: 5, Index: 884213, TimeNS: 93200000000}

func encode(t testing.TB, h Header, records ...record) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := w.Record(r.typ, []byte(r.payload)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Size() != int64(buf.Len()) {
		t.Fatalf("size %d of a file of %d bytes", w.Size(), buf.Len())
	}
	return buf.Bytes()
}

// decode reads a whole file; err is nil only for a verified one.
func decode(r io.Reader) (h Header, records []record, err error) {
	sr, err := NewReader(r)
	if err != nil {
		return h, nil, err
	}
	for {
		typ, payload, err := sr.Next()
		if err == io.EOF {
			return sr.Header(), records, nil
		}
		if err != nil {
			if _, _, again := sr.Next(); again != err {
				return h, nil, errors.New("the first error does not stick")
			}
			return h, nil, err
		}
		records = append(records, record{typ, string(payload)})
	}
}

func TestRoundTrip(t *testing.T) {
	cases := map[string][]record{
		"no records":       nil,
		"an empty payload": {{1, ""}},
		"several":          {{1, "a"}, {255, "bb"}, {1, strings.Repeat("c", 1000)}},
		"beyond buffers":   {{1, strings.Repeat("x", 3*bufferSize+1)}, {2, "y"}},
		"the largest":      {{7, strings.Repeat("z", MaxRecord)}},
	}
	for name, want := range cases {
		t.Run(name, func(t *testing.T) {
			file := encode(t, testHeader, want...)
			for _, r := range []io.Reader{
				bytes.NewReader(file), iotest.HalfReader(bytes.NewReader(file)), iotest.DataErrReader(bytes.NewReader(file)),
			} {
				h, got, err := decode(r)
				if err != nil {
					t.Fatal(err)
				}
				if h != testHeader {
					t.Errorf("header %+v, want %+v", h, testHeader)
				}
				if len(got) != len(want) {
					t.Fatalf("%d records, want %d", len(got), len(want))
				}
				for i := range want {
					if got[i] != want[i] {
						t.Errorf("record %d differs", i)
					}
				}
			}
		})
	}
}

func small(t testing.TB) []byte {
	return encode(t, testHeader, record{1, "first"}, record{2, ""}, record{1, "third"})
}

func TestEveryBitFlipIsDetected(t *testing.T) {
	file := small(t)
	for i := range file {
		for bit := range 8 {
			bad := bytes.Clone(file)
			bad[i] ^= 1 << bit
			if _, _, err := decode(bytes.NewReader(bad)); !errors.Is(err, ErrCorrupt) {
				t.Errorf("bit %d of byte %d: error %v, want ErrCorrupt", bit, i, err)
			}
		}
	}
}

func TestEveryTruncationIsDetected(t *testing.T) {
	file := small(t)
	for n := range file {
		if _, _, err := decode(bytes.NewReader(file[:n])); !errors.Is(err, ErrCorrupt) {
			t.Errorf("first %d of %d bytes: error %v, want ErrCorrupt", n, len(file), err)
		}
	}
}

func TestLostDoubledAndMovedRecordsAreDetected(t *testing.T) {
	one, two := record{1, "a"}, record{1, "b"}
	size := recordHeadSize + 1
	file := encode(t, testHeader, one, two)
	head, r1, r2, foot := file[:40], file[40:40+size], file[40+size:40+2*size], file[40+2*size:]
	cases := map[string][][]byte{
		"lost":           {head, r1, foot},
		"doubled":        {head, r1, r2, r2, foot},
		"swapped":        {head, r2, r1, foot},
		"other's footer": {head, r1, r2, encode(t, Header{}, one, two)[40+2*size:]},
		"other's header": {encode(t, Header{})[:40], r1, r2, foot},
		"trailing byte":  {head, r1, r2, foot, {0}},
		"trailing file":  {file, file},
	}
	for name, parts := range cases {
		t.Run(name, func(t *testing.T) {
			if _, _, err := decode(bytes.NewReader(bytes.Join(parts, nil))); !errors.Is(err, ErrCorrupt) {
				t.Errorf("error %v, want ErrCorrupt", err)
			}
		})
	}
}

func TestErrorsNameTheOffset(t *testing.T) {
	file := small(t)
	file[headerSize+recordHeadSize+5+2] ^= 1 // inside the second record's head
	_, _, err := decode(bytes.NewReader(file))
	if err == nil || !strings.Contains(err.Error(), "at byte 53: ") {
		t.Errorf("error %v, want one at byte 53", err)
	}
}

func TestUnknownVersionIsRefusedByName(t *testing.T) {
	file := small(t)
	var h [headerSize]byte
	copy(h[:], file)
	binary.LittleEndian.PutUint16(h[8:], 9)
	binary.LittleEndian.PutUint32(h[20:], headerCRC(&h))
	copy(file, h[:])
	_, err := NewReader(bytes.NewReader(file))
	if !errors.Is(err, ErrVersion) || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "format version 9") {
		t.Errorf("error %v", err)
	}
}

func TestCheckRefusesAnothersState(t *testing.T) {
	want := Header{Kind: KindBuckets, Version: 3, Shard: 5}
	if err := testHeader.Check(want); err != nil {
		t.Errorf("its own state is refused: %v", err)
	}
	for _, h := range []Header{
		{Kind: KindCatalog, Version: 3, Shard: 5},
		{Kind: KindBuckets, Version: 4, Shard: 5},
		{Kind: KindBuckets, Version: 3, Shard: 6},
	} {
		if h.Check(want) == nil {
			t.Errorf("%+v passes for %+v", h, want)
		}
	}
}

func TestWriterRefusesWhatItCannotHold(t *testing.T) {
	for name, write := range map[string]func(*Writer) error{
		"footer's type": func(w *Writer) error { return w.Record(0, nil) },
		"too large":     func(w *Writer) error { return w.Record(1, make([]byte, MaxRecord+1)) },
	} {
		t.Run(name, func(t *testing.T) {
			w, err := NewWriter(io.Discard, testHeader)
			if err != nil {
				t.Fatal(err)
			}
			if write(w) == nil {
				t.Error("accepted")
			}
			if w.Close() == nil {
				t.Error("Close succeeds after a refused record")
			}
		})
	}
}

func TestRecordAfterCloseIsRefused(t *testing.T) {
	w, err := NewWriter(io.Discard, testHeader)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Record(1, nil) == nil || w.Close() == nil {
		t.Error("a closed writer accepts more")
	}
}

// failAfter fails once n bytes were written.
type failAfter struct{ n int }

var errDisk = errors.New("disk full")

func (f *failAfter) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, errDisk
	}
	return len(p), nil
}

func TestWriteErrorsReachClose(t *testing.T) {
	file := small(t)
	for n := range len(file) {
		w, err := NewWriter(&failAfter{n}, testHeader)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{"first", "", "third"} {
			_ = w.Record(1, []byte(p)) // sticks: Close tells
		}
		if err := w.Close(); !errors.Is(err, errDisk) {
			t.Fatalf("disk full after %d bytes: Close returns %v", n, err)
		}
	}
}

func TestReadErrorsAreNotCorruption(t *testing.T) {
	file := small(t)
	for n := range len(file) {
		r := io.MultiReader(bytes.NewReader(file[:n]), iotest.ErrReader(errDisk))
		if _, _, err := decode(r); !errors.Is(err, errDisk) || errors.Is(err, ErrCorrupt) {
			t.Fatalf("read error after %d bytes: %v", n, err)
		}
	}
}

func TestGarbageLengthDoesNotAllocate(t *testing.T) {
	file := encode(t, testHeader)[:headerSize]
	file = append(file, 1, 0xff, 0xff, 0xff, 0, 0, 0, 0)
	r, err := NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Next(); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("error %v, want ErrCorrupt", err)
	}
	if cap(r.buf) > 1<<20 {
		t.Errorf("a buffer of %d bytes for a file of %d", cap(r.buf), len(file))
	}
}

func BenchmarkWriter(b *testing.B) {
	payload := make([]byte, 128)
	w, err := NewWriter(io.Discard, testHeader)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(payload)))
	for b.Loop() {
		if err := w.Record(1, payload); err != nil {
			b.Fatal(err)
		}
	}
}
