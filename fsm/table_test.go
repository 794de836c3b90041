package fsm

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

func TestTheIndexIsAMap(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, spread := range []uint32{1, 1 << 8, 1 << 24} { // tags in few homes, and in many
		var x index
		have := map[uint64]bool{} // tag<<32 | value
		for step := range 20_000 {
			// It grows in the first half and shrinks in the second.
			tag := rnd.Uint32N(256) * spread
			value := rnd.Uint32N(100)
			k := uint64(tag)<<32 | uint64(value)
			switch grow := step < 10_000; {
			case !have[k] && grow:
				x.add(tag, value)
				have[k] = true
			case have[k] && (!grow || rnd.IntN(3) == 0):
				x.remove(tag, value)
				delete(have, k)
			}
			if (x.find(tag, value) >= 0) != have[k] {
				t.Fatalf("step %d: tag %d value %d: found %v, want %v", step, tag, value, !have[k], have[k])
			}
			if step%100 != 0 {
				continue
			}
			lo, hi := rnd.Uint32N(256)*spread, rnd.Uint32N(256)*spread
			if lo > hi {
				lo, hi = hi, lo
			}
			var want []uint64
			for k := range maps.Keys(have) {
				if uint32(k>>32) >= lo && uint32(k>>32) <= hi {
					want = append(want, k+1)
				}
			}
			got := x.appendRange(nil, lo, hi)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("step %d: range %d to %d has %d entries, want %d", step, lo, hi, len(got), len(want))
			}
		}
		if x.n != len(have) {
			t.Fatalf("it counts %d of %d", x.n, len(have))
		}
		if len(x.slots) > 8*max(x.n, minIndex) {
			t.Fatalf("%d slots for %d entries", len(x.slots), x.n)
		}
	}
}

// TestGarbageIsCompacted makes buckets come and go, and change their size, in
// a number that stays the same.
func TestGarbageIsCompacted(t *testing.T) {
	r := newRig(t)
	one, two := testSet("p", 1, 1, second, 5), testSet("p", 1, 1, second, 5, 1, second, 5)
	const keys = 20_000
	for round := range 12 {
		for i := 0; i < keys; i += 1000 {
			var b api.Batch
			for k := range 1000 {
				b.Add(take(fmt.Sprint(round, "/", i+k), 1))
				if round > 0 {
					b.Add(api.Op{Kind: api.Reset, Key: fmt.Sprint(round-1, "/", i+k)})
				}
			}
			r.do(0, &b, one)
			var grow api.Batch
			for k := range 1000 {
				grow.Add(take(fmt.Sprint(round, "/", i+k), 1))
			}
			r.do(0, &grow, two)
		}
	}
	if n := r.m.Stats().Buckets; n != keys {
		t.Fatalf("%d buckets, want %d", n, keys)
	}
	live := keys * recordSize(len("11/19999"), 2)
	pages := 0
	for i := range r.m.table.stripes {
		pages += len(r.m.table.stripes[i].pages)
	}
	// A quarter of garbage, and in each stripe a page of it and a page half filled.
	if most := live*4/3 + stripes*2*pageSize; pages*pageSize > most {
		t.Fatalf("%d bytes of pages for %d bytes of records, want at most %d", pages*pageSize, live, most)
	}
	for i := range keys {
		if res := r.one(0, two, api.Op{Kind: api.Peek, Key: fmt.Sprint(11, "/", i)}); res.Limits[0].Remaining != 3 || res.Limits[1].Remaining != 4 {
			t.Fatalf("bucket %d has %+v left", i, res.Limits)
		}
	}
}

// TestAnImpossibleBucketStartsAfresh writes what cannot be into records.
func TestAnImpossibleBucketStartsAfresh(t *testing.T) {
	set := testSet("p", 1, 1, second, 5)
	const key = "k"
	levels := recordHead + len(key)
	put32, put64 := binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	for _, tt := range []struct {
		name   string
		damage func(r []byte)
		want   ResetReason
	}{
		{"a set that is not there", func(r []byte) { put32(r, 99) }, ResetBadSet},
		{"a number of limits that is not the set's", func(r []byte) { r[14] = 2 }, ResetBadSet},
		{"a stamp ahead of the log", func(r []byte) { put64(r[4:], 1<<40) }, ResetFutureStamp},
		{"more tokens than the burst", func(r []byte) { put32(r[levels:], 6) }, ResetBadTokens},
		{"an impossible debt", func(r []byte) { put32(r[levels:], 1<<31) }, ResetBadTokens},
		{"a whole token in the fraction", func(r []byte) { put64(r[levels+4:], second) }, ResetBadFraction},
		{"a fraction above a full bucket", func(r []byte) { put32(r[levels:], 5); put64(r[levels+4:], 1) }, ResetBadFraction},
	} {
		for _, found := range []string{"by a take", "by a tick", "by a stale peek"} {
			t.Run(tt.name+" found "+found, func(t *testing.T) {
				r := newRig(t)
				r.one(1, set, take(key, 3))
				for i := range r.m.table.stripes {
					if s := &r.m.table.stripes[i]; len(s.pages) > 0 {
						tt.damage(s.pages[0].buf[:])
					}
				}
				c := r.m.Capture()
				if err := c.records(func(uint8, []byte) error { return nil }); err == nil {
					t.Fatal("a snapshot hides it")
				}
				c.Release()
				want := tt.want
				switch found {
				case "by a take":
					if res := r.one(1, set, take(key, 5)); res.Status != api.StatusAllowed {
						t.Fatalf("got %+v", res)
					}
				case "by a tick":
					r.apply(EncodeTick(1))
				case "by a stale peek":
					want = ResetNone // it only reads
					res, _ := decodeReply(t, r.m.PeekStale(api.Op{Kind: api.Peek, Key: key}, set))
					if res[0].Limits[0].Remaining != 5 {
						t.Fatalf("got %+v", res[0])
					}
				}
				resets := [ResetReasons]uint64{}
				if want != ResetNone {
					resets[want] = 1
				}
				if st := r.m.Stats(); st.Resets != resets {
					t.Fatalf("resets %v, want one for %v", st.Resets, want)
				}
			})
		}
	}
}

// TestADamagedMemoryOfARequestIDChargesNothing: what a repetition finds is its first
// answer, or that there is none any more; never a second charge.
func TestADamagedMemoryOfARequestIDChargesNothing(t *testing.T) {
	set := testSet("p", 1, 1, second, 5)
	op := api.Op{Kind: api.Take, Key: "k", Cost: 2, RequestID: "id"}
	const fields = dedupHead + 1 + len("id") // status, the limit that binds, how many
	for name, damage := range map[string]func(rec []byte){
		"a set that is not there":   func(rec []byte) { binary.LittleEndian.PutUint32(rec, 99) },
		"another number of limits":  func(rec []byte) { rec[fields+2] = 0 },
		"more limits than it holds": func(rec []byte) { rec[fields+2] = 200 },
		"a limit that is not there": func(rec []byte) { rec[fields+1] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.one(1, set, op)
			damage(r.m.dedup.chunks[0])
			if res := r.one(1, set, op); res.Status != api.StatusError || res.Code != api.Internal {
				t.Errorf("got %+v", res)
			}
			if res := r.one(1, set, api.Op{Kind: api.Peek, Key: "k"}); res.Limits[0].Remaining != 3 {
				t.Errorf("%d tokens are left, want 3", res.Limits[0].Remaining)
			}
		})
	}
}
