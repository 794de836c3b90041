package lease

import (
	"container/heap"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

var errLost = errors.New("lost")

const second = int64(time.Second)

// store is a model of the store, of one key and one token bucket, in exact
// numbers: a level is tokens times per.
type store struct {
	t           *testing.T
	set         api.SetInfo
	rate, per   int64
	burst       int64
	at, level   int64 // level may be below 0 of syncs
	index       uint64
	leases      map[api.HoldID]*modelLease
	byIndex     map[uint64]*modelLease
	charged     int64 // tokens of leases, ever
	spent       int64 // as holders said
	returned    int64
	expired     int64
	outstanding int64
	next        int64 // no lease expires before
	synced      int64 // tokens charged by syncs
	ops         int
}

// modelLease is a lease as the store knows it, and what was truly spent of it.
type modelLease struct {
	granted, expires int64
	over             bool // settled: nobody may spend of it any more
	admitted         int64
}

func newStore(t *testing.T, set api.SetInfo) *store {
	l := set.Limits[0]
	return &store{
		t: t, set: set, rate: l.Rate, per: l.Per, burst: l.Burst, level: l.Burst * l.Per,
		leases: map[api.HoldID]*modelLease{}, byIndex: map[uint64]*modelLease{},
	}
}

// advance brings the bucket to a later time: leases expire in their order, and
// what is outstanding counts against the burst.
func (s *store) advance(now int64) {
	for now >= s.next {
		var first api.HoldID
		s.next = math.MaxInt64
		for id, l := range s.leases {
			if l.expires < s.next || l.expires == s.next && slices.Compare(id[:], first[:]) < 0 {
				first, s.next = id, l.expires
			}
		}
		if now >= s.next {
			s.refill(s.next)
			s.outstanding -= s.leases[first].granted
			s.expired += s.leases[first].granted
			delete(s.leases, first)
		}
	}
	s.refill(now)
}

func (s *store) refill(now int64) {
	s.level = min(s.level+s.rate*(now-s.at), (s.burst-s.outstanding)*s.per)
	s.at = now
}

// do applies one operation and answers it.
func (s *store) do(now int64, op *api.Op) *api.Result {
	s.ops++
	s.index++
	s.advance(now)
	res := &api.Result{Commit: api.Commit{Index: s.index}}
	cost, have := op.Cost, s.level/s.per
	if s.level < 0 {
		have = 0
	}
	switch op.Kind {
	case api.Take:
		if res.Status = api.StatusDenied; have >= cost {
			res.Status = api.StatusAllowed
			s.level -= cost * s.per
			cost = 0
		}
	case api.Lease:
		cost = op.Hold.Need
		if res.Status = api.StatusDenied; have >= cost {
			granted := max(cost, min(op.Cost, have/int64(len(s.leases)+2)))
			l := &modelLease{granted: granted, expires: now + op.Hold.TTL*1_000_000}
			s.next = min(s.next, l.expires)
			s.leases[op.Hold.ID], s.byIndex[s.index] = l, l
			s.level -= granted * s.per
			s.charged += granted
			s.outstanding += granted
			res.Status, res.Hold = api.StatusLeased, &api.HoldOutcome{ID: op.Hold.ID, Granted: granted}
			cost = 0
		}
	case api.Settle:
		l := s.leases[op.Hold.ID]
		if l == nil {
			res.Status, res.Code = api.StatusError, api.NotFound
			return res
		}
		if op.Cost != l.admitted {
			s.t.Fatalf("a lease of %d is settled as %d spent, and %d were", l.granted, op.Cost, l.admitted)
		}
		delete(s.leases, op.Hold.ID)
		l.over = true
		s.outstanding -= l.granted
		s.spent += op.Cost
		s.returned += l.granted - op.Cost
		s.level = min(s.level+(l.granted-op.Cost)*s.per, (s.burst-s.outstanding)*s.per)
		res.Status, res.Hold = api.StatusSettled, &api.HoldOutcome{Committed: op.Cost, Refunded: l.granted - op.Cost}
		return res
	case api.Sync:
		res.Status = api.StatusState
		s.synced += cost
		s.level -= cost * s.per
		cost = 1
	}
	s.balance()
	res.Limits = []api.LimitValues{{
		Remaining: max(0, s.level/s.per), ResetAfter: s.until(s.burst),
	}}
	if cost > 0 {
		res.Limits[0].RetryAfter = s.until(cost)
		if op.Kind != api.Sync && cost > s.burst-s.outstanding {
			res.Limits[0].RetryAfter = uint64(second / 1000) // leases have to end first
		}
	}
	return res
}

// until is the microseconds until there are so many tokens, if no lease is in the
// way.
func (s *store) until(tokens int64) uint64 {
	ns := max(0, (tokens*s.per-s.level+s.rate-1)/s.rate)
	return uint64(ns+999) / 1000
}

// balance is what must hold at every step.
func (s *store) balance() {
	if s.charged != s.spent+s.returned+s.expired+s.outstanding {
		s.t.Fatalf("charged %d, spent %d, returned %d, expired %d, outstanding %d", s.charged, s.spent, s.returned, s.expired, s.outstanding)
	}
}

// meter measures by how much admissions exceed a token bucket, over any interval.
type meter struct {
	rate, per, burst int64
	at, level        int64
	excess, total    int64
}

func (m *meter) admit(now, cost int64) {
	if now < m.at {
		panic("admissions out of order")
	}
	m.level = min(m.level+m.rate*(now-m.at), m.burst*m.per)
	m.at = now
	m.level -= cost * m.per
	m.total += cost
	m.excess = max(m.excess, (-m.level+m.per-1)/m.per)
}

// world is virtual time: events in their order.
type world struct {
	rng    *rand.Rand
	now    int64
	events events
	n      int
	store  *store
	meter  meter
}

type event struct {
	at int64
	n  int
	do func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].n < q[j].n
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

func newWorld(t *testing.T, seed uint64, set api.SetInfo) *world {
	l := set.Limits[0]
	return &world{
		rng: rand.New(rand.NewPCG(seed, 1)), store: newStore(t, set),
		meter: meter{rate: l.Rate, per: l.Per, burst: l.Burst, level: l.Burst * l.Per},
	}
}

func (w *world) after(d int64, f func()) {
	w.n++
	heap.Push(&w.events, event{w.now + max(0, d), w.n, f})
}

// run lets time pass until nothing happens any more, or until end.
func (w *world) run(end int64) {
	for len(w.events) > 0 && w.events[0].at <= end {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = end
}

// peer is a process that spends.
type peer struct {
	w       *world
	table   *Table
	rate    int64 // its clock: parts per million of true time
	offset  int64
	delay   int64 // one way, at most
	lossy   bool  // some messages are lost
	cut     bool  // all are
	dead    bool
	late    bool // its first sync comes as late as it can
	wakes   int
	asks    int
	takes   int
	strict  int // takes that went to the store
	spent   int64
	waiting []*waiter
}

type waiter struct {
	cost  int64
	round int
	on    *Ask
}

func (w *world) peer() *peer {
	p := &peer{w: w, rate: 1_000_000, delay: 3_000_000, offset: 1}
	random := func() uint64 {
		if p.late {
			return math.MaxUint64 - math.MaxUint64%uint64(w.store.set.SyncInterval*1_000_000) - 1
		}
		return w.rng.Uint64()
	}
	p.table = NewTable(Config{
		Random: random, Instance: w.rng.Uint64(), Send: p.send,
		Wake: func(at int64) {
			p.wakes++
			n := p.wakes
			w.after((at-p.now())*1_000_000/p.rate+1, func() {
				if !p.dead && n == p.wakes {
					p.table.Tick(p.now())
				}
			})
		},
	})
	return p
}

// known makes the entry without asking the store.
func (p *peer) known() { p.table.Put(p.now(), "p", "k", &p.w.store.set, nil) }

// now is the peer's clock.
func (p *peer) now() int64 {
	return p.offset + p.w.now/1_000_000*p.rate + p.w.now%1_000_000*p.rate/1_000_000
}

func (p *peer) hop() int64 { return 1 + p.w.rng.Int64N(p.delay) }

func (p *peer) lost() bool { return p.cut || p.lossy && p.w.rng.IntN(10) == 0 }

// send carries an ask there and back, unless it is lost on either way; then it
// ends after a while.
func (p *peer) send(a *Ask) {
	p.asks++
	ended := false
	end := func(results []*api.Result) {
		if p.dead || ended {
			return
		}
		ended = true
		for i, r := range results {
			a.Result(i, &p.w.store.set, r)
		}
		a.End(p.now(), errLost)
		p.wake()
	}
	p.w.after(100_000_000, func() { end(nil) })
	if p.lost() {
		return
	}
	p.w.after(p.hop(), func() {
		var results []*api.Result
		for i := range a.Ops {
			results = append(results, p.w.store.do(p.w.now, &a.Ops[i]))
		}
		if !p.lost() {
			p.w.after(p.hop(), func() { end(results) })
		}
	})
}

// wake lets those go on who waited for an ask that has ended.
func (p *peer) wake() {
	was := p.waiting
	p.waiting = nil
	for _, w := range was {
		select {
		case <-w.on.Done():
			if w.on.Err() == nil {
				p.try(w)
			}
		default:
			p.waiting = append(p.waiting, w)
		}
	}
}

func (p *peer) take(cost int64) {
	p.takes++
	p.try(&waiter{cost: cost})
}

func (p *peer) try(w *waiter) {
	set := &p.w.store.set
	if e := p.table.Get("p", "k"); e != nil && w.round < 3 {
		switch out := e.Take(p.now(), w.cost); out.Verdict {
		case Allowed:
			p.admit(out, w.cost)
			return
		case Denied:
			return
		case Wait:
			w.round++
			w.on = out.Wait
			p.waiting = append(p.waiting, w)
			return
		}
	}
	p.strict++
	if p.lost() {
		return
	}
	op := &api.Op{Kind: api.Take, Key: "k", Cost: w.cost}
	p.w.after(p.hop(), func() {
		res := p.w.store.do(p.w.now, op)
		if res.Status == api.StatusAllowed {
			p.w.meter.admit(p.w.now, op.Cost)
		}
		p.w.after(p.hop(), func() {
			if p.dead {
				return
			}
			if e := p.table.Put(p.now(), "p", "k", set, res); e != nil {
				e.Learn(p.now(), set, res)
			}
		})
	})
}

// admit counts what was spent from memory.
func (p *peer) admit(out Outcome, cost int64) {
	w := p.w
	w.meter.admit(w.now, cost)
	p.spent += cost
	if w.store.set.Mode != api.Leased {
		return
	}
	l := w.store.byIndex[out.Told.Commit.Index]
	if l.admitted += cost; l.over || l.admitted > l.granted {
		w.store.t.Fatalf("spending from a lease of %d, of which %d are spent, and which is over: %v", l.granted, l.admitted, l.over)
	}
}

func leasedSet(rate, burst int64) api.SetInfo {
	return api.SetInfo{Policy: "p", Revision: 1, Mode: api.Leased, LeaseTTL: 2000,
		Limits: []api.LimitInfo{{Name: "l", Rate: rate, Per: second, Burst: burst}}}
}

// TestNothingIsSpentTwice: hundreds of holders of one bucket, with clocks that run
// apart, that crash, are cut off and lose messages. At every step of the store
// charged = spent + returned + expired + outstanding; each lease is settled by
// exactly what was spent of it, and then spent no more; and over no interval more
// passes than burst and rate allow.
func TestNothingIsSpentTwice(t *testing.T) {
	first := uint64(time.Now().UnixNano())
	for seed := first; seed < first+2; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			w := newWorld(t, seed, leasedSet(200+rng.Int64N(20_000), 100+rng.Int64N(5000)))
			var peers []*peer
			for range 200 {
				p := w.peer()
				p.rate += rng.Int64N(20_001) - 10_000 // a hundredth
				p.offset += rng.Int64N(1e15)
				p.delay = 1 + rng.Int64N(20_000_000)
				p.lossy = rng.IntN(3) == 0
				peers = append(peers, p)
				pause := 1 + rng.Int64N(second/2)
				var work func()
				work = func() {
					if p.dead || w.now > 8*second {
						return
					}
					for range 1 + rng.IntN(5) {
						p.take(1 + rng.Int64N(4))
					}
					switch rng.IntN(300) {
					case 0:
						p.dead = true
						return
					case 1:
						p.cut = true
						w.after(rng.Int64N(5*second), func() { p.cut = false })
					case 2: // idle for a while
						w.after(3*second, work)
						return
					}
					w.after(rng.Int64N(2*pause), work)
				}
				w.after(rng.Int64N(second), work)
			}
			w.run(8 * second)
			for _, p := range peers {
				if !p.dead {
					p.cut, p.lossy = false, false
					p.table.Close(p.now())
				}
			}
			w.run(16 * second)
			w.store.advance(w.now)
			w.store.balance()
			if w.store.outstanding != 0 {
				t.Errorf("%d tokens are outstanding in the end", w.store.outstanding)
			}
			if w.meter.excess > 0 {
				t.Errorf("%d tokens more than burst and rate allow", w.meter.excess)
			}
			if w.meter.total == 0 || w.store.returned == 0 || w.store.expired == 0 {
				t.Errorf("admitted %d, returned %d, expired %d: the test tests little", w.meter.total, w.store.returned, w.store.expired)
			}
			t.Logf("admitted %d of %d; leases: charged %d, spent %d, returned %d, expired %d", w.meter.total,
				w.store.burst+w.store.rate*8, w.store.charged, w.store.spent, w.store.returned, w.store.expired)
		})
	}
}
