package lease

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// TestALocalBucketIsExact: it never admits more than burst and rate allow, and a
// saturated one, if it is not tiny, not much less.
func TestALocalBucketIsExact(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		rate, per, burst := 1+rng.Int64N(1000), 1+rng.Int64N(10*second), 1+rng.Int64N(1000)
		set := &api.SetInfo{Limits: []api.LimitInfo{{Rate: rate, Per: per, Burst: burst}}}
		table, _ := quiet(0)
		var f front
		b := newBucket(&f, table.freshTold(set), 1)
		m := meter{rate: rate, per: per, burst: burst, level: burst * per, at: 1}
		now, denied := int64(1), 0
		for range 5000 {
			now += rng.Int64N(2*per/rate + 1)
			cost := 1 + rng.Int64N(min(3, burst))
			out, ok := f.take(now, cost)
			if !ok {
				out = b.take(now, cost)
			}
			if out.Verdict == Allowed {
				m.admit(now, cost)
				continue
			}
			denied++
			// The same take passes after the wait that it is told.
			if rng.IntN(10) == 0 {
				now += out.RetryAfter
				if out, ok = f.take(now, cost); !ok {
					out = b.take(now, cost)
				}
				if out.Verdict != Allowed {
					t.Fatalf("rate %d per %d, burst %d: denied after the wait that a denial told: %+v", rate, per, burst, out)
				}
				m.admit(now, cost)
			}
		}
		if m.excess > 0 {
			t.Fatalf("rate %d per %d, burst %d: %d too many", rate, per, burst, m.excess)
		}
		if denied > 0 && burst > 50 && float64(m.total) < 0.9*float64(rate)*(float64(now)/float64(per)) {
			t.Errorf("rate %d per %d, burst %d: only %d passed", rate, per, burst, m.total)
		}
	}
}

// TestALocalWindow: it begins with the first take if the store has told of none,
// and else ends when the store says.
func TestALocalWindow(t *testing.T) {
	set := &api.SetInfo{Limits: []api.LimitInfo{{Algorithm: api.FixedWindow, Rate: 10, Per: second, Burst: 10}}}
	table, _ := quiet(0)
	var f front
	b := newBucket(&f, table.freshTold(set), 1)
	drain := func(now int64) (n int64) {
		for {
			out, ok := f.take(now, 1)
			if !ok {
				out = b.take(now, 1)
			}
			if out.Verdict != Allowed {
				return n
			}
			n++
		}
	}
	tell := func(now int64, v api.LimitValues) {
		told := table.freshTold(set)
		told.Values = []api.LimitValues{v}
		b.takeSpent(now)
		b.tell(now, now, told)
	}
	start := 5 * second
	for _, step := range []struct {
		at, want int64
		told     *api.LimitValues
	}{
		{at: start, want: 10},
		{at: start + second - 1, want: 0},
		{at: start + second, want: 10},
		{at: start + 5*second + second/2, want: 10},
		{at: start + 6*second, want: 10}, // its windows stay where they were
		// The store's window ends in 300 ms, and has 4 left.
		{at: start + 6*second + 1, told: &api.LimitValues{Remaining: 4, ResetAfter: 300_000}, want: 4},
		{at: start + 6*second + 300_000_000, want: 0},
		{at: start + 6*second + 300_000_001, want: 10},
		// It is in debt for a window and a half.
		{at: start + 10*second, told: &api.LimitValues{RetryAfter: 1_500_000, ResetAfter: 2_500_000}, want: 0},
		{at: start + 11*second + second/2, want: 1},
		{at: start + 12*second + second/2, want: 10},
	} {
		if step.told != nil {
			tell(step.at, *step.told)
		}
		if n := drain(step.at); n != step.want {
			t.Errorf("at %v: %d pass, want %d", time.Duration(step.at), n, step.want)
		}
	}
}

// TestWhatTheStoreTellsIsBelieved: of any state of a token bucket, debt too, the
// level that is read from an answer is never fuller, and lacks no more than a token
// and what flows in a microsecond.
func TestWhatTheStoreTellsIsBelieved(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		l := api.LimitInfo{Rate: 1 + rng.Int64N(1_000_000), Per: 1_000_000 + rng.Int64N(1000*second), Burst: 1 + rng.Int64N(1_000_000)}
		s := newStore(t, api.SetInfo{Limits: []api.LimitInfo{l}})
		s.level -= rng.Int64N(2*l.Burst+1)*l.Per + rng.Int64N(l.Per)
		full := s.level
		v := api.LimitValues{Remaining: max(0, s.level/s.per), RetryAfter: s.until(1), ResetAfter: s.until(l.Burst)}
		var got level
		got.told(&l, 1, v)
		units := got.tokens*l.Per + int64(got.frac)
		if units > full || full-units > l.Per+2000*l.Rate {
			t.Fatalf("%+v is told as %+v, and read as %d of %d", l, v, units, full)
		}
	}
}

func TestTheBreaker(t *testing.T) {
	var b Breaker
	if !b.Go(1) || b.Open() || b.Success() {
		t.Fatal("it is not closed at first")
	}
	if !b.Failure(1000) || !b.Open() || b.Since() != 1000 || b.Go(1001) {
		t.Fatal("a failure does not open it")
	}
	now, waits := int64(1000), []int64{}
	for range 8 {
		from := now
		for !b.Go(now) {
			now += second / 1000
		}
		if b.Go(now) || b.Go(now+second) {
			t.Fatal("two probes at a time")
		}
		waits = append(waits, now-from)
		if b.Failure(now) {
			t.Fatal("it opens twice")
		}
		at := b.probe
		b.Failure(now) // of a call that went out before
		if b.probe != at {
			t.Fatal("an old call puts the probe off")
		}
	}
	for i, w := range waits {
		if w < firstProbe/2 || w > lastProbe || i > 0 && w < waits[i-1] {
			t.Errorf("the waits are %v", waits)
		}
	}
	// A probe of which nothing is heard is not the last.
	for !b.Go(now) {
		now += second / 1000
	}
	if b.Go(now+lostProbe-1) || !b.Go(now+lostProbe) {
		t.Error("a lost probe is in the way")
	}
	if !b.Success() || b.Open() || !b.Go(now) || b.Success() {
		t.Error("a success does not close it")
	}
}
