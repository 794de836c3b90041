package fsm

import (
	"bufio"
	"bytes"
	"io"
	"testing"

	"github.com/rlstore/rlstore/api"
)

// Entries come from the log, and into the log only from EntryWriter. The fuzzer
// gives kinds and bodies, and the targets put the right header before them:
// whatever is in there, no replica panics, all replicas agree, and a replica
// that has halted stays halted.

// FuzzEntry applies a body twice, at two stamps, to two fresh machines, one of
// which goes through a snapshot in between.
func FuzzEntry(f *testing.F) {
	log := newLogMaker(1, 5)
	for range 30 {
		e := log.entry()
		f.Add(e[1], uint64(second), e[entryHeaderSize:])
	}
	own := EncodeOwn(0, 1, []api.SlotRange{{From: 0, To: api.Slots - 1, Shard: testShard}})
	var in fileReader
	f.Fuzz(func(t *testing.T, kind uint8, later uint64, body []byte) {
		one, two := NewBuckets(testShard), NewBuckets(testShard)
		agree(t, one, two, 1, own)
		e := append(appendHeader(make([]byte, 0, entryHeaderSize+len(body)), kind), body...)
		sealHeader(e, 7)
		if !agree(t, one, two, 2, e) {
			return
		}
		file := takeSnapshot(t, one)
		two = NewBuckets(testShard)
		if err := two.Restore(in.of(file)); err != nil {
			t.Fatalf("its own snapshot does not restore: %v", err)
		}
		sealHeader(e, later)
		if agree(t, one, two, 3, e) && later%8 == 0 && !bytes.Equal(takeSnapshot(t, one), takeSnapshot(t, two)) {
			t.Fatal("a machine that was restored differs from one that was not")
		}
	})
}

// agree applies an entry to two machines in the same state. It tells whether
// they took it; if not, it checks that they have halted for good.
func agree(t *testing.T, one, two *Buckets, index uint64, entry []byte) bool {
	t.Helper()
	a, err := one.Apply(index, entry)
	b, err2 := two.Apply(index, entry)
	if err != nil || err2 != nil {
		if err == nil || err2 == nil || err.Error() != err2.Error() {
			t.Fatalf("one machine says %v, the other %v", err, err2)
		}
		if _, again := one.Apply(index+1, EncodeTick(0)); again == nil {
			t.Fatalf("it applied an entry after %v", err)
		}
		c := one.Capture()
		defer c.Release()
		if _, again := c.WriteTo(nil); again == nil {
			t.Fatalf("it wrote a snapshot after %v", err)
		}
		return false
	}
	if len(a.Replies) != len(b.Replies) {
		t.Fatalf("%d replies, and %d", len(a.Replies), len(b.Replies))
	}
	for i, reply := range a.Replies {
		if !bytes.Equal(reply, b.Replies[i]) {
			t.Fatalf("the machines differ: %x and %x", reply, b.Replies[i])
		}
		decodes(t, reply)
	}
	return true
}

// decodes checks that a reply can be read to its end.
func decodes(t failer, b []byte) {
	t.Helper()
	reply, err := api.DecodeReply(b)
	if err != nil {
		t.Fatal(err)
	}
	var res api.Result
	for more := true; more; {
		if more, err = reply.Next(&res); err != nil {
			t.Fatal(err)
		}
	}
}

// fileReader reads one snapshot after the other through the same memory, which a
// snapshot.Reader takes for its own buffer: else that is most of the work.
type fileReader struct{ buf *bufio.Reader }

func (r *fileReader) of(file []byte) io.Reader {
	if r.buf == nil {
		r.buf = bufio.NewReaderSize(nil, 256<<10)
	}
	r.buf.Reset(bytes.NewReader(file))
	return r.buf
}

// FuzzHeader: whatever has a right header has the stamp that EntryStamp reads
// before anything is checked.
func FuzzHeader(f *testing.F) {
	f.Add(EncodeTick(7))
	f.Add(newLogMaker(1, 5).entry())
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, entry []byte) {
		early, ok := EntryStamp(entry)
		if _, _, _, err := openHeader(entry); err == nil && !ok {
			t.Fatal("an entry without a stamp is accepted")
		}
		if len(entry) < entryHeaderSize {
			return
		}
		entry = bytes.Clone(entry)
		sealHeader(entry, early)
		kind, stamp, body, err := openHeader(entry)
		if err != nil {
			return
		}
		if !ok || stamp != early || kind != entry[1] || len(body) != len(entry)-entryHeaderSize {
			t.Fatalf("kind %d, stamp %d and %d, %d bytes of %d", kind, early, stamp, len(body), len(entry))
		}
	})
}
