package load

import (
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/rlstore/rlstore/client"
)

// Histograms count microseconds, to three digits; what lasts longer than
// maxLatency counts as that.
const (
	maxLatency = time.Hour
	digits     = 3
)

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, maxLatency.Microseconds(), digits)
}

// tally counts takes by what became of them.
type tally struct {
	allowed, denied     int64
	notApplied, unknown int64
	last                error // of the takes that were not decided
}

// count adds one take. It returns an error that all takes would get.
func (n *tally) count(allowed bool, err error) error {
	switch {
	case err == nil && allowed:
		n.allowed++
	case err == nil:
		n.denied++
	case errors.Is(err, client.ErrOutcomeUnknown):
		n.unknown++
		n.last = err
	case errors.Is(err, client.ErrUnavailable):
		n.notApplied++
		n.last = err
	default:
		n.notApplied++
		return err
	}
	return nil
}

func (n *tally) add(m *tally) {
	n.allowed += m.allowed
	n.denied += m.denied
	n.notApplied += m.notApplied
	n.unknown += m.unknown
	if m.last != nil {
		n.last = m.last
	}
}

// decided is the takes that were answered.
func (n *tally) decided() int64 { return n.allowed + n.denied }

// part is what some of the callers recorded.
type part struct {
	mu      sync.Mutex // guards what follows
	n       tally
	latency *hdrhistogram.Histogram
}

// add records one call.
func (p *part) add(n *tally, latency time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n.add(n)
	if n.decided() > 0 {
		// Within the histogram's range, so it can't fail.
		_ = p.latency.RecordValue(min(latency, maxLatency).Microseconds())
	}
}

// recorder gathers what all callers of a phase record, in a few parts so that they
// rarely wait for each other.
type recorder struct {
	parts []*part

	mu      sync.Mutex
	refused error // the first error that ends the run
}

func newRecorder() *recorder {
	r := &recorder{}
	for range 4 * runtime.GOMAXPROCS(0) {
		r.parts = append(r.parts, &part{latency: newHistogram()})
	}
	return r
}

// part is the one of the i-th caller.
func (r *recorder) part(i int) *part { return r.parts[i%len(r.parts)] }

func (r *recorder) refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused == nil {
		r.refused = err
	}
}

// fatal is the error that ended the run, if one did.
func (r *recorder) fatal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

// sum adds the parts up.
func (r *recorder) sum() (n tally, latency *hdrhistogram.Histogram) {
	latency = newHistogram()
	for _, p := range r.parts {
		p.mu.Lock()
		n.add(&p.n)
		latency.Merge(p.latency)
		p.mu.Unlock()
	}
	return n, latency
}

var errNothing = errors.New("no take was made: it was ended before the first")

// lastError is why the last take that failed did.
func (r *recorder) lastError() error {
	if n, _ := r.sum(); n.last != nil {
		return n.last
	}
	return errNothing
}

// Progress is how far a measurement is.
type Progress struct {
	Elapsed        time.Duration
	TakesPerSecond float64       // in the last second
	P99            time.Duration // so far
	Denied, Errors int64         // takes, so far
}

// watch calls f every second until stop returns.
func (r *recorder) watch(f func(Progress)) (stop func()) {
	if f == nil {
		return func() {}
	}
	end := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		start := time.Now()
		last, before := start, int64(0)
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			n, latency := r.sum()
			now := time.Now()
			f(Progress{
				Elapsed:        now.Sub(start),
				TakesPerSecond: float64(n.decided()-before) / now.Sub(last).Seconds(),
				P99:            time.Duration(latency.ValueAtPercentile(99)) * time.Microsecond,
				Denied:         n.denied, Errors: n.notApplied + n.unknown,
			})
			last, before = now, n.decided()
		}
	})
	return func() { close(end); watching.Wait() }
}
