package fsm

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// load is a machine with keys buckets, and entries of ops takes on them that
// can be applied again and again.
type load struct {
	*rig
	entries [][]byte
	ops     int
}

func newLoad(t failer, keys, ops, entries int) *load {
	l := &load{rig: newRig(t), ops: ops}
	set := []*policy.Set{testSet("api", 1, 100, second, 1_000_000)}
	name := func(i int) string { return fmt.Sprintf("user:%08d", i) }
	for i := 0; i < keys; {
		var b api.Batch
		for range min(api.MaxBatch, keys-i) {
			b.Add(take(name(i), 1000))
			i++
		}
		l.w.Reset()
		l.w.Add(&b, set)
		l.apply(l.w.Seal(0))
	}
	seed := uint64(1)
	for range entries {
		l.w.Reset()
		const perCaller = 100
		for left := ops; left > 0; left -= perCaller {
			var b api.Batch
			for range min(left, perCaller) {
				seed = seed*6364136223846793005 + 1442695040888963407
				b.Add(take(name(int(seed>>33)%keys), 1))
			}
			l.w.Add(&b, set)
		}
		l.entries = append(l.entries, l.w.Seal(1))
	}
	return l
}

// TestATakeAllocatesNothing applies entries of very different sizes: what an
// entry allocates must not grow with its operations.
func TestATakeAllocatesNothing(t *testing.T) {
	allocs := func(ops int) float64 {
		l := newLoad(t, 1000, ops, 1)
		return testing.AllocsPerRun(50, func() { l.apply(l.entries[0]) })
	}
	few, many := allocs(10), allocs(100)
	if few != many || few > 4 {
		t.Fatalf("an entry of 10 takes allocates %v times, one of 100 %v times; want the same, at most 4", few, many)
	}
	// Many callers' groups cost no more: their replies share one buffer.
	if groups := allocs(10_000); groups > few+1 {
		t.Fatalf("an entry of 100 groups allocates %v times, one of 1 group %v times", groups, few)
	}
}

// TestABucketIsLean measures the memory of a bucket with one limit.
func TestABucketIsLean(t *testing.T) {
	const keys = 200_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	l := newLoad(t, keys, 1, 0)
	each := float64(heap()-before)/keys - float64(len("user:00000000"))
	t.Logf("%.1f bytes a bucket beside its key", each)
	if each > 64 {
		t.Fatalf("a bucket takes %.1f bytes beside its key, want at most 64", each)
	}
	runtime.KeepAlive(l)
}

func BenchmarkApply(b *testing.B) {
	for _, keys := range []int{100_000, 1_000_000} {
		for _, ops := range []int{1, 100, 1000, 5000} {
			b.Run(fmt.Sprintf("keys=%d/ops=%d", keys, ops), func(b *testing.B) {
				l := newLoad(b, keys, ops, 1+100_000/ops)
				b.ReportAllocs()
				b.ResetTimer()
				for i := range b.N {
					l.apply(l.entries[i%len(l.entries)])
				}
				b.ReportMetric(float64(b.N)*float64(ops)/b.Elapsed().Seconds(), "takes/s")
			})
		}
	}
}

// BenchmarkApplyKinds applies entries of 1,000 operations on as many keys, of one kind
// each: what the algorithms, waits and holds cost beside a plain take. A pair is a hold
// that is made and ended, in two entries.
func BenchmarkApplyKinds(b *testing.B) {
	const ops, hour = 1000, 3600 * int64(second)
	limit := func(algorithm uint8) api.LimitInfo {
		return api.LimitInfo{Name: fmt.Sprintf("l%d", algorithm), Algorithm: algorithm, Rate: 1e9, Per: hour, Burst: 1e9}
	}
	token, fixed, sliding := limit(api.TokenBucket), limit(api.FixedWindow), limit(api.SlidingWindow)
	plain := limitSet(token)
	leased := plain.SetInfo
	leased.Mode, leased.LeaseTTL = api.Leased, 5000
	key := func(i int) string { return fmt.Sprintf("user:%08d", i) }
	id := func(n, i int) api.HoldID {
		return api.NewHoldID(key(i), [14]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(i), byte(i >> 8)})
	}
	takes := func(_, i int) api.Op { return take(key(i), 1) }
	hold := func(kind api.Kind) func(n, i int) api.Op {
		return func(n, i int) api.Op {
			return api.Op{Kind: kind, Key: key(i), Cost: 1, Hold: &api.Hold{ID: id(n, i), TTL: 5000}}
		}
	}
	end := func(kind api.Kind) func(n, i int) api.Op {
		return func(n, i int) api.Op { return api.Op{Kind: kind, Cost: 1, Hold: &api.Hold{ID: id(n, i)}} }
	}
	for _, kind := range []struct {
		name string
		set  *policy.Set
		ops  []func(n, i int) api.Op // an entry each; n is a number of the round
	}{
		{"take of a token bucket", plain, []func(n, i int) api.Op{takes}},
		{"take of a fixed window", limitSet(fixed), []func(n, i int) api.Op{takes}},
		{"take of a sliding window", limitSet(sliding), []func(n, i int) api.Op{takes}},
		{"take of all three", limitSet(token, fixed, sliding), []func(n, i int) api.Op{takes}},
		{"take that may wait", plain, []func(n, i int) api.Op{func(_, i int) api.Op {
			op := take(key(i), 1)
			op.MaxWait = 1000
			return op
		}}},
		{"pair of a reservation", plain, []func(n, i int) api.Op{hold(api.Reserve), end(api.Settle)}},
		{"pair of a permit", limitSet(api.LimitInfo{Name: "c", Algorithm: api.Concurrency, Burst: 10}), []func(n, i int) api.Op{hold(api.Acquire), end(api.Release)}},
		{"pair of a lease", policy.NewSet(leased), []func(n, i int) api.Op{func(n, i int) api.Op {
			op := hold(api.Lease)(n, i)
			op.Hold.Need = 1
			return op
		}, end(api.Settle)}},
		{"sync of a soft bucket", plain, []func(n, i int) api.Op{func(_, i int) api.Op {
			return api.Op{Kind: api.Sync, Key: key(i), Cost: 1, Instance: 1}
		}}},
	} {
		b.Run(kind.name, func(b *testing.B) {
			r := newRig(b)
			round := func(n int, apply func(entry []byte) [][]byte) (replies [][]byte) {
				for _, op := range kind.ops {
					var batch api.Batch
					for i := range ops {
						batch.Add(op(n, i))
					}
					r.w.Reset()
					r.w.Add(&batch, []*policy.Set{kind.set})
					replies = append(replies, apply(r.w.Seal(1))...)
				}
				return replies
			}
			for _, reply := range round(0, r.apply) {
				results, _ := decodeReply(b, reply)
				for i := range results {
					if s := results[i].Status; s == api.StatusDenied || s == api.StatusError {
						b.Fatalf("operation %d is %v: %v", i, s, results[i].Code)
					}
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for n := range b.N {
				b.StopTimer()
				round(1+n, func(entry []byte) [][]byte {
					b.StartTimer()
					defer b.StopTimer()
					return r.apply(entry)
				})
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*ops), "ns/op-or-pair")
		})
	}
}

func BenchmarkTokenBucketTake(b *testing.B) {
	s, err := newSet(string(testSet("p", 1, 100, second, 200).Encoded))
	if err != nil {
		b.Fatal(err)
	}
	var u bucket
	u.fresh(s, moment{})
	res := api.Result{Limits: make([]api.LimitValues, 0, 1)}
	for i := range b.N {
		u.advance(moment{now: uint64(i) * 10_000_000})
		if !u.passes(1) {
			b.Fatal("denied")
		}
		u.charge(1, 0)
		u.describe(&res, 0)
	}
}

func BenchmarkEntryWriter(b *testing.B) {
	set := []*policy.Set{testSet("api", 1, 100, second, 200)}
	var batch api.Batch
	for i := range 100 {
		batch.Add(take(fmt.Sprintf("user:%08d", i), 1))
	}
	var w EntryWriter
	b.ReportAllocs()
	for range b.N {
		w.Reset()
		for range 10 {
			w.Add(&batch, set)
		}
		w.Seal(1)
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "takes/s")
}

func BenchmarkSnapshot(b *testing.B) {
	for _, keys := range []int{1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) { benchmarkSnapshot(b, keys) })
	}
}

func benchmarkSnapshot(b *testing.B, keys int) {
	const ops = 5000 // about what one entry holds at most
	l := newLoad(b, keys, ops, 40)
	b.Run("capture", func(b *testing.B) {
		for range b.N {
			l.m.Capture().Release()
		}
	})
	// The first entries after a capture copy the pages they change.
	for _, capture := range []bool{false, true} {
		b.Run(fmt.Sprintf("apply/captured=%v", capture), func(b *testing.B) {
			var spent, worst time.Duration
			for i := range b.N {
				var c *Capture
				if capture {
					c = l.m.Capture()
				}
				start := time.Now()
				l.apply(l.entries[i%len(l.entries)])
				took := time.Since(start)
				spent, worst = spent+took, max(worst, took)
				if c != nil {
					c.Release()
				}
			}
			b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "µs/entry")
			b.ReportMetric(float64(worst.Microseconds()), "µs/worst")
		})
	}
	b.Run("write", func(b *testing.B) {
		for range b.N {
			c := l.m.Capture()
			if _, err := c.WriteTo(io.Discard); err != nil {
				b.Fatal(err)
			}
			c.Release()
		}
		b.ReportMetric(float64(b.N)*float64(keys)/b.Elapsed().Seconds(), "buckets/s")
	})
	b.Run("restore", func(b *testing.B) {
		file := takeSnapshot(b, l.m)
		b.ResetTimer()
		for range b.N {
			if err := NewBuckets(testShard).Restore(bytes.NewReader(file)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)*float64(keys)/b.Elapsed().Seconds(), "buckets/s")
	})
}
