package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/client"
)

// fakeStore answers after a while, in the virtual time of a synctest bubble.
type fakeStore struct {
	delay time.Duration
	// answer is what becomes of a take; nil allows it. now is since the first call.
	answer func(now time.Duration, key string) (allowed bool, err error)
	// stall is when a call that is made at now is answered at the earliest.
	stall func(now time.Duration) (until time.Duration)

	mu    sync.Mutex
	start time.Time
	calls int
	takes int
	keys  map[string]int
	cost  int64
}

func (s *fakeStore) note(keys int, key func(int) string, cost int64) (now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		s.keys, s.start = map[string]int{}, time.Now()
	}
	s.calls++
	s.takes += keys
	s.cost += cost * int64(keys)
	for i := range keys {
		s.keys[key(i)]++
	}
	return time.Since(s.start)
}

func (s *fakeStore) wait(now time.Duration) {
	time.Sleep(s.delay)
	if s.stall != nil {
		time.Sleep(s.stall(now) - now - s.delay) // none if that is negative
	}
}

func (s *fakeStore) decide(now time.Duration, key string) (client.Decision, error) {
	if s.answer == nil {
		return client.Decision{Allowed: true}, nil
	}
	allowed, err := s.answer(now, key)
	return client.Decision{Allowed: allowed}, err
}

func (s *fakeStore) Take(ctx context.Context, policy, key string, cost int64, _ ...client.TakeOption) (client.Decision, error) {
	now := s.note(1, func(int) string { return key }, cost)
	s.wait(now)
	return s.decide(now, key)
}

func (s *fakeStore) TakeBatch(ctx context.Context, requests []client.Request, _ ...client.BatchOption) ([]client.BatchResult, error) {
	now := s.note(len(requests), func(i int) string { return requests[i].Key }, requests[0].Cost)
	s.wait(now)
	out := make([]client.BatchResult, len(requests))
	for i, r := range requests {
		out[i].Decision, out[i].Err = s.decide(now, r.Key)
	}
	return out, nil
}

func aLoad() Config {
	return Config{Policy: "bench", Keys: 100, Distribution: Uniform, Concurrency: 4, Batch: 1, Cost: 1, Duration: 2 * time.Second, Seed: 1}
}

func run(t *testing.T, s Store, c Config) *Result {
	t.Helper()
	r, err := Run(t.Context(), s, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// about is x within a histogram's three digits.
func about(x, want float64) bool { return x >= want && x <= want*1.002 }

func TestClosedLoopIsAsFastAsTheAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{delay: 10 * time.Millisecond}
		r := run(t, s, aLoad())
		if r.Takes != 800 || r.TakesPerSecond != 400 || r.Allowed != 800 || r.DurationS != 2 {
			t.Errorf("4 callers of 10 ms a take for 2 s: %d takes, %v/s, %d allowed, %v s", r.Takes, r.TakesPerSecond, r.Allowed, r.DurationS)
		}
		if !about(r.Latency.P50, 10) || !about(r.Latency.Max, 10) {
			t.Errorf("latency of 10 ms is %+v", r.Latency)
		}
	})
}

// A stall costs a closed loop one call of each caller, and an open loop all that
// were due meanwhile: this is coordinated omission, and its absence.
func TestOpenLoopCountsFromTheIntendedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stall := func(now time.Duration) time.Duration {
			if now >= 500*time.Millisecond && now < 1500*time.Millisecond {
				return 1500 * time.Millisecond
			}
			return 0
		}
		c := aLoad()
		closed := run(t, &fakeStore{delay: time.Millisecond, stall: stall}, c)
		if closed.Latency.P99 > 2 {
			t.Errorf("p99 of the closed loop is %v ms; this test's stall is to hide from it", closed.Latency.P99)
		}
		c.Rate = 1000
		open := run(t, &fakeStore{delay: time.Millisecond, stall: stall}, c)
		// Due every millisecond; those within the stall wait for its end, up to
		// a second, and those behind them for 4 callers to work that off.
		if open.Latency.P99 < 900 || open.Latency.P50 < 1 || !about(open.Latency.Max, 1000) {
			t.Errorf("latency of the open loop over a stall of a second is %+v", open.Latency)
		}
		if open.Takes != 2000 || open.Unsent != 0 || open.TakesPerSecond < 999 {
			t.Errorf("%d of 2000 takes, %v/s, %d unsent", open.Takes, open.TakesPerSecond, open.Unsent)
		}
	})
}

func TestOpenLoopKeepsItsRate(t *testing.T) {
	for _, batch := range []int{1, 10} {
		synctest.Test(t, func(t *testing.T) {
			s := &fakeStore{delay: time.Millisecond}
			c := aLoad()
			c.Batch, c.Rate, c.Concurrency = batch, 100, 64
			r := run(t, s, c)
			if r.Takes != 200 || s.calls != 200/batch || r.TakesPerSecond != 100 || !about(r.Latency.Max, 1) {
				t.Errorf("batches of %d, 100/s for 2 s: %d takes in %d calls, %v/s, max %v ms", batch, r.Takes, s.calls, r.TakesPerSecond, r.Latency.Max)
			}
		})
	}
}

// What the callers never came to is told, not hidden.
func TestOpenLoopTellsWhatItCouldNotSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := aLoad()
		c.Rate = 1000
		r := run(t, &fakeStore{delay: 10 * time.Millisecond}, c) // 400/s at most
		if r.Takes+r.Unsent != 2000 || r.Takes != 800 {
			t.Errorf("%d takes and %d unsent of 2000", r.Takes, r.Unsent)
		}
		if r.Latency.P99 < 1000 {
			t.Errorf("p99 is %v ms, though the last takes were 1.2 s late", r.Latency.P99)
		}
	})
}

func TestWarmUpIsNotMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{delay: time.Millisecond, stall: func(now time.Duration) time.Duration {
			if now < 900*time.Millisecond {
				return now + 100*time.Millisecond
			}
			return 0
		}}
		c := aLoad()
		c.Warmup = time.Second
		r := run(t, s, c)
		if r.Takes != 8000 || !about(r.Latency.Max, 1) || r.WarmupS != 1 || r.DurationS != 2 {
			t.Errorf("%d takes, max %v ms, after %v s for %v s", r.Takes, r.Latency.Max, r.WarmupS, r.DurationS)
		}
	})
}

func TestOutcomesAreKeptApart(t *testing.T) {
	for _, batch := range []int{1, 10} {
		synctest.Test(t, func(t *testing.T) {
			s := &fakeStore{delay: 10 * time.Millisecond, answer: func(_ time.Duration, key string) (bool, error) {
				switch key[len(key)-1] {
				case '0':
					return false, nil
				case '1':
					return false, fmt.Errorf("%w: no leader", client.ErrUnavailable)
				case '2':
					return false, fmt.Errorf("%w: it took long", client.ErrOutcomeUnknown)
				}
				return true, nil
			}}
			c := aLoad()
			c.Batch, c.Cost = batch, 3
			r := run(t, s, c)
			last := map[byte]int64{}
			for key, n := range s.keys {
				last[key[len(key)-1]] += int64(n)
			}
			if r.Denied != last['0'] || r.NotApplied != last['1'] || r.Unknown != last['2'] {
				t.Errorf("batches of %d: %d denied, %d not applied, %d unknown; the store saw %v", batch, r.Denied, r.NotApplied, r.Unknown, last)
			}
			if r.Errors != r.NotApplied+r.Unknown || r.Takes != r.Allowed+r.Denied || r.Takes+r.Errors != int64(s.takes) {
				t.Errorf("batches of %d: the sums differ: %+v of %d takes", batch, r, s.takes)
			}
			if s.cost != 3*int64(s.takes) {
				t.Errorf("batches of %d: %d tokens asked for with %d takes of cost 3", batch, s.cost, s.takes)
			}
			if r.Denied == 0 || r.NotApplied == 0 || r.Unknown == 0 {
				t.Errorf("batches of %d: the store had no keys of a kind", batch)
			}
		})
	}
}

func TestARefusalEndsTheRun(t *testing.T) {
	for _, batch := range []int{1, 10} {
		synctest.Test(t, func(t *testing.T) {
			s := &fakeStore{answer: func(time.Duration, string) (bool, error) { return false, client.ErrCostExceedsBurst }, delay: time.Millisecond}
			c := aLoad()
			c.Batch, c.Warmup = batch, time.Second
			_, err := Run(t.Context(), s, c, nil)
			if !errors.Is(err, client.ErrCostExceedsBurst) || s.calls > c.Concurrency {
				t.Errorf("batches of %d: %v after %d calls", batch, err, s.calls)
			}
		})
	}
}

func TestNothingDecidedIsTheLastError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{answer: func(time.Duration, string) (bool, error) { return false, client.ErrUnavailable }, delay: time.Second}
		if _, err := Run(t.Context(), s, aLoad(), nil); !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("the error is %v", err)
		}
	})
}

// An end by the user awaits the calls under way: cut off, their outcome would be
// unknown.
func TestInterruptedRunTellsWhatItHas(t *testing.T) {
	for _, rate := range []int64{0, 40} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 550*time.Millisecond)
			defer cancel()
			s := &fakeStore{delay: 100 * time.Millisecond}
			c := aLoad()
			c.Rate = rate
			r, err := Run(ctx, s, c, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !r.Interrupted || r.Errors != 0 || r.Takes != int64(s.takes) || r.DurationS < 0.55 || r.DurationS > 0.65 || r.Unsent != 0 {
				t.Errorf("rate %d: %+v; the store had %d takes", rate, r, s.takes)
			}
		})
	}
}

func TestProgressEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Progress
		c := aLoad()
		c.Duration = 3500 * time.Millisecond
		if _, err := Run(t.Context(), &fakeStore{delay: 3 * time.Millisecond}, c, func(p Progress) { told = append(told, p) }); err != nil {
			t.Fatal(err)
		}
		if len(told) != 3 || told[2].Elapsed != 3*time.Second || told[2].TakesPerSecond < 1300 || told[2].TakesPerSecond > 1350 {
			t.Errorf("3.5 s at 1333 takes/s told %+v", told)
		}
	})
}

// The contract names these fields.
func TestResultAsJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, &fakeStore{delay: 10 * time.Millisecond}, aLoad())
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			TakesPerSecond *float64           `json:"takes_per_second"`
			Allowed        *int64             `json:"allowed"`
			Denied         *int64             `json:"denied"`
			Errors         *int64             `json:"errors"`
			Latency        map[string]float64 `json:"latency_ms"`
			Percentiles    []Percentile       `json:"percentiles"`
		}
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if got.TakesPerSecond == nil || *got.TakesPerSecond != 400 || got.Allowed == nil || *got.Allowed != 800 || got.Denied == nil || got.Errors == nil {
			t.Errorf("the counts in %s", text)
		}
		for _, field := range []string{"p50", "p99", "p999", "max"} {
			if !about(got.Latency[field], 10) {
				t.Errorf("latency_ms.%s is %v, not 10", field, got.Latency[field])
			}
		}
		if n := len(got.Percentiles); n == 0 || got.Percentiles[n-1].Count != 800 || got.Percentiles[n-1].Percentile != 100 {
			t.Errorf("the percentiles are %+v", got.Percentiles)
		}
		var hdr bytes.Buffer
		if err := r.WriteHDR(&hdr); err != nil {
			t.Fatal(err)
		}
		if text := hdr.String(); !strings.Contains(text, "1/(1-Percentile)") || !strings.Contains(text, "#[Mean    =       10.00") || !strings.Contains(text, "Total count    =          800]") {
			t.Errorf("HdrHistogram's text is\n%s", text)
		}
	})
}

func TestCheckNamesTheFlag(t *testing.T) {
	for want, spoil := range map[string]func(*Config){
		"keys is 0; ":         func(c *Config) { c.Keys = 0 },
		"distribution is ":    func(c *Config) { c.Distribution = "normal" },
		"concurrency is -1; ": func(c *Config) { c.Concurrency = -1 },
		"batch is 10001; ":    func(c *Config) { c.Batch = 10_001 },
		"rate is -5; ":        func(c *Config) { c.Rate = -5 },
		"warmup is -1s; ":     func(c *Config) { c.Warmup = -time.Second },
		"duration is 0s; ":    func(c *Config) { c.Duration = 0 },
		"cost is 0; ":         func(c *Config) { c.Cost = 0 },
	} {
		c := aLoad()
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		spoil(&c)
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q is said as %v", want, err)
		}
	}
}

func TestATakeOfTheGeneratorAllocatesNothing(t *testing.T) {
	p := &phase{Config: aLoad(), store: instant{}, record: newRecorder()}
	for _, kind := range []string{Uniform, Zipf, One} {
		s := newSpread(kind, 100)
		c := &caller{phase: p, names: makeKeys(100), pick: s.picker(1, 0), mine: p.record.part(0)}
		ctx, now := context.Background(), time.Now()
		if n := testing.AllocsPerRun(100, func() {
			if err := c.call(ctx, now); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a take", kind, n)
		}
	}
}

type instant struct{ Store }

func (instant) Take(context.Context, string, string, int64, ...client.TakeOption) (client.Decision, error) {
	return client.Decision{Allowed: true}, nil
}
