package clustertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rlstore/rlstore/client"
)

// crowd starts n calls of f at once. The function that it returns waits for
// them, and fails the test with all their errors.
func crowd(t testing.TB, n int, f func(i int) error) (wait func()) {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	return func() {
		t.Helper()
		wg.Wait()
		report(t, errs)
	}
}

// report fails the test if any of errs is not nil.
func report(t testing.TB, errs []error) {
	t.Helper()
	n := 0
	for _, err := range errs {
		if err != nil {
			if n++; n <= 10 {
				t.Error(err)
			}
		}
	}
	if n > 0 {
		t.Fatalf("%d errors of %d", n, len(errs))
	}
}

// load is a steady stream of takes of one token through the Go client.
type load struct {
	h       *history
	answers atomic.Int64 // so far
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu   sync.Mutex // guards errs
	errs []error
}

// pace is how often each caller of a load asks.
const pace = 2 * time.Millisecond

// drive starts callers that take from keys in turn, until finish. A caller
// waits for each of its answers.
func drive(t testing.TB, cl *client.Client, h *history, policy string, keys []string, callers int) *load {
	ctx, stop := context.WithCancel(context.Background())
	l := &load{h: h, stop: stop}
	for i := range callers {
		l.wg.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for n := i; ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				called := h.now()
				// Not ctx: what is under way when the load ends is to finish.
				d, err := cl.Take(context.Background(), policy, keys[n%len(keys)], 1)
				if err != nil {
					l.mu.Lock()
					l.errs = append(l.errs, fmt.Errorf("take of %s after %v: %w", keys[n%len(keys)], h.now()-called, err))
					l.mu.Unlock()
					continue
				}
				h.taken(called, &d)
				l.answers.Add(1)
			}
		})
	}
	t.Cleanup(func() { stop(); l.wg.Wait() })
	return l
}

// flows waits until n more answers have come, so that whatever happens next
// happens to a load that runs.
func (l *load) flows(t testing.TB, n int64) {
	t.Helper()
	from := l.answers.Load()
	eventually(t, "the load makes progress", func() error {
		if l.answers.Load() < from+n {
			return errNotYet
		}
		return nil
	})
}

// finish ends the load and fails the test if any take failed.
func (l *load) finish(t testing.TB) {
	t.Helper()
	l.stop()
	l.wg.Wait()
	t.Logf("%d takes answered, %d failed", l.answers.Load(), len(l.errs))
	report(t, l.errs)
	if l.answers.Load() == 0 {
		t.Fatal(errors.New("the load got no answer at all"))
	}
}
