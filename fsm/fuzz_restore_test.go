package fsm

import (
	"bytes"
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
	f.Add(uint64(2e9), packFile(f, takeSnapshot(f, r.m)))
	slots := holdSet("c", 1, 10, 3)
	for i := range byte(3) {
		r.one(3e9, slots, acquire("k", i, 1000))
		r.one(3e9, set, reserve("k", 10+i, 1, 1000))
	}
	r.one(3e9, set, lease("k", 20, 2, 1, 1000))
	r.one(3e9, set, lease("l", 21, 2, 1, 1000))
	r.one(3e9, set, onHold(api.Settle, "k", 10, 3))
	r.one(3e9, set, onHold(api.Release, "k", 0, 0))
	f.Add(uint64(3e9), packFile(f, takeSnapshot(f, r.m)))
	f.Add(uint64(0), packFile(f, takeSnapshot(f, NewBuckets(testShard))))

	var in fileReader
	f.Fuzz(func(t *testing.T, stamp uint64, packed []byte) {
		m := NewBuckets(testShard)
		if err := m.Restore(in.of(unpackFile(t, snapshot.Header{
			Kind: snapshot.KindBuckets, Version: contentVersion, Shard: testShard, Index: fuzzIndex, TimeNS: stamp,
		}, packed))); err != nil {
			return
		}
		once := takeSnapshot(t, m)
		again := NewBuckets(testShard)
		if err := again.Restore(in.of(once)); err != nil {
			t.Fatalf("what was written can't be restored: %v", err)
		}
		if !bytes.Equal(takeSnapshot(t, again), once) {
			t.Fatal("a restored machine is written otherwise")
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
