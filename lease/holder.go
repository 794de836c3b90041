package lease

import "github.com/rlstore/rlstore/api"

// holder is what an entry of mode leased knows beyond its pot, which is the
// lease. Guarded by Entry.mu.
//
// A lease is asked for when somebody finds none that suffices, and then he waits
// for it; or ahead of that, when the pot runs low. The new one takes the place of
// the old, and what is left of the old is given back. A lease that suffices for
// somebody who finds too little goes out behind the giving back of the old, in
// one batch, so that the old does not stand in its way.
type holder struct {
	demand demand
	ended  []ending // to be told to the store
	seen   int64    // what was left in the pot when it was last looked at
}

// ending is a lease that is over here.
type ending struct {
	id      api.HoldID
	spent   int64
	expires int64 // in the store; from then on there is no need to tell
}

const (
	// shares is how many looks are made in a lease's life, and how many leases
	// are expected in it.
	shares = 4
	// drift is the part of a lease's life by which a holder ends it early: clocks
	// may run that much apart.
	drift = 64
	// lowShare is the part of a lease at which the next one is asked for.
	lowShare = 4
	// longestDenial bounds how late a refund, a reset or an edit is seen by those
	// who were denied.
	longestDenial = 1_000_000_000
)

// ttl is the life of a lease in nanoseconds.
func (e *Entry) ttl() int64 { return e.told.Set.LeaseTTL * 1_000_000 }

// horizon is the time for which a lease is to last.
func (e *Entry) horizon() int64 { return e.ttl() / shares }

// takeLeased decides what the front could not.
func (e *Entry) takeLeased(now, cost int64) Outcome {
	e.mu.Lock()
	defer e.unlock()
	if out, ok := e.front.take(now, cost); ok { // somebody was here before
		return out
	}
	if e.stale || cost > e.told.minBurst {
		return Outcome{}
	}
	e.usedAt = now
	e.count(now, cost)
	if e.asking == nil {
		if e.pot.Load() == nil && e.lease.demand.expect(now, e.horizon()) < 2*cost {
			return Outcome{} // a lease would hardly serve twice
		}
		e.close(now)
		e.ask(now, cost)
	}
	return Outcome{Verdict: Wait, Wait: e.asking}
}

// runsLow asks for the next lease, once a pot.
func (e *Entry) runsLow(now int64, p *pot) {
	if !p.asked.CompareAndSwap(false, true) {
		return
	}
	e.mu.Lock()
	defer e.unlock()
	if e.stale || e.asking != nil || e.pot.Load() != p {
		return
	}
	if d := e.denial.Load(); d != nil && now < d.until {
		return
	}
	e.usedAt = now
	e.count(now, 0)
	e.ask(now, 1)
}

// count measures the demand: what was spent since the last time, and what is
// wanted beyond. e.mu is held.
func (e *Entry) count(now, wanted int64) {
	if p := e.pot.Load(); p != nil {
		spent := p.spent()
		wanted += spent - p.counted
		p.counted = spent
	}
	e.lease.demand.add(now, e.horizon(), wanted)
}

// ask asks for a lease of need tokens at least, and tells what is over. e.mu is
// held, and nothing of the kind is on its way.
func (e *Entry) ask(now, need int64) {
	want := min(max(need, e.lease.demand.expect(now, e.horizon())), e.told.minBurst)
	a := e.newAsk(now, e.due(now))
	a.need = need
	a.Ops = append(a.Ops, api.Op{
		Kind: api.Lease, Key: e.key, Cost: want,
		Hold: &api.Hold{ID: e.t.newID(e.key), TTL: e.told.Set.LeaseTTL, Need: need},
	})
	a.main = len(a.Ops) - 1
	e.asking = a
	e.out = append(e.out, a)
}

// due are the endings that are to be told, and forgets those that are too late.
func (e *Entry) due(now int64) []ending {
	h := &e.lease
	var due []ending
	for _, d := range h.ended {
		if now < d.expires {
			due = append(due, d)
		}
	}
	h.ended = nil
	return due
}

// giveBack tells the store of what is over, if it is not told with something
// else. e.mu is held.
func (e *Entry) giveBack(now int64) {
	if due := e.due(now); len(due) > 0 {
		e.flying++
		e.out = append(e.out, e.newAsk(now, due))
	}
}

// close ends the lease that is there, if one is. e.mu is held.
func (e *Entry) close(now int64) {
	p := e.pot.Load()
	if p == nil || e.mode != api.Leased {
		return
	}
	e.count(now, 0)
	e.pot.Store(nil)
	spent := p.close()
	e.lease.demand.add(now, e.horizon(), spent-p.counted)
	e.lease.ended = append(e.lease.ended, ending{id: p.id, spent: spent, expires: p.made + 2*e.ttl()})
	e.t.stats.spent.Add(spent)
}

// leased takes in the answer to a. e.mu is held.
func (e *Entry) leased(now int64, a *Ask) {
	hold := a.Ops[a.main].Hold
	ttl := hold.TTL * 1_000_000
	until := a.made + ttl - ttl/drift
	failed := !a.known[a.main]
	usable := a.granted > 0 && now < until && !e.stale && keeps(a.told.Set) && a.told.Set.Mode == e.mode
	if !usable && (a.granted > 0 || failed) {
		// Nothing was spent of it, if there is one.
		e.lease.ended = append(e.lease.ended, ending{id: hold.ID, expires: a.made + 2*ttl})
	}
	switch {
	case failed: // a later ask tells of it
		return
	case a.refused || !keeps(a.told.Set) || a.told.Set.Mode != e.mode:
		e.end(now)
	case a.granted == 0:
		e.hear(now, a.told)
		e.refuse(now, a)
	default:
		e.hear(now, a.told)
	}
	if usable {
		e.close(now)
		v := a.told.Values[a.told.Binding]
		p := &pot{
			id: hold.ID, made: a.made, until: until, granted: a.granted, low: a.granted / lowShare,
			told: a.told, binding: a.told.Binding, beside: v.Remaining, resetAt: now + nanos(v.ResetAfter),
		}
		p.tokens.Store(a.granted)
		e.lease.seen = a.granted
		e.t.stats.granted.Add(a.granted)
		e.denial.Store(nil)
		e.pot.Store(p)
	}
	e.giveBack(now)
}

// refuse remembers a denial.
func (e *Entry) refuse(now int64, a *Ask) {
	v := a.told.Values[a.told.Binding]
	retry := max(1, nanos(v.RetryAfter))
	e.denial.Store(&denial{
		cost: a.need, told: a.told, binding: a.told.Binding, left: v.Remaining,
		perToken: perToken(&a.told.Set.Limits[a.told.Binding]),
		retryAt:  now + retry, until: now + min(retry, longestDenial),
		resetAt: now + nanos(v.ResetAfter),
	})
}

// lookLeased does what time brings about, and returns when to look again, or 0.
func (e *Entry) lookLeased(now int64) int64 {
	p := e.pot.Load()
	if p != nil {
		e.count(now, 0)
		if left := p.tokens.Load(); left != e.lease.seen {
			e.lease.seen, e.usedAt = left, now
		}
		idle := now-e.usedAt >= e.ttl()/2
		switch {
		case idle || now >= p.until:
			e.close(now)
		case now-p.made >= e.ttl()/2 && e.asking == nil && e.lease.demand.expect(now, e.horizon()) > 1:
			e.ask(now, 1)
		}
	} else if now-e.usedAt >= e.ttl()/2 && e.asking == nil && e.flying == 0 && len(e.lease.ended) == 0 {
		e.end(now)
		return 0
	}
	e.giveBack(now)
	return now + e.horizon()
}

// endLease gives everything back.
func (e *Entry) endLease(now int64) {
	e.close(now)
	e.denial.Store(nil)
	e.giveBack(now)
}
