package lease

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

const syncEvery = second

func softSet(rate, burst int64) api.SetInfo {
	return api.SetInfo{Policy: "p", Revision: 1, Mode: api.Soft,
		// An answer takes 100 ms at most, until it counts as lost.
		SyncInterval: (syncEvery - 100_000_000) / 1_000_000,
		Limits:       []api.LimitInfo{{Name: "l", Rate: rate, Per: second, Burst: burst}}}
}

// bound is by how much instances may exceed a limit.
func bound(instances, rate, burst int64) int64 {
	return (instances - 1) * (burst + 2*rate*syncEvery/second)
}

// TestSoftStaysWithinItsBound: instances that come and go as chance has it, with
// clocks that run apart, are never further beyond the limit than the bound says,
// and what they spend is charged to the last token.
func TestSoftStaysWithinItsBound(t *testing.T) {
	first := uint64(time.Now().UnixNano())
	for seed := first; seed < first+8; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			rate, burst, n := 1+rng.Int64N(500), 1+rng.Int64N(1000), 2+rng.Int64N(9)
			w := newWorld(t, seed, softSet(rate, burst))
			var peers []*peer
			for range n {
				p := w.peer()
				p.offset += rng.Int64N(1e15)
				p.delay = 1 + rng.Int64N(40_000_000)
				p.known()
				peers = append(peers, p)
				pause := 1 + rng.Int64N(second/20)
				var work func()
				work = func() {
					if w.now > 20*second {
						return
					}
					p.take(1 + rng.Int64N(3))
					d := rng.Int64N(2 * pause)
					if rng.IntN(100) == 0 {
						d = rng.Int64N(3 * second) // the others go on
					}
					w.after(d, work)
				}
				w.after(rng.Int64N(second), work)
			}
			w.run(21 * second)
			var spent int64
			for _, p := range peers {
				p.table.Close(p.now())
				spent += p.spent
			}
			w.run(22 * second)
			if w.meter.excess > bound(n, rate, burst) {
				t.Errorf("%d instances, rate %d, burst %d: %d beyond the limit, bound %d", n, rate, burst, w.meter.excess, bound(n, rate, burst))
			}
			if spent == 0 || w.store.synced != spent {
				t.Errorf("spent %d, charged %d", spent, w.store.synced)
			}
		})
	}
}

// TestTheSoftBoundIsReached: instances that conspire, each spending all that it can
// before it hears of the others, get most of the way to the bound. So the bound is
// no idle one.
func TestTheSoftBoundIsReached(t *testing.T) {
	const n, rate, burst = 10, 100, 200
	w := newWorld(t, 1, softSet(rate, burst))
	for range n {
		p := w.peer()
		p.late = true
		p.delay = 49_000_000
		p.known()
		var work func()
		work = func() {
			for e := p.table.Get("p", "k"); ; {
				out := e.Take(p.now(), 1)
				if out.Verdict != Allowed {
					break
				}
				p.admit(out, 1)
			}
			if w.now < 5*second {
				w.after(5_000_000, work)
			}
		}
		w.after(0, work)
	}
	w.run(6 * second)
	most := bound(n, rate, burst)
	t.Logf("%d beyond the limit; the bound is %d", w.meter.excess, most)
	if w.meter.excess > most || 10*w.meter.excess < 6*most {
		t.Errorf("%d beyond the limit; the bound is %d", w.meter.excess, most)
	}
}

// TestSoftGoesOnWithoutTheStore: and charges what it spent when the store is back.
func TestSoftGoesOnWithoutTheStore(t *testing.T) {
	w := newWorld(t, 1, softSet(10, 20))
	p := w.peer()
	p.known()
	p.cut = true
	var work func()
	work = func() {
		p.take(1)
		if w.now < 10*second {
			w.after(second/20, work)
		}
	}
	w.after(0, work)
	w.run(10 * second)
	if p.spent < 115 || p.spent > 121 || w.store.synced != 0 || p.strict != 0 {
		t.Fatalf("spent %d, charged %d, %d takes were for the store", p.spent, w.store.synced, p.strict)
	}
	p.cut = false
	w.run(13 * second)
	if w.store.synced != p.spent {
		t.Errorf("spent %d, charged %d", p.spent, w.store.synced)
	}
}

// TestDebtIsWaitedFor: who hears that the others have spent what was there passes
// nothing until the debt is paid.
func TestDebtIsWaitedFor(t *testing.T) {
	w := newWorld(t, 1, softSet(10, 20))
	p := w.peer()
	p.known()
	w.store.do(0, &api.Op{Kind: api.Sync, Key: "k", Cost: 70}) // of others: 50 below zero
	w.after(0, func() { p.take(1) })
	w.run(2 * second)
	for ; w.now < 10*second; w.run(w.now + second/10) {
		p.take(1)
		if p.spent > 1 {
			break
		}
	}
	if w.now < 5*second || w.now > 5*second+3*second/2 {
		t.Errorf("the debt of 5 seconds is paid after %v", time.Duration(w.now))
	}
}

// takeSteadily has a single instance, whose answers take so long, ask for a token every
// 0.3 ms, for 20 seconds.
func takeSteadily(t *testing.T, set api.SetInfo, delay int64) (*world, *peer) {
	w := newWorld(t, 1, set)
	p := w.peer()
	p.delay = delay
	p.known()
	var work func()
	work = func() {
		p.take(1)
		if w.now < 20*second {
			w.after(300_000, work)
		}
	}
	w.after(0, work)
	w.run(20 * second)
	return w, p
}

// TestSoftAloneFallsLittleShort: a single instance never passes more than the limit
// allows, and no less but for what flows in during one interval of syncs, here of a
// tenth of a second; however slow the answers are.
func TestSoftAloneFallsLittleShort(t *testing.T) {
	for _, delay := range []int64{1_000_000, 45_000_000} {
		w, p := takeSteadily(t, softSet(1000, 200), delay)
		if most := int64(20*1000 + 200); w.meter.excess > 0 || p.spent < most-120 {
			t.Errorf("with answers within %v %d pass of %d, %d too many", time.Duration(2*delay), p.spent, most, w.meter.excess)
		}
	}
}

// TestSoftAloneFallsShortOfWhatFillsFaster: a bucket that is full again after two of the
// shortest intervals loses what any other does, and one that fills faster much more.
func TestSoftAloneFallsShortOfWhatFillsFaster(t *testing.T) {
	for burst, least := range map[int64]int64{20: 20_000, 10: 18_000, 1: 8000} {
		w, p := takeSteadily(t, softSet(1000, burst), 1_000_000)
		if most := 20_000 + burst; w.meter.excess > 0 || p.spent < least {
			t.Errorf("with a burst of %d, %d pass of %d, and not %d at least; %d too many", burst, p.spent, most, least, w.meter.excess)
		}
	}
}

// TestAnIdleSoftBucketIsRemembered: who comes back after a while finds what he left,
// though the entry is made anew when there is none, as a node does.
func TestAnIdleSoftBucketIsRemembered(t *testing.T) {
	set := softSet(1, 20)
	set.Limits[0].Per = 10 * second // full again after 200
	w := newWorld(t, 1, set)
	p := w.peer()
	passed := 0
	for range 12 { // times that somebody comes, each for all that there is
		e := p.table.Put(p.now(), "p", "k", &set, nil)
		for e.Take(p.now(), 1).Verdict == Allowed {
			passed++
		}
		w.run(w.now + 15*second)
	}
	if passed < 20 || passed > 20+12*15/10 {
		t.Errorf("%d passed of a burst of 20 and 18 that flowed in", passed)
	}
	w.run(w.now + 230*second)
	if n := p.table.Len(); n != 0 {
		t.Errorf("%d entries of full buckets stay", n)
	}
}

// TestAnIdleSoftBucketRests: what is not full for an hour is not looked at each second of
// it; and who comes back is charged as soon as anybody.
func TestAnIdleSoftBucketRests(t *testing.T) {
	set := softSet(1, 20)
	set.Limits[0].Per = 180 * second // full again after an hour
	w := newWorld(t, 1, set)
	p := w.peer()
	e := p.table.Put(p.now(), "p", "k", &set, nil)
	for range 20 {
		if out := e.Take(p.now(), 1); out.Verdict != Allowed {
			t.Fatalf("it was %v", out.Verdict)
		}
	}
	w.run(w.now + 10*second)
	for range 5 {
		before, charged := p.wakes, w.store.synced
		w.run(w.now + 10*60*second)
		if n := p.wakes - before; n > 20 {
			t.Errorf("it was looked at %d times in ten minutes", n)
		}
		if out := e.Take(p.now(), 1); out.Verdict != Allowed {
			t.Fatalf("after ten minutes it was %v", out.Verdict)
		}
		w.run(w.now + syncEvery)
		if n := w.store.synced - charged; n != 1 {
			t.Errorf("%d were charged a second later", n)
		}
	}
	w.run(w.now + 2*3600*second)
	if n := p.table.Len(); n != 0 {
		t.Errorf("%d entries of full buckets stay", n)
	}
}
