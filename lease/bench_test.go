package lease

import (
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/rlstore/rlstore/api"
)

// endless is an entry with a lease that does not end while a benchmark runs.
func endless(tb testing.TB, set api.SetInfo) (*Table, *Entry) {
	var asks []*Ask
	t := NewTable(Config{
		Random: rand.Uint64, Wake: func(int64) {},
		Send: func(a *Ask) { asks = append(asks, a) },
	})
	e := t.Put(1, "p", "k", &set, nil)
	if set.Mode == api.Soft {
		return t, e
	}
	for e.Take(2, 1).Verdict != Wait {
	}
	for _, a := range asks {
		a.Result(0, &set, &api.Result{
			Status: api.StatusLeased, Limits: make([]api.LimitValues, len(set.Limits)),
			Hold: &api.HoldOutcome{Granted: 1 << 50},
		})
		a.End(3, nil)
	}
	if e.Take(4, 1).Verdict != Allowed {
		tb.Fatal("there is no lease")
	}
	return t, e
}

// benchTake looks a key up and spends, as the client does for every take.
func benchTake(b *testing.B, set api.SetInfo) {
	t, _ := endless(b, set)
	start := time.Now()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if t.Get("p", "k").Take(int64(time.Since(start))+4, 1).Verdict != Allowed {
				b.Fatal("denied")
			}
		}
	})
}

func BenchmarkLeased(b *testing.B) {
	set := leasedSet(1e9, 1<<31-1)
	set.LeaseTTL = 3600_000
	benchTake(b, set)
}

func BenchmarkSoft(b *testing.B) { benchTake(b, softSet(1<<31-1, 1<<31-1)) }

func BenchmarkDenied(b *testing.B) {
	set := softSet(1, 1)
	set.Limits[0].Per = 3600 * second
	t, e := endless(b, set)
	start := time.Now()
	e.Take(4, 1)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if t.Get("p", "k").Take(int64(time.Since(start))+4, 1).Verdict != Denied {
				b.Fatal("allowed")
			}
		}
	})
}

// BenchmarkRateLimiter is golang.org/x/time/rate, which counts in one process.
func BenchmarkRateLimiter(b *testing.B) {
	l := rate.NewLimiter(1e9, 1<<31-1)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if !l.AllowN(time.Now(), 1) {
				b.Fatal("denied")
			}
		}
	})
}
