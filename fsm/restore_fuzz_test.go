package fsm

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
	"github.com/rlstore/rlstore/snapshot"
)

// A snapshot whose checksums are right may still hold records that no machine
// wrote. Restore takes it whole or not at all, never panics, and what it takes is
// a state: it applies entries, and writes a snapshot that restores to itself.
func FuzzRestore(f *testing.F) {
	r := newRig(f)
	set := policy.NewSet(api.SetInfo{Policy: "p", Revision: 3, Limits: []api.LimitInfo{{Name: "l", Rate: 1, Per: 1e9, Burst: 10}}})
	b := &api.Batch{}
	b.Add(api.Op{Kind: api.Take, Policy: b.Ref("p"), Cost: 3, Key: "k", RequestID: "id"})
	r.do(1e9, b, set)
	b.Session = api.Session{ID: [16]byte{1}, Seq: 1}
	r.do(2e9, b, set)
	f.Add(uint64(2e9), pack(f, r.m))
	f.Add(uint64(0), pack(f, NewBuckets(testShard)))

	f.Fuzz(func(t *testing.T, stamp uint64, packed []byte) {
		m := NewBuckets(testShard)
		if err := m.Restore(bytes.NewReader(unpack(t, stamp, packed))); err != nil {
			return
		}
		var out bytes.Buffer
		c := m.Capture()
		_, err := c.WriteTo(&out)
		c.Release()
		if err != nil {
			t.Fatalf("a state that was accepted can't be written: %v", err)
		}
		again := NewBuckets(testShard)
		if err := again.Restore(bytes.NewReader(out.Bytes())); err != nil {
			t.Fatalf("what was written can't be restored: %v", err)
		}
		var w EntryWriter
		w.Add(&api.Batch{N: b.N, Ops: b.Ops}, []*policy.Set{set})
		entry := w.Seal(min(stamp, math.MaxUint64-2e9) + 1e9)
		one, err1 := m.Apply(fuzzIndex+1, entry)
		two, err2 := again.Apply(fuzzIndex+1, entry)
		if err1 != nil || err2 != nil {
			t.Fatalf("an entry after the restore: %v, %v", err1, err2)
		}
		if !bytes.Equal(one.Replies[0], two.Replies[0]) {
			t.Fatalf("the machines differ: %x and %x", one.Replies[0], two.Replies[0])
		}
	})
}

const fuzzIndex = 100 // of every unpacked snapshot

// pack writes a machine's records in a row: type, u32 length, bytes.
func pack(t failer, m *Buckets) []byte {
	var file bytes.Buffer
	c := m.Capture()
	defer c.Release()
	if _, err := c.WriteTo(&file); err != nil {
		t.Fatal(err)
	}
	r, err := snapshot.NewReader(&file)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for {
		typ, payload, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, typ)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(payload)))
		out = append(out, payload...)
	}
}

// unpack makes a file with right checksums of whatever records packed spells.
func unpack(t failer, stamp uint64, packed []byte) []byte {
	var file bytes.Buffer
	w, err := snapshot.NewWriter(&file, snapshot.Header{
		Kind: snapshot.KindBuckets, Version: contentVersion, Shard: testShard, Index: fuzzIndex, TimeNS: stamp,
	})
	if err != nil {
		t.Fatal(err)
	}
	for len(packed) >= 5 {
		typ, n := packed[0], int(min(binary.LittleEndian.Uint32(packed[1:]), uint32(len(packed)-5)))
		if typ == 0 {
			typ = 1 // 0 is the file's own
		}
		if err := w.Record(typ, packed[5:5+n]); err != nil {
			t.Fatal(err)
		}
		packed = packed[5+n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}
