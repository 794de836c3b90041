package limiter

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/lease"
	"github.com/rlstore/rlstore/policy"
)

// What this node spends from memory, for callers that have no session: those of
// HTTP, who hold nothing themselves. The Go client holds its own leases.

// spendRounds is how often a take waits for a lease. Then others were faster each
// time, and the store decides.
const spendRounds = 3

// spender holds this node's leases and soft buckets.
type spender struct {
	l     *Limiter
	table *lease.Table

	life context.Context // of what goes on beside the callers
	end  context.CancelFunc

	mu       sync.Mutex // guards the next two
	carriers map[uint32]*carrier
	stop     func() // of what calls Tick
}

func newSpender(l *Limiter) *spender {
	s := &spender{l: l, carriers: map[uint32]*carrier{}, stop: func() {}}
	s.life, s.end = context.WithCancel(context.Background())
	s.table = lease.NewTable(lease.Config{
		Send: s.send, Wake: s.wake, Random: randomBits, Instance: randomBits(), Note: noteTold,
	})
	return s
}

// wake is [lease.Config.Wake].
func (s *spender) wake(at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.stop = s.l.clock.AfterFunc(time.Duration(max(0, at-s.l.now())), func() { s.table.Tick(s.l.now()) })
}

// rest undoes the last wake, if it is not too late.
func (s *spender) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

// randomBits are such that nobody can guess the id of a lease: whoever has it can
// settle it.
func randomBits() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// GiveBack ends all leases and charges what was spent and not charged yet. From
// then on every take is the log's. It returns when all is done, or when ctx ends:
// then what is left expires. After it, no goroutine of the limiter stays for long.
func (l *Limiter) GiveBack(ctx context.Context) {
	s := l.spender
	s.table.Close(l.now())
	s.rest()
	for s.carrying() && pause(ctx, firstWait) {
	}
	s.end()
}

// Abandon ends at once what goes on beside the callers, for a node that has failed:
// nothing is given back, and what was spent and not charged yet never is.
func (l *Limiter) Abandon() {
	s := l.spender
	s.end()
	s.table.Close(l.now())
	s.rest()
}

// carrying tells whether something is on its way to the store.
func (s *spender) carrying() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.carriers { // order-free: whether there is one
		if c.running {
			return true
		}
	}
	return false
}

// entry returns the entry of a key, and makes one if it can; else nil.
func (s *spender) entry(now int64, set *policy.Set, key string) (e *lease.Entry, made bool) {
	e = s.table.Get(set.Policy, key)
	switch {
	case e == nil:
		return s.table.Put(now, set.Policy, key, &set.SetInfo, nil), true
	case e.Mode() != set.Mode:
		e.Learn(now, &set.SetInfo, &api.Result{}) // so it ends, and makes room
		return nil, false
	}
	return e, false
}

// spend decides the takes that are marked local from memory, and takes the mark
// off those that are the log's to decide. It waits for leases, if need be.
func (l *Limiter) spend(ctx context.Context, pl *plan, sets []*policy.Set) {
	var waiting []waiter
	now := l.now()
	rest := pl.batch.Ops
	for i := range pl.items {
		op, r, err := api.DecodeOp(rest)
		if err != nil {
			return // plan has read it before
		}
		rest = r
		it := &pl.items[i]
		if !it.local {
			continue
		}
		set := it.set
		if set == nil {
			set = sets[op.Policy]
		}
		e, made := l.spender.entry(now, set, op.Key)
		if e == nil || made && set.Mode == api.Leased {
			it.local = false // the first is cheaper without a lease, and may be the last
			continue
		}
		out := e.Take(now, op.Cost)
		if out.Verdict == lease.Wait {
			waiting = append(waiting, waiter{it, e, op.Cost, out.Wait})
			continue
		}
		pl.decided(it, out)
	}
	if len(waiting) > 0 {
		l.awaitLeases(ctx, pl, waiting)
	}
}

// waiter is a take that waits for a lease.
type waiter struct {
	it   *item
	e    *lease.Entry
	cost int64
	ask  *lease.Ask
}

// awaitLeases waits with all takes together: their leases are asked for at once.
func (l *Limiter) awaitLeases(ctx context.Context, pl *plan, waiting []waiter) {
	patience := l.rulePatience(ctx)
	in, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for range spendRounds {
		again := waiting[:0]
		for _, w := range waiting {
			b := &l.shards.of(w.it.shard).breaker
			if b.Open() {
				w.it.local = false
				continue
			}
			select {
			case <-w.ask.Done():
			case <-in.Done():
				w.it.local = false
				if ctx.Err() == nil && patience >= leastPatience {
					b.Failure(l.now())
				}
				continue
			}
			if w.ask.Err() != nil {
				w.it.local = false
				continue
			}
			out := w.e.Take(l.now(), w.cost)
			if w.ask = out.Wait; out.Verdict == lease.Wait {
				again = append(again, w)
				continue
			}
			pl.decided(w.it, out)
		}
		if waiting = again; len(waiting) == 0 {
			return
		}
	}
	for _, w := range waiting {
		w.it.local = false
	}
}

// decided notes what came of a take that is marked local.
func (pl *plan) decided(it *item, out lease.Outcome) {
	switch out.Verdict {
	case lease.Allowed, lease.Denied:
		it.at = uint16(len(pl.spent))
		pl.spent = append(pl.spent, out)
	default:
		it.local = false
	}
}

// learn tells the entries of keys what the store answered.
func (l *Limiter) learn(b *api.Batch, sets []*policy.Set, reply []byte) {
	r, err := api.DecodeReply(reply)
	if err != nil || r.Replayed {
		return
	}
	now := l.now()
	var res api.Result
	rest := b.Ops
	for range b.N {
		if ok, err := r.Next(&res); err != nil || !ok {
			return
		}
		var op api.Op
		if op, rest, err = api.DecodeOp(rest); err != nil {
			return
		}
		if res.Status.Bare() || res.Duplicate || op.Kind.OnHold() {
			continue
		}
		told := &r.Sets[res.Set]
		if e := l.spender.table.Get(told.Policy, op.Key); e != nil {
			e.Learn(now, told, &res)
		} else if sets[op.Policy].Unavailable == api.FailLocal {
			l.spender.table.Put(now, told.Policy, op.Key, told, &res)
		}
	}
}
