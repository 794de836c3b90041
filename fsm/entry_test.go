package fsm

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// bodyEntry gives a body the header and checksum of a right entry.
func bodyEntry(kind uint8, body []byte) []byte {
	e := append(appendHeader(nil, kind), body...)
	sealHeader(e, 7)
	return e
}

func TestAnEntryThatCannotBeAppliedHaltsTheMachine(t *testing.T) {
	set := testSet("p", 1, 1, second, 5)
	batch := func(change func(b *api.Batch)) []byte {
		var b api.Batch
		b.Add(take("k", 1))
		change(&b)
		var w EntryWriter
		w.Add(&b, []*policy.Set{set})
		return w.Seal(7)
	}
	good := batch(func(*api.Batch) {})
	withByte := func(i int, v byte) []byte {
		e := bytes.Clone(good)
		e[i] = v
		sealHeader(e, 7)
		return e
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	notCanonical := api.AppendBytes([]byte{1}, append(bytes.Clone(set.Encoded), 0))
	for _, tt := range []struct {
		name  string
		entry []byte
		want  string
	}{
		{"empty", nil, "shorter"},
		{"a flipped bit", flipped, "checksum"},
		{"a newer version", withByte(0, 2), "version 2"},
		{"an unknown kind", withByte(1, 63), "unknown entry kind 63"},
		{"a catalog's kind", withByte(1, 64), "unknown entry kind 64"},
		{"no groups", bodyEntry(kindTakes, []byte{0}), "no groups"},
		{"more sets than bytes", bodyEntry(kindTakes, []byte{200, 1}), "malformed"},
		{"a set that is not canonical", bodyEntry(kindTakes, notCanonical), "canonical"},
		{"unknown flags", bodyEntry(kindTakes, []byte{0, 8}), "flags"},
		{"a set that is not in the table", bodyEntry(kindTakes, []byte{0, 0, 1, 0, 1, 3, 0, 0, 0}), "set 0 of 0"},
		{"a policy that is not in the group", batch(func(b *api.Batch) { b.Ops[1] = 1 }), "policy 1 of 1"},
		{"no operations", batch(func(b *api.Batch) { b.N = 0 }), "0 operations"},
		{"too many operations for the bytes", batch(func(b *api.Batch) { b.N = 9 }), "malformed"},
		{"an operation too few", batch(func(b *api.Batch) { b.Add(take("l", 1)); b.N = 1 }), "bytes follow"},
		{"an unknown operation", batch(func(b *api.Batch) { b.Ops[0] = 12 }), "unknown operation"},
		{"a session that acknowledges itself", batch(func(b *api.Batch) { b.Session = api.Session{Seq: 1, Acked: 1} }), "acknowledged"},
		{"a tick with a body", bodyEntry(kindTick, []byte{1}), "bytes follow"},
		{"ranges cut short", bodyEntry(kindOwn, []byte{1, 1, 0}), "fill"},
		{"a slot that does not exist", EncodeOwn(7, 1, []api.SlotRange{{From: 0, To: api.Slots, Shard: 1}}), "slots 0 to 4096"},
		{"a range that goes back", EncodeOwn(7, 1, []api.SlotRange{{From: 2, To: 1, Shard: 1}}), "slots 2 to 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			_, err := r.m.Apply(2, tt.entry)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
			if _, err := r.m.Apply(3, good); err == nil {
				t.Fatal("it applied another entry after that")
			}
			c := r.m.Capture()
			defer c.Release()
			if _, err := c.WriteTo(&bytes.Buffer{}); err == nil {
				t.Fatal("it wrote a snapshot after that")
			}
		})
	}
}

func TestAnIndexIsAppliedOnce(t *testing.T) {
	r := newRig(t)
	if _, err := r.m.Apply(1, EncodeTick(0)); err == nil {
		t.Fatal("index 1 was applied twice")
	}
}

func TestTheEntryWriterKeepsEqualSetsOnce(t *testing.T) {
	var w EntryWriter
	for range 2 { // the second time with its memory reused
		w.Reset()
		var b api.Batch
		b.Add(take("k", 1))
		w.Add(&b, []*policy.Set{testSet("p", 1, 1, second, 5)})
		one := w.Size()
		w.Add(&b, []*policy.Set{testSet("p", 1, 1, second, 5)})
		if grown := w.Size() - one; grown > 16 {
			t.Fatalf("an equal set and an operation took %d bytes", grown)
		}
		if w.Ops() != 2 {
			t.Fatalf("%d operations, want 2", w.Ops())
		}
		e := w.Seal(42)
		if n := w.Size() - len(e); n < 0 || n > 3 {
			t.Fatalf("Size is %d, the entry has %d bytes", w.Size(), len(e))
		}
		if stamp, ok := EntryStamp(e); !ok || stamp != 42 {
			t.Fatalf("stamp %d, %v", stamp, ok)
		}
		keep := bytes.Clone(e)
		w.Reset()
		w.Add(&b, []*policy.Set{testSet("other", 1, 1, second, 5)})
		w.Seal(43)
		if !bytes.Equal(e, keep) {
			t.Fatal("a sealed entry changed")
		}
	}
	if _, ok := EntryStamp([]byte("short")); ok {
		t.Fatal("five bytes have a stamp")
	}
}

// TestNumbersOutOfBoundsFailTheOperationOnly: whatever decodes must not stop a
// replica.
func TestNumbersOutOfBoundsFailTheOperationOnly(t *testing.T) {
	r := newRig(t)
	many := make([]int64, 0, 3*17)
	for range 17 {
		many = append(many, 1, second, 1)
	}
	gcra := testSet("p", 1, 1, second, 1).SetInfo
	gcra.Limits[0].Algorithm = 9
	twice := testSet("p", 1, 1, second, 1, 1, second, 1).SetInfo
	twice.Limits[1].Name = "a"
	for name, s := range map[string]*policy.Set{
		"rate 0":          testSet("p", 1, 0, second, 1),
		"rate too high":   testSet("p", 1, maxRate+1, second, 1),
		"per 0":           testSet("p", 1, 1, 0, 1),
		"per too short":   testSet("p", 1, 1, minPer-1, 1),
		"per too long":    testSet("p", 1, 1, maxPer+1, 1),
		"burst 0":         testSet("p", 1, 1, second, 0),
		"burst too high":  testSet("p", 1, 1, second, 1<<62),
		"17 limits":       testSet("p", 1, many...),
		"other algorithm": policy.NewSet(gcra),
		"one name twice":  policy.NewSet(twice),
	} {
		if res := r.one(0, s, take("k", 1)); res.Code != api.InvalidRequest {
			t.Errorf("%s: %+v", name, res)
		}
	}
	good := testSet("p", 1, 1, second, 5)
	for name, op := range map[string]api.Op{
		"cost 0":          take("k", 0),
		"cost too high":   take("k", 1<<40),
		"no key":          take("", 1),
		"key too long":    take(strings.Repeat("k", 513), 1),
		"id too long":     {Kind: api.Take, Key: "k", Cost: 1, RequestID: strings.Repeat("i", 65)},
		"an id on a peek": {Kind: api.Peek, Key: "k", RequestID: "i"},
	} {
		if res := r.one(0, good, op); res.Code != api.InvalidRequest {
			t.Errorf("%s: %+v", name, res)
		}
	}
	if n := r.m.Stats().Buckets; n != 0 {
		t.Fatalf("%d buckets were made", n)
	}
}
