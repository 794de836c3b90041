package bench

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// latencies gathers durations from several goroutines.
type latencies struct {
	mu  sync.Mutex // guards all
	all []time.Duration
}

// add takes over one goroutine's durations.
func (l *latencies) add(d []time.Duration) {
	l.mu.Lock()
	l.all = append(l.all, d...)
	l.mu.Unlock()
}

// report prints the percentiles of one call, and decisions a second, each call
// having made perCall of them.
func (l *latencies) report(b *testing.B, perCall int) {
	if len(l.all) == 0 {
		b.Fatal("nothing was measured")
	}
	slices.Sort(l.all)
	at := func(p float64) float64 {
		return float64(l.all[min(len(l.all)-1, int(p*float64(len(l.all))))].Microseconds())
	}
	b.ReportMetric(at(0.50), "p50-µs")
	b.ReportMetric(at(0.99), "p99-µs")
	b.ReportMetric(float64(len(l.all)*perCall)/b.Elapsed().Seconds(), "decisions/s")
	b.ReportMetric(0, "ns/op") // one call; the percentiles tell more
}

// drive makes calls, b.N in all, from several goroutines.
func drive(b *testing.B, goroutines, perCall int, call func(worker, i int) error) {
	var l latencies
	var wg sync.WaitGroup
	next := make(chan int, 1024)
	var before written
	if cluster.urls != nil {
		before = readWritten(b)
	}
	b.ResetTimer()
	for w := range goroutines {
		wg.Go(func() {
			var mine []time.Duration
			defer func() { l.add(mine) }()
			for i := range next {
				start := time.Now()
				if err := call(w, i); err != nil {
					b.Error(err)
					return
				}
				mine = append(mine, time.Since(start))
			}
		})
	}
	for i := range b.N {
		next <- i
	}
	close(next)
	wg.Wait()
	b.StopTimer()
	l.report(b, perCall)
	if cluster.urls != nil {
		readWritten(b).report(b, before)
	}
}
